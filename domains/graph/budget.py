"""How much memory training on a graph will take, said before it starts.

Counted, not measured: what autograd keeps of each block, the features of a batch, weights with their optimiser state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared_backbones.backbone import Backbone
from shared_backbones.errors import BadRequest

_KEPT_PER_TOKEN = 14  # numbers per channel that a block keeps of a token: norms, mixer, residuals, channel layer
_KEPT_PER_ARC = 3  # numbers per channel that a block keeps of an arc: the message, before and after its gate
_STATE = 16  # bytes per weight: itself, its gradient, two moments


@dataclass(frozen=True)
class Budget:
    """Bytes, for one training step."""

    features: int  # of the whole graph, on disk or in memory
    arcs: int  # the neighbour lists
    step: int  # what one step holds at its peak, weights included
    batch_nodes: int
    batch_arcs: int

    @property
    def resident(self) -> int:
        """What must be in memory when the features are mapped from disk."""
        return self.arcs + self.step

    def __str__(self) -> str:
        return (
            f"memory: {_gib(self.step)} for a step on {self.batch_nodes} nodes and {self.batch_arcs} arcs, "
            f"{_gib(self.arcs)} for neighbour lists, {_gib(self.features)} of features"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def sampled_size(nodes: int, arcs: int, seeds: int, fanouts: Sequence[int]) -> tuple[int, int]:
    """(nodes, arcs) of a sampled batch at most: every neighbour new, and no more than the mean degree of each."""
    mean = arcs / max(1, nodes)
    front, total, edges = float(min(seeds, nodes)), float(min(seeds, nodes)), 0.0
    for fanout in fanouts:
        front *= mean if fanout < 0 else min(fanout, mean)
        edges += front
        total += front
    return int(min(total, nodes)), int(min(edges, arcs))


def budget(
    nodes: int,
    arcs: int,
    features: int,
    backbone: Backbone,
    *,
    seeds: int | None = None,
    fanouts: Sequence[int] = (),
) -> Budget:
    """Memory of training on the whole graph at once, or (with ``seeds``) on sampled neighbourhoods."""
    some, links = (nodes, arcs) if seeds is None else sampled_size(nodes, arcs, seeds, fanouts)
    weights = sum(p.numel() for p in backbone.parameters())
    kept = 0
    for stage in backbone.spec.stages:
        kept += len(stage.layers) * 4 * stage.dim * (_KEPT_PER_TOKEN * some + _KEPT_PER_ARC * links)
    step = _STATE * weights + kept + some * 4 * (features + 2 * backbone.dim_in) + 24 * links
    return Budget(4 * nodes * features, 8 * (2 * arcs + nodes), int(step), some, links)


def refuse_beyond(found: Budget, available: int) -> None:
    """Raises BadRequest where a step needs more than the bytes that there are."""
    if found.resident > available:
        raise BadRequest(
            f"training would need {_gib(found.resident)} of the {_gib(available)} of memory that are free ({found}). "
            "Train on sampled neighbourhoods, such as --set sample=[10,5], or with a narrower preset"
        )


def free_memory() -> int:
    """Bytes that this machine can still give."""
    import psutil

    return int(psutil.virtual_memory().available)
