"""Slots: tokens -> few representatives, mixed among themselves -> back to every token.

Shapes: B items, N tokens, C channels, H heads, D = C / H, S slots, G blocks of P places, L latents of a block.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..blocks import from_blocks, pooled, to_blocks
from ..errors import BadRequest
from ..layout import Layout, extents
from .attention import Attention
from .base import Mixer, State, at_least, heads_of
from .linear import Linear


def cells(x: Float[Tensor, "B N C"], layout: Layout, grid: int) -> tuple[Float[Tensor, "B S C"], Bool[Tensor, "B S"]]:
    """Means of the real tokens in each cell of a grid^rank grid over the true extent of each item, S = grid^rank.

    Cell c of an axis of extent n holds the places p with p * grid // n = c. Also says which cells hold any token.
    """
    mask = x.new_ones(x.shape[:2], dtype=torch.bool) if layout.mask is None else layout.mask
    sizes, home = extents(layout, mask), torch.zeros((), dtype=torch.long, device=x.device)
    for axis, n in enumerate(layout.axes):
        place = torch.arange(n, device=x.device) * grid // sizes[:, axis, None]  # (B, n)
        shape = [x.shape[0]] + [n if other == axis else 1 for other in range(layout.rank)]
        home = home * grid + place.clamp_max(grid - 1).reshape(shape)
    home = home.expand(x.shape[0], *layout.axes).reshape(x.shape[0], -1, 1)
    real = mask[..., None].to(x.dtype)
    count = x.new_zeros(x.shape[0], grid**layout.rank, 1).scatter_add(1, home, real)
    total = x.new_zeros(x.shape[0], grid**layout.rank, x.shape[2])
    total = total.scatter_add(1, home.expand(-1, -1, x.shape[2]), x * real)
    return total / count.clamp_min(1), count[..., 0] > 0


def hide(scores: Float[Tensor, "B *rest"], seen: Bool[Tensor, "B *rest"]) -> Float[Tensor, "B *rest"]:
    """Scores with a finite floor where nothing may be seen: rows without anything to see stay finite."""
    return scores.masked_fill(~seen, 0.5 * torch.finfo(scores.dtype).min)


class SemanticSlots(Mixer):
    """Z = softmax_tokens(A) X, A = s cos(S0, X); y = softmax_slots(A)^T attention(Z).

    S0 are the means of X over the cells of a regular grid. "Revisiting the Integration of Convolution and Attention for
    Vision Backbone" (Zhu et al. 2024), without its convolution: write ``parallel: [semantic_slots, separable]``.

    grid: slots per axis of the lattice.
    """

    cost: ClassVar[str] = "O(N d)"

    def __init__(self, dim: int, heads: int | None = None, grid: int = 4) -> None:
        super().__init__()
        self.grid = at_least("grid", grid, 1)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.mix = Attention(dim, heads)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        seeds, used = cells(x, layout, self.grid)
        scores = self.log_scale.exp() * (F.normalize(seeds, dim=-1) @ F.normalize(x, dim=-1).mT)  # (B, S, N)
        real = x.new_ones(x.shape[:2], dtype=torch.bool) if layout.mask is None else layout.mask
        slots = hide(scores, real[:, None].expand_as(scores)).softmax(-1).to(x.dtype) @ x
        mixed = self.mix(slots, Layout((seeds.shape[1],), ordered=False, mask=used))
        return hide(scores, used[..., None].expand_as(scores)).softmax(1).to(x.dtype).mT @ mixed


class Lookup(Mixer):
    """Z = cells(X) + softmax_tokens(A) X W_v; Z += attention(Z), Z += MLP(Z); y = softmax_slots(A)^T Z W_o.

    A are the scores of compressed tokens against all tokens, used for both ways. "LookupViT: Compressing visual
    information to a limited number of tokens" (Koner et al. 2024). Beside it a narrow channel layer, such as an ``mlp``
    of ratio 0.5, leaves the heavy work to the few.

    grid: compressed tokens per axis of the lattice; it may be changed after training. ratio: hidden width of their MLP.
    """

    cost: ClassVar[str] = "O(N d^2)"

    def __init__(self, dim: int, heads: int | None = None, grid: int = 4, ratio: float = 4.0) -> None:
        super().__init__()
        self.grid, self.heads, hidden = at_least("grid", grid, 1), heads_of(dim, heads), max(1, round(ratio * dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mix = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        slots, used = cells(x, layout, self.grid)
        parts = (self.q(self.norms[0](slots)), *self.kv(x).chunk(2, -1))
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in parts)
        scores = q @ k.mT * q.shape[-1] ** -0.5  # (B, H, S, N)
        mask = layout.key_mask()
        down = scores if mask is None else hide(scores, mask.expand_as(scores))
        slots = slots + rearrange(down.softmax(-1).to(x.dtype) @ v, "b h s d -> b s (h d)")
        slots = slots + self.mix(self.norms[1](slots), Layout((slots.shape[1],), ordered=False, mask=used))
        slots = slots + self.mlp(self.norms[2](slots))
        up = hide(scores, used[:, None, :, None].expand_as(scores)).softmax(2).to(x.dtype)
        v = rearrange(self.out(slots), "b s (h d) -> b h s d", h=self.heads)
        return rearrange(up.mT @ v, "b h n d -> b n (h d)")


class GroupedLatents(Mixer):
    """Blocks of ``window``^rank tokens write to L latents each, all latents attend to all, blocks read theirs back.

    z_g = z_0 + attention(z_0 <- x_g);  z += attention(z);  y_g = attention(x_g <- z_g). "FIT: Far-reaching Interleaved
    Transformers" (Chen and Li 2023). Its local layers are ``window`` layers between.
    """

    cost: ClassVar[str] = "O(N^2 d + N d^2)"

    def __init__(self, dim: int, heads: int | None = None, window: int = 4, latents: int = 2) -> None:
        super().__init__()
        self.window, self.latents = at_least("window", window, 1), at_least("latents", latents, 1)
        self.heads = heads_of(dim, heads)
        near, far = (4 * window + 8 * latents) * window, 2 * latents**2  # products per token, and per pair of tokens
        setattr(self, "cost", f"O({far} N^2 d + {near} N d^2)")  # noqa: B010 - of this instance, with its constants
        self.start = nn.Parameter(torch.randn(latents, dim) * 0.02)
        self.norm = nn.LayerNorm(dim)
        self.mix = Attention(dim, heads)
        self.write_q, self.write_kv, self.write_out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.read_q, self.read_kv, self.read_out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def attend(self, q: Tensor, kv: Tensor, seen: Bool[Tensor, "R 1 1 K"] | None) -> Float[Tensor, "R Q C"]:
        """Attention of q (R, Q, C) to keys and values (R, K, 2 C)."""
        q, k, v = (rearrange(t, "r n (h d) -> r h n d", h=self.heads) for t in (q, *kv.chunk(2, -1)))
        return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=seen), "r h n d -> r n (h d)")

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        sizes = (self.window,) * layout.rank
        real = x.new_ones(x.shape[:2], dtype=torch.bool) if layout.mask is None else layout.mask
        seen = to_blocks(layout.fold(real[..., None]), sizes)[..., 0]  # (B, G, P): places that pad are not real
        groups = to_blocks(layout.fold(layout.clean(x)), sizes)
        items, count = groups.shape[:2]
        tokens = groups.flatten(0, 1)
        z = self.start.to(x.dtype).expand(tokens.shape[0], -1, -1)
        z = z + self.write_out(
            self.attend(self.write_q(self.norm(z)), self.write_kv(tokens), seen.flatten(0, 1)[:, None, None])
        )
        z = z.reshape(items, count * self.latents, -1)
        used = seen.any(-1).repeat_interleave(self.latents, 1)
        z = z + self.mix(self.norm(z), Layout((z.shape[1],), ordered=False, mask=used))
        y = self.attend(self.read_q(tokens), self.read_kv(z.reshape(-1, self.latents, z.shape[-1])), None)
        y = self.read_out(y).reshape(items, count, -1, x.shape[2])
        return layout.unfold(from_blocks(y, layout.axes, sizes))


class SuperTokens(Mixer):
    """Tokens join the super tokens around them, those attend to all others, and every token reads its own back.

    S0 = means of blocks of ``window``^rank tokens; Q = softmax of X S0^T / sqrt(C) over the 3^rank blocks around;
    S = Q^T X, columns of Q normalised; y = Q attention(S). "Vision Transformer with Super Token Sampling" (Huang et al.
    2023), one round of sampling.
    """

    cost: ClassVar[str] = "O(N^2 d + N d^2)"

    def __init__(self, dim: int, heads: int | None = None, window: int = 4) -> None:
        super().__init__()
        self.window = at_least("window", window, 1)
        self.mix = Attention(dim, heads)

    @staticmethod
    def around(lattice: Tensor) -> Iterator[Tensor]:
        """The lattice (B, *axes, ...) of values ``rank`` axes wide, shifted to each of the 3^rank neighbours."""
        rank = lattice.ndim - 2
        wide = F.pad(lattice, [0, 0] + [1, 1] * rank)
        for offset in itertools.product(range(3), repeat=rank):
            part = wide
            for axis, start in enumerate(offset):
                part = part.narrow(1 + axis, start, lattice.shape[1 + axis])
            yield part.flatten(1, rank)

    @staticmethod
    def gather_back(parts: list[Float[Tensor, "B G C"]], axes: tuple[int, ...]) -> Float[Tensor, "B G C"]:
        """Adds what every block gives to each of its neighbours: the transpose of :meth:`around`."""
        rank, total = len(axes), None
        for part, offset in zip(parts, itertools.product(range(3), repeat=rank), strict=True):
            pads = [0, 0]
            for start in reversed(offset):
                pads += [start, 2 - start]
            grown = F.pad(part.reshape(part.shape[0], *axes, -1), pads)
            total = grown if total is None else total + grown
        assert total is not None
        for axis, n in enumerate(axes):
            total = total.narrow(1 + axis, 1, n)
        return total.reshape(total.shape[0], -1, total.shape[-1])

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        sizes = (self.window,) * layout.rank
        x = layout.clean(x)
        seeds, coarse = pooled(x, layout, sizes)
        here = seeds.new_ones(seeds.shape[:2]) if coarse.mask is None else coarse.mask.to(x.dtype)
        near = torch.stack(list(self.around(coarse.fold(seeds))), 2)  # (B, G, 3^r, C)
        exists = torch.stack(list(self.around(coarse.fold(here[..., None]))), 2)[:, :, None, :, 0] > 0
        tokens = to_blocks(layout.fold(x), sizes)  # (B, G, P, C)
        scores = tokens @ near.mT * x.shape[-1] ** -0.5
        join = hide(scores, exists.expand_as(scores)).softmax(-1).to(x.dtype)  # (B, G, P, 3^r)
        real = x.new_ones(x.shape[:2]) if layout.mask is None else layout.mask.to(x.dtype)
        given = join * to_blocks(layout.fold(real[..., None]), sizes)
        sums = self.gather_back(list((given.mT @ tokens).unbind(2)), coarse.axes)
        weight = self.gather_back(list(given.sum(2)[..., None].unbind(2)), coarse.axes)
        mixed = self.mix(sums / weight.clamp_min(1e-6), coarse)
        back = join @ torch.stack(list(self.around(coarse.fold(mixed))), 2)
        return layout.unfold(from_blocks(back, layout.axes, sizes))


class VirtualNode(Mixer):
    """y_i = W3 gelu(W2 mean_j gelu(W1 x_j)), the same for every token: all nodes through one that sees them all.

    "On the Connection Between MPNN and Graph Transformer" (Cai et al. 2023); on a graph write ``parallel: [message,
    virtual_node]``.
    """

    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N d^2)"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gather, self.update, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        sent = layout.clean(F.gelu(self.gather(layout.clean(x))))
        node = sent.sum(1, keepdim=True) / layout.counts(sent)
        return self.out(F.gelu(self.update(node))).expand(-1, x.shape[1], -1)


class Codebook(Linear):
    """softmax attention to S codes in place of N keys: y_i = sum_s e^(q_i c_s) V_s / sum_s e^(q_i c_s) n_s.

    Every key becomes its nearest code, V_s is the sum of the values and n_s the number of the tokens of code s: exact
    attention over quantised keys, at a cost linear in N, with a state of fixed size. "LongVQ: Long Sequence Modeling
    with Vector Quantization on Structured Memory" (Liu et al. 2024). q, k and codes have a root mean square of 1. The
    choice of a code passes its gradient on as a softmax would, which also trains the codes. LongVQ's structured memory
    is a state-space layer before it, its local part a ``window`` beside it.

    codes: S per head.
    """

    cost: ClassVar[str] = "O(N d^2)"
    eps: ClassVar[float] = 1e-12  # small beside e^-16, the least weight that a code can have at 64 channels a head

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        codes: int = 32,
        chunk: int = 64,
        causal_axes: tuple[int, ...] = (),
    ) -> None:
        super().__init__(dim, heads, chunk=chunk, causal_axes=causal_axes)
        self.codes = nn.Parameter(torch.randn(self.heads, at_least("codes", codes, 1), dim // self.heads))

    def project(
        self, x: Float[Tensor, "B N C"], layout: Layout
    ) -> tuple[Float[Tensor, "B H N S"], Float[Tensor, "B H N S"], Float[Tensor, "B H N E"]]:
        """e^(q c) per code (the largest is 1), the code of each key as zeros and a one, and v with a column of ones."""
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in self.qkv(layout.clean(x)).chunk(3, -1))
        q, k, codes = (F.rms_norm(t, t.shape[-1:], eps=1e-6) for t in (q, k, self.codes.to(q.dtype)))
        scores = q @ codes.mT * q.shape[-1] ** -0.5
        near = k @ codes.mT * q.shape[-1] ** -0.5
        soft = near.softmax(-1)
        hard = F.one_hot(near.argmax(-1), near.shape[-1]).to(soft.dtype)
        choice = hard + soft - soft.detach()
        if layout.mask is not None:
            choice = choice.masked_fill(~layout.mask[:, None, :, None], 0.0)
        return (scores - scores.amax(-1, keepdim=True)).exp(), choice, F.pad(v, (0, 1), value=1.0)

    def init_state(self, batch: int) -> State:
        if not self.causal:
            raise BadRequest("a state is carried along a causal axis only: build codebook with causal_axes=(0,)")
        return {"s": self.codes.new_zeros(batch, *self.codes.shape[:2], self.codes.shape[2] + 1)}

    def state_size(self, n: int) -> int:
        heads, codes, head = self.codes.shape
        return heads * codes * (head + 1) if self.causal else 0
