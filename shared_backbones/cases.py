"""Inputs for the laws: the ways in which a mixer may be asked to serve, and small random samples for each.

Shapes: B items, N tokens, C channels, k coordinates, E edges, F features of an edge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .errors import BadRequest, CambiumError, unknown
from .layout import Layout
from .mixers import MIXERS, build_mixer
from .mixers.base import Mixer

Axes = tuple[int, ...]


class LawError(CambiumError):
    """A mixer breaks a law of its contract: says which, where, and the numbers."""


# Sizes by rank: odd ones, single tokens, more than a block or a window, less than one.
SHAPES: dict[int, list[Axes]] = {1: [(1,), (2,), (63,)], 2: [(1, 1), (1, 5), (9, 7)], 3: [(1, 1, 1), (3, 5, 4)]}
FRAMES: dict[int, Axes] = {1: (17,), 2: (6, 8), 3: (4, 5, 3)}
EXTENTS: dict[int, list[Axes]] = {
    1: [(13,), (9,), (1,)],
    2: [(5, 7), (4, 3), (1, 1)],
    3: [(3, 4, 2), (2, 5, 3), (1, 1, 1)],
}
LONG: dict[int, Axes] = {1: (150,), 2: (9, 20), 3: (5, 3, 7)}
LARGE: dict[int, Axes] = {1: (512,), 2: (16, 32), 3: (8, 8, 8)}
# Traced for export, then called at: more than one block or window along every axis, as a trace takes 1 for fixed.
TRACED: dict[int, tuple[Axes, Axes]] = {
    1: ((20,), (33,)),
    2: ((9, 10), (13, 8)),
    3: ((8, 9, 10), (9, 12, 8)),
}


@dataclass(frozen=True)
class Case:
    """One request that a mixer's facts allow."""

    mixer: str | type[Mixer]
    rank: int
    ordered: bool = True
    causal: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        name = self.mixer if isinstance(self.mixer, str) else self.mixer.__name__
        where = f"rank {self.rank}" if self.ordered else "a set"
        causal = f", causal along {', '.join(map(str, self.causal))}" if self.causal else ""
        options = "".join(f", {k}={v!r}" for k, v in self.options.items())
        return f"{name} on {where}{causal}{options}"

    def build(self, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Mixer:
        """The mixer in evaluation mode, its weights drawn from ``seed``; the global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            mixer = build_mixer(
                self.mixer,
                dim,
                rank=self.rank,
                ordered=self.ordered,
                causal_axes=self.causal,
                provides=("positions", "edges"),
                **self.options,
            )
        return mixer.to(dtype).eval()

    @property
    def shapes(self) -> list[Axes]:
        return SHAPES[self.rank]

    @property
    def frame(self) -> Axes:
        """The lattice that a padded batch stands on."""
        return FRAMES[self.rank]

    @property
    def edge_features(self) -> int:
        """By convention the option ``edge_features`` says how wide ``Layout.edge_attr`` must be."""
        return int(self.options.get("edge_features", 0))


def cases(mixer: str | type[Mixer], **options: Any) -> list[Case]:
    """Every case that the facts of a mixer allow: each rank, each causal axis, and sets.

    Options may narrow what a class can do: then the cases that still build remain. ``causal_axes`` among them keeps
    the cases with just those axes. Raises BadRequest for an unknown name, or where no case is left.
    """
    if isinstance(mixer, str) and mixer not in MIXERS:
        raise unknown("mixer", mixer, MIXERS)
    cls = MIXERS[mixer] if isinstance(mixer, str) else mixer
    wanted = options.pop("causal_axes", None)
    found = []
    for rank in sorted(cls.ranks):
        choices = [(), *((axis,) for axis in sorted(cls.causal_axes) if axis < rank)]
        if wanted is not None:
            choices = [tuple(wanted)] if max(wanted, default=-1) < rank else []
        found += [Case(mixer, rank, True, causal, options) for causal in choices]
    if cls.sets and not wanted:
        found.append(Case(mixer, 1, False, (), options))
    return _that_build(found) if options else found


def _that_build(found: list[Case]) -> list[Case]:
    left, refused = [], []
    for case in found:
        try:
            case.build(16)
            left.append(case)
        except BadRequest as error:
            refused.append(f"{case}: {error}")
    if not left:
        raise BadRequest("no case builds:\n" + "\n".join(refused))
    return left


@dataclass(frozen=True)
class Sample:
    """One item at its true size."""

    x: Tensor  # (n, C)
    axes: Axes
    positions: Tensor  # (n, k), increasing along every axis, in uneven steps
    edges: Tensor  # (2, E) within the item
    edge_attr: Tensor | None  # (E, F)


def make_samples(case: Case, dim: int, seed: int, extents: Sequence[Axes] | None = None) -> list[Sample]:
    """Random items of the given true sizes, in float64."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for axes in EXTENTS[case.rank] if extents is None else extents:
        n = math.prod(axes)
        steps = [torch.cumsum(0.5 + torch.rand(size, generator=g, dtype=torch.float64), 0) for size in axes]
        grid = torch.stack([t.flatten() for t in torch.meshgrid(*steps, indexing="ij")], -1)
        edges = torch.randint(0, n, (2, 3 * n), generator=g)
        width = case.edge_features
        attr = torch.randn(3 * n, width, generator=g, dtype=torch.float64) if width else None
        x = torch.randn(n, dim, generator=g, dtype=torch.float64)
        found.append(Sample(x, axes, grid, edges, attr))
    return found


def collate(
    case: Case, samples: Sequence[Sample], axes: Axes, fill: float = 0.0, holes: bool = False, masked: bool = True
) -> tuple[Tensor, Layout]:
    """Items at the origin of a common lattice of ``axes``, ``fill`` at every masked token and its coordinates.

    ``holes`` masks every fourth token inside the items too. Masked batches also get edges that touch masked tokens.
    """
    n, width = math.prod(axes), samples[0].x.shape[1]
    places = torch.arange(n).reshape(axes)
    x = torch.full((len(samples), n, width), fill, dtype=torch.float64)
    positions = torch.full((len(samples), n, case.rank), fill, dtype=torch.float64)
    mask = torch.zeros(len(samples), n, dtype=torch.bool)
    edges, attrs = [], []
    for b, sample in enumerate(samples):
        at = places[tuple(slice(0, size) for size in sample.axes)].flatten()
        x[b, at], positions[b, at], mask[b, at] = sample.x, sample.positions, True
        edges.append(at[sample.edges] + b * n)
        if holes:
            gone = at[1::4]
            x[b, gone], positions[b, gone], mask[b, gone] = fill, fill, False
    if masked:
        junk = (~mask).flatten().nonzero()[:, 0]
        met = torch.randint(0, mask.numel(), junk.shape, generator=torch.Generator().manual_seed(0))
        edges += [torch.stack([junk, met]), torch.stack([met, junk])]
    if case.edge_features:
        attrs = [s.edge_attr for s in samples if s.edge_attr is not None]
        attrs.append(torch.full((sum(e.shape[1] for e in edges[len(samples) :]), case.edge_features), fill).double())
    layout = Layout(
        axes,
        case.ordered,
        mask if masked else None,
        positions,
        torch.cat(edges, 1),
        torch.cat(attrs) if attrs else None,
    )
    return x, layout


def whole(case: Case, dim: int, seed: int, axes: Axes | None = None, batch: int = 2) -> tuple[Tensor, Layout]:
    """A batch without padding."""
    axes = case.frame if axes is None else axes
    return collate(case, make_samples(case, dim, seed, [axes] * batch), axes, masked=False)


def padded(case: Case, dim: int, seed: int, fill: float, holes: bool = False) -> tuple[Tensor, Layout]:
    """A batch of items of three sizes on one lattice, with gaps inside where ``holes``."""
    return collate(case, make_samples(case, dim, seed), case.frame, fill, holes)


def single_precision(x: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
    """The same sample in float32."""

    def single(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.float()

    return x.float(), replace(layout, positions=single(layout.positions), edge_attr=single(layout.edge_attr))


def real_tokens(x: Tensor, layout: Layout) -> Tensor:
    """The mask, all True where there is none."""
    return torch.ones(x.shape[:2], dtype=torch.bool) if layout.mask is None else layout.mask
