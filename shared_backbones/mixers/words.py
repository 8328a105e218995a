"""Small words of sentences: a norm, a channel layer, a residual path and a product, inside a combination.

A block that its paper draws with one residual path around everything is one of them: ConvNeXt's is ``{mixer: serial,
inner: [{mixer: convolution, kernel: 7}, {mixer: norm}, {mixer: feed_forward}]}`` with ``channel: none``.

Shapes: B items, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import activation
from ..errors import BadRequest
from ..layout import Layout
from ..norms import ACROSS_TOKENS, normalise
from .base import Mixer
from .combine import Combined, Sentence, Serial
from .convolution import norm_of


class Normed(Mixer):
    """y = act(norm(x))."""

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N d)"

    def __init__(self, dim: int, norm: str = "layer", act: str = "none", causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.causal, self.act = frozenset(causal_axes), activation(act)
        self.norm = norm_of(norm, dim, self.causal)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.act(normalise(self.norm, layout.clean(x), layout))


class FeedForward(Combined):
    """y = channel(x): a channel layer as a part of a sentence.

    layer: its name, or a name and options, such as ``{channel: mlp, ratio: 4}``. It is not called ``channel``, so that
    a row of a preset can be ``{mixer: feed_forward, layer: conv, channel: none}``.
    """

    cost: ClassVar[str] = "O(N d^2)"

    def __init__(
        self,
        dim: int,
        layer: Sentence = "mlp",
        causal_axes: tuple[int, ...] = (),
        rank: int | None = None,
        ordered: bool = True,
    ) -> None:
        super().__init__()
        self.causal = frozenset(causal_axes)
        self.inner = channel_part(self, layer, dim, rank=rank, ordered=ordered, causal_axes=causal_axes)
        self.derive([self.inner])

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.inner(x, layout)


class Residual(Combined):
    """y = x + m(norm(x)): a residual path inside a sentence."""

    def __init__(
        self,
        dim: int,
        inner: Sentence = "attention",
        norm: str = "none",
        causal_axes: tuple[int, ...] = (),
        rank: int | None = None,
        ordered: bool = True,
        provides: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.causal = frozenset(causal_axes)
        self.norm = norm_of(norm, dim, self.causal)
        self.inner = self.part(inner, dim, rank=rank, ordered=ordered, causal_axes=causal_axes, provides=provides)
        seen = ACROSS_TOKENS & {norm}
        self.derive([self.inner], **({"causal_axes": frozenset()} if seen else {}))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        return x + self.inner(normalise(self.norm, x, layout), layout)

    def state_size(self, n: int) -> int:
        return self.inner.state_size(n)


class Product(Serial):
    """y = m_1(x) * m_2(x) * ...: one part gates the other, as a context gates a value.

    Where the parts come from sentences such as ``[pointwise, {mixer: serial, inner: [pointwise, convolution]}]`` this
    is the skeleton of gated convolutions; with an MLP-Mixer as the context it is the gate of "NiNformer" (Abdullah and
    Rashwan 2024).
    """

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return torch.stack([mixer(x, layout) for mixer in self.inner]).prod(0)


def channel_part(owner: Mixer, sentence: Sentence, dim: int, **asked: Any) -> Mixer:
    """A channel layer by name or by name and options. BadRequest says in which mixer it went wrong."""
    from ..channel import build_channel  # here: channel layers are built on mixers

    name = type(owner).__name__
    options = {"channel": sentence} if isinstance(sentence, str) else dict(sentence)
    if not isinstance(options.get("channel"), str):
        raise BadRequest(f"{name} takes a channel layer such as {{channel: mlp, ratio: 4}}, got {options}")
    try:
        return build_channel(options.pop("channel"), dim, **asked, **options)
    except BadRequest as error:
        raise BadRequest(f"inside {name}: {error}") from error


__all__ = ["FeedForward", "Normed", "Product", "Residual", "channel_part"]
