"""Mixtures of experts: many MLPs, of which each token or each item uses few.

Shapes: B items, N tokens, C channels, T tokens in all, E experts, k experts of a token, H hidden channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from ..mixers.base import at_least
from .base import Channel, Router, hidden_of


class Bank(nn.Module):
    """E MLPs of one size, W2_e gelu(W1_e x)."""

    def __init__(self, dim: int, hidden: int, experts: int) -> None:
        super().__init__()

        def uniform(*shape: int) -> nn.Parameter:  # as nn.Linear starts
            return nn.Parameter(torch.empty(*shape).uniform_(-1, 1) * shape[-1] ** -0.5)

        self.up, self.down = uniform(experts, hidden, dim), uniform(experts, dim, hidden)
        self.up_bias, self.down_bias = (nn.Parameter(torch.zeros(experts, n)) for n in (hidden, dim))

    def dense(self, x: Float[Tensor, "T C"], weights: Float[Tensor, "T E"]) -> Float[Tensor, "T C"]:
        """Every expert on every token: for an exported graph, where the counts are not known."""
        hidden = F.gelu(torch.einsum("tc,ehc->teh", x, self.up) + self.up_bias)
        return ((torch.einsum("teh,ech->tec", hidden, self.down) + self.down_bias) * weights[..., None]).sum(1)

    def forward(
        self, x: Float[Tensor, "T C"], chosen: Int[Tensor, "T k"], weights: Float[Tensor, "T k"]
    ) -> Float[Tensor, "T C"]:
        """sum over the chosen experts of weight * MLP(x). Each expert sees its own tokens alone and drops none."""
        if torch.compiler.is_exporting():
            every = torch.zeros(x.shape[0], len(self.up), dtype=weights.dtype, device=x.device)
            return self.dense(x, every.scatter(1, chosen, weights))
        order = chosen.flatten().argsort(stable=True)
        token = order // chosen.shape[1]
        counts = torch.bincount(chosen.flatten(), minlength=len(self.up)).tolist()
        parts = zip(
            x.index_select(0, token).split(counts), self.up, self.up_bias, self.down, self.down_bias, strict=True
        )
        y = torch.cat([F.linear(F.gelu(F.linear(own, w1, b1)), w2, b2) for own, w1, b1, w2, b2 in parts])
        return torch.zeros_like(y[:1]).expand(x.shape[0], -1).index_add(
            0, token, y * weights.flatten()[order, None].to(y.dtype)
        )  # fmt: skip


def source_of(layout: Layout, sources: int, items: int, device: torch.device) -> Int[Tensor, "B"]:
    """The source of each item; raises BadRequest where there are several and the layout names none, or one beyond."""
    if layout.source is None:
        if sources > 1:
            raise BadRequest(f"a layer with experts for {sources} sources needs Layout.source, got None")
        return torch.zeros(items, dtype=torch.long, device=device)
    if not torch.compiler.is_exporting() and (layout.source.min() < 0 or layout.source.max() >= sources):
        raise BadRequest(f"Layout.source must lie in 0 .. {sources - 1}, got {sorted(set(layout.source.tolist()))}")
    return layout.source


class MixtureOfExperts(Channel):
    """y = sum over the k likeliest experts of p_e MLP_e(x), p = softmax(R_s x) over all experts, for each token.

    "Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer" (Shazeer et al. 2017). With
    several sources every task, domain or sensor s has a router of its own over the shared experts, as in "An Efficient
    General-Purpose Modular Vision Model via Multi-Task Heterogeneous Training" (Chen et al. 2023). No token is dropped,
    so an item's result does not hang on its batch. :func:`recorded_routing` collects what the losses
    :func:`load_balance` and :func:`source_information` need.
    """

    def __init__(self, dim: int, ratio: float = 4.0, experts: int = 4, chosen: int = 2, sources: int = 1) -> None:
        super().__init__()
        if not 1 <= chosen <= experts:
            raise BadRequest(f"chosen must lie in 1 .. experts, got chosen={chosen} and experts={experts}")
        self.chosen, self.experts, self.sources = chosen, experts, at_least("sources", sources, 1)
        self.router = Router(dim, experts * sources)
        self.bank = Bank(dim, hidden_of(dim, ratio), experts)

    def route(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N E"]:
        """Probabilities of the experts for each token."""
        source = source_of(layout, self.sources, x.shape[0], x.device)
        logits = self.router(x).unflatten(-1, (self.sources, self.experts))
        own = source[:, None, None, None].expand(-1, x.shape[1], 1, self.experts)
        return logits.gather(2, own)[:, :, 0].softmax(-1)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        weights, chosen = self.route(x, layout).flatten(0, 1).topk(self.chosen, dim=-1)
        return self.bank(x.flatten(0, 1), chosen, weights.to(x.dtype)).reshape(x.shape)


class Experts(Channel):
    """y = MLP_s(x): every task, domain or sensor has an MLP of its own, and all share the rest of the model.

    "Contrastive Learning and Mixture of Experts Enables Precise Vector Embeddings" (Hallee et al. 2024).
    :func:`from_mlp` starts every expert as a copy of a trained MLP.
    """

    def __init__(self, dim: int, ratio: float = 4.0, sources: int = 1) -> None:
        super().__init__()
        self.sources = at_least("sources", sources, 1)
        self.bank = Bank(dim, hidden_of(dim, ratio), sources)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        chosen = source_of(layout, self.sources, x.shape[0], x.device)[:, None].expand(-1, x.shape[1]).reshape(-1, 1)
        return self.bank(x.flatten(0, 1), chosen, torch.ones_like(chosen, dtype=x.dtype)).reshape(x.shape)


def from_mlp(up: nn.Linear, down: nn.Linear, sources: int) -> Experts:
    """Experts that all begin as one trained MLP, W2 gelu(W1 x)."""
    layer = Experts(up.in_features, up.out_features / up.in_features, sources)
    with torch.no_grad():
        for ours, theirs in (("up", up), ("down", down)):
            getattr(layer.bank, ours).copy_(theirs.weight)
            getattr(layer.bank, f"{ours}_bias").copy_(theirs.bias)
    return layer.to(up.weight)


@contextmanager
def recorded_routing(model: nn.Module) -> Iterator[list[Float[Tensor, "B N E"]]]:
    """Collects the probabilities of every mixture of experts during the forward passes inside the ``with`` block."""
    found: list[Tensor] = []
    layers = [m for m in model.modules() if isinstance(m, MixtureOfExperts)]

    def recording(plain: Callable[[Tensor, Layout], Tensor]) -> Callable[[Tensor, Layout], Tensor]:
        def route(x: Tensor, layout: Layout) -> Tensor:
            found.append(plain(x, layout))
            return found[-1]

        return route

    for layer in layers:
        layer.route = recording(layer.route)  # type: ignore[method-assign,assignment]
    try:
        yield found
    finally:
        for layer in layers:
            del layer.route  # the method of the class shows again


def load_balance(p: Float[Tensor, "B N E"], layout: Layout) -> Float[Tensor, ""]:
    """E * sum_e f_e P_e, with f_e the share of tokens whose likeliest expert is e, P_e the mean of p_e: 1 when even.

    "Switch Transformers" (Fedus et al. 2022). Masked tokens do not count.
    """
    real = p.new_ones(p.shape[:2]) if layout.mask is None else layout.mask.to(p.dtype)
    count = real.sum().clamp_min(1)
    first = F.one_hot(p.argmax(-1), p.shape[-1]).to(p.dtype)
    mean, share = ((t * real[..., None]).sum((0, 1)) / count for t in (p, first))
    return p.shape[-1] * (mean * share).sum()


def source_information(p: Float[Tensor, "B N E"], layout: Layout, sources: int) -> Float[Tensor, ""]:
    """Mutual information (nats) of source and expert, 0 to log min(sources, E): to be made large.

    It is large where the experts are used evenly and each source uses few of them: Chen et al. 2023.
    """
    source = source_of(layout, sources, p.shape[0], p.device)
    real = p.new_ones(p.shape[:2]) if layout.mask is None else layout.mask.to(p.dtype)
    joint = p.new_zeros(sources, p.shape[-1]).index_add(0, source, (p * real[..., None]).sum(1))
    joint = joint / joint.sum().clamp_min(1e-12)
    apart = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
    return torch.where(joint > 0, joint * (joint.clamp_min(1e-12) / apart.clamp_min(1e-24)).log(), 0.0).sum()


__all__ = ["Experts", "MixtureOfExperts", "from_mlp", "load_balance", "recorded_routing", "source_information"]
