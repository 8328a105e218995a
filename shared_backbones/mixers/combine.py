"""Combinations: mixers made of mixers, each given by name and options, so that a paper is a sentence.

A sentence nests in YAML: ``{mixer: serial, inner: [{mixer: window, window: 7}, {mixer: over, axis: 0}]}``. What the
whole can do (ranks, sets, causal axes, needs) follows from its parts and is checked when it is built.

Shapes: B items, N tokens, C channels, R rows of n tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..blocks import pooled, spread
from ..errors import BadRequest
from ..layout import Layout
from .base import ALL_RANKS, Mixer, at_least

Sentence = Mapping[str, Any] | str  # {mixer: name, option: value ...}, or the name alone
Sentences = Sequence[Sentence] | Mapping[str, Any]  # a list; one sentence alone is refused in words, not by its type
_GIVEN = ("rank", "ordered", "causal_axes", "provides")


class Combined(Mixer):
    """What all combinations share: they build their parts and derive their facts from them.

    The facts of the class are the most that a combination can have; those of an instance are what its parts allow.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N^2 d + N d^2)"

    def part(
        self,
        sentence: Sentence,
        dim: int,
        *,
        rank: int | None,
        ordered: bool,
        causal_axes: Collection[int],
        provides: Collection[str] | None,
    ) -> Mixer:
        """One inner mixer, told what it will be asked for. BadRequest says in which combination it went wrong."""
        from . import build_mixer  # here: the registry imports this module

        owner = type(self).__name__.lower()
        options = {"mixer": sentence} if isinstance(sentence, str) else dict(sentence)
        if "mixer" not in options:
            raise BadRequest(f"every part of {owner!r} names its mixer, such as {{mixer: attention}}; got {options}")
        for key in _GIVEN:
            if key in options:
                raise BadRequest(f"{key} of a part of {owner!r} follows from the model and cannot be set")
        try:
            return build_mixer(
                options.pop("mixer"),
                dim,
                rank=rank,
                ordered=ordered,
                causal_axes=causal_axes,
                provides=provides,
                **options,
            )
        except BadRequest as error:
            raise BadRequest(f"inside {owner!r}: {error}") from error

    def derive(self, parts: Sequence[Mixer], **instead: Any) -> None:
        """Sets the facts of this instance: what all parts allow, but for those given ``instead``."""
        terms = dict.fromkeys(term for p in parts for term in p.cost.removeprefix("O(").removesuffix(")").split(" + "))
        derived = {
            "ranks": frozenset.intersection(*(p.ranks for p in parts)),
            "sets": all(p.sets for p in parts),
            "causal_axes": frozenset.intersection(*(p.causal_axes for p in parts)),
            "needs": frozenset.union(*(p.needs for p in parts)),
            "cost": f"O({' + '.join(terms)})",
            "exports_mask": all(p.exports_mask for p in parts),
            "rank": next((p.rank for p in parts if p.rank is not None), None),
        }
        for name, value in (derived | instead).items():
            setattr(self, name, value)


class Over(Combined):
    """The inner mixer along some axes of the lattice, for each place of the others alone.

    Axial attention is ``over`` 0 and ``over`` 1 in turn; time attention of a video (T, H, W) is ``over`` 0, its
    space attention ``over`` [1, 2]. A token sees nothing along the other axes, so it is causal along all of those.

    axis: the axis, or the axes in ascending order, that the inner mixer sees as its lattice.
    """

    def __init__(
        self,
        dim: int,
        axis: int | tuple[int, ...] = 0,
        inner: Sentence = "attention",
        causal_axes: tuple[int, ...] = (),
        rank: int | None = None,
        ordered: bool = True,
        provides: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.axes = (axis,) if isinstance(axis, int) else tuple(axis)
        if not self.axes or list(self.axes) != sorted(set(self.axes)) or self.axes[0] < 0:
            raise BadRequest(f"axis of 'over' must be axes of the lattice in ascending order, got {axis}")
        if rank is not None and self.axes[-1] >= rank:
            raise BadRequest(f"axis of 'over' must lie in 0 .. {rank - 1} on a lattice of rank {rank}, got {axis}")
        self.causal = frozenset(causal_axes)
        self.inner = self.part(
            inner,
            dim,
            rank=len(self.axes),
            ordered=ordered,
            causal_axes=[i for i, a in enumerate(self.axes) if a in self.causal],
            provides=None if provides is None else set(provides) - {"edges"},
        )
        if "edges" in self.inner.needs:
            raise BadRequest("a part of 'over' sees one row at a time, and edges do not carry over to rows")
        blind = frozenset({0, 1, 2}) - frozenset(self.axes)
        self.derive(
            [self.inner],
            ranks=frozenset(r for r in ALL_RANKS if r > self.axes[-1]),
            rank=None,
            causal_axes=blind | {a for i, a in enumerate(self.axes) if i in self.inner.causal_axes},
        )

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        view = layout.over(*self.axes)
        return view.merge(self.inner(view.split(x), view.layout))

    def state_size(self, n: int) -> int:
        """Numbers kept per row after n tokens of it."""
        return self.inner.state_size(n)


class Several(Combined):
    """The base of mixers that hold a list of others, each with a state of its own."""

    inner: nn.ModuleList

    def state_size(self, n: int) -> int:
        return sum(mixer.state_size(n) for mixer in self.inner)  # type: ignore[operator]


class Serial(Several):
    """y = m_k(... m_2(m_1(x))): each part reads what the one before wrote, without a residual path between.

    For parts with residual paths of their own, write layers in a row, the first ones with ``channel: none``.
    """

    def __init__(
        self,
        dim: int,
        inner: Sentences = ("attention", "attention"),
        causal_axes: tuple[int, ...] = (),
        rank: int | None = None,
        ordered: bool = True,
        provides: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.causal = frozenset(causal_axes)
        asked: dict[str, Any] = {"rank": rank, "ordered": ordered, "causal_axes": causal_axes, "provides": provides}
        self.inner = nn.ModuleList(self.part(sentence, dim, **asked) for sentence in several(self, inner))
        self.derive(list(self.inner))  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        for mixer in self.inner:
            x = mixer(x, layout)
        return x


class Parallel(Serial):
    """y = sum_i m_i(x): the parts read the same tokens, as message passing beside attention in "Recipe for a
    General, Powerful, Scalable Graph Transformer" (Rampasek et al. 2022).
    """

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return torch.stack([mixer(x, layout) for mixer in self.inner]).sum(0)


class Dense(Several):
    """h_i = [x, g_1, ..., g_(i-1)] and g_i = a(W_i (h_i + m_i(norm h_i))), a leaky ReLU; y = scale W_k (h_k + ...).

    Each part reads all that was read and written before it, so that little is lost on the way: "DRCT: Saving Image
    Super-resolution away from Information Bottleneck" (Hsu et al. 2024). growth: channels that each part but the last
    adds; a part's own width grows by so many from one to the next. None: a quarter of the channels, at least one.
    """

    def __init__(
        self,
        dim: int,
        inner: Sentences = ("attention", "attention"),
        growth: int | None = None,
        scale: float = 0.2,
        causal_axes: tuple[int, ...] = (),
        rank: int | None = None,
        ordered: bool = True,
        provides: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.causal, self.scale = frozenset(causal_axes), scale
        more = at_least("growth", max(1, dim // 4) if growth is None else growth, 1)
        parts = several(self, inner)
        at = [dim + i * more for i in range(len(parts))]
        asked: dict[str, Any] = {"rank": rank, "ordered": ordered, "causal_axes": causal_axes, "provides": provides}
        self.inner = nn.ModuleList(self.part(s, width, **asked) for s, width in zip(parts, at, strict=True))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in at)
        out = [*[more] * (len(parts) - 1), dim]
        self.adjust = nn.ModuleList(nn.Linear(a, b) for a, b in zip(at, out, strict=True))
        self.derive(list(self.inner))  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        h = layout.clean(x)
        for i, (norm, mixer, adjust) in enumerate(zip(self.norms, self.inner, self.adjust, strict=True)):
            new = adjust(h + mixer(norm(h), layout))
            if i + 1 < len(self.inner):
                h = torch.cat([h, F.leaky_relu(new, 0.2)], -1)
        return self.scale * new


class Split(Several):
    """y = concat_i m_i(x_i): each part mixes its own share of the channels.

    shares: relative widths of the parts, such as (1, 1, 2); None splits evenly. Each must come to whole channels.
    """

    def __init__(
        self,
        dim: int,
        inner: Sentences = ("attention", "attention"),
        shares: tuple[int, ...] | None = None,
        causal_axes: tuple[int, ...] = (),
        rank: int | None = None,
        ordered: bool = True,
        provides: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.causal = frozenset(causal_axes)
        parts = several(self, inner)
        self.widths = widths(dim, len(parts), shares)
        asked: dict[str, Any] = {"rank": rank, "ordered": ordered, "causal_axes": causal_axes, "provides": provides}
        self.inner = nn.ModuleList(self.part(s, width, **asked) for s, width in zip(parts, self.widths, strict=True))
        self.derive(list(self.inner))  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        pieces = x.split(self.widths, -1)
        return torch.cat([mixer(piece, layout) for mixer, piece in zip(self.inner, pieces, strict=True)], -1)


class Coarse(Combined):
    """The inner mixer on a coarser lattice: mean over blocks of factor^rank real tokens, mix, back to every token.

    The low-frequency path of "Inception Transformer" (Si et al. 2022). Blocks stand at fixed places of the lattice.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset()
    sets: ClassVar[bool] = False

    def __init__(
        self,
        dim: int,
        factor: int = 2,
        inner: Sentence = "attention",
        rank: int | None = None,
        provides: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.factor = at_least("factor", factor, 1)
        known = None if provides is None else set(provides) - {"edges"}
        self.inner = self.part(inner, dim, rank=rank, ordered=True, causal_axes=(), provides=known)
        if "edges" in self.inner.needs:
            raise BadRequest("a part of 'coarse' sees blocks of tokens, and edges do not carry over to blocks")
        self.derive([self.inner], sets=False, causal_axes=frozenset())

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        sizes = (self.factor,) * layout.rank
        coarse, blocks = pooled(x, layout, sizes)
        return layout.unfold(spread(blocks.fold(self.inner(coarse, blocks)), layout.axes, self.factor))


def several(owner: Mixer, inner: Sentences) -> list[Sentence]:
    """The parts of a combination; raises BadRequest unless they are a list with something in it."""
    if isinstance(inner, (str, Mapping)) or not inner:
        name = type(owner).__name__.lower()
        raise BadRequest(f"inner of {name!r} is a list of mixers, such as [{{mixer: attention}}]; got {inner!r}")
    return list(inner)


def widths(dim: int, parts: int, shares: Sequence[int] | None) -> list[int]:
    """Channels of each part; raises BadRequest where the shares do not come to whole numbers of channels."""
    shares = (1,) * parts if shares is None else tuple(shares)
    if len(shares) != parts or min(shares) < 1 or any(dim * share % sum(shares) for share in shares):
        raise BadRequest(
            f"shares must be {parts} positive whole numbers that cut {dim} channels into whole ones, got {shares}"
        )
    return [dim * share // sum(shares) for share in shares]
