"""A backbone on graphs that do not fit in one batch: on sampled neighbourhoods to train, layer by layer to predict.

Both are for mixers of message passing: a block then needs its nodes and those around them alone.
Shapes: N nodes, n nodes of a sample, S seeds, C channels, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from shared_backbones.backbone import Backbone
from shared_backbones.block import Block
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers import MIXERS
from shared_backbones.mixers.base import Mixer
from shared_backbones.mixers.combine import Parallel, Serial
from shared_backbones.norms import ACROSS_TOKENS, normalise

from .neighbours import Csr
from .sampling import Sampled, Sampler
from .store import rows_of

ROWS = 16_384  # nodes of a piece at most
ARCS = 400_000  # arcs of a piece at most, but for a node that has more alone
MOST_HOPS = 2  # of one block: more hops around a piece are soon the whole graph
_REACH: dict[str, Callable[[Any], int]] = {
    "identity": lambda mixer: 0,
    "pointwise": lambda mixer: 0,
    "message": lambda mixer: 1,
    "graph_sum": lambda mixer: 1,
    "graph_convolution": lambda mixer: 2,
    "hops": lambda mixer: int(mixer.hops),
    "propagate": lambda mixer: len(mixer.share),
    "initial_residual": lambda mixer: len(mixer.shares) + 1,
}
EdgeAttr = Callable[[Int64[np.ndarray, "m"]], Tensor]  # attributes of arcs by their numbers: (m,) -> (m, K)


def reach(mixer: Mixer) -> int | None:
    """From how many hops away arcs change a node's output; None where all nodes do.

    Where the degree of a neighbour counts, that is one hop more than the messages come from.
    """
    if type(mixer) is Parallel or type(mixer) is Serial:
        parts = [reach(part) for part in mixer.inner]  # type: ignore[arg-type]
        known = [part for part in parts if part is not None]
        return None if len(known) < len(parts) else (max if type(mixer) is Parallel else sum)(known)
    for name, hops in _REACH.items():
        if type(mixer) is MIXERS.get(name):
            return hops(mixer)
    return None


def blocks_of(backbone: Backbone) -> list[Block]:
    """All blocks in order. Raises BadRequest for a backbone of several widths."""
    if any(not isinstance(merge, nn.Identity) for merge in backbone.merges):
        raise BadRequest("a graph has no lattice to merge on: give a preset of one width")
    return [block for stage in backbone.stages for block in stage.blocks]  # type: ignore[union-attr]


def reaches(backbone: Backbone) -> list[int | None]:
    """The reach of every block."""
    return [reach(block.mix.inner) for block in blocks_of(backbone)]  # type: ignore[arg-type]


def is_local(backbone: Backbone) -> bool:
    """Whether every block reads a few hops at most, so that layer by layer is exact and cheap."""
    apart = not any(stage.norm in ACROSS_TOKENS for stage in backbone.spec.stages)
    return apart and all(r is not None and r <= MOST_HOPS for r in reaches(backbone))


def _channel(block: Block, x: Float[Tensor, "1 n C"]) -> Float[Tensor, "1 n C"]:
    """The second half of a block, which reads each token alone."""
    return x if block.channel is None else block.channel(x, Layout((x.shape[1],), ordered=False))


def sampled_tokens(
    backbone: Backbone, x: Float[Tensor, "n C"], sample: Sampled, edge_attr: Tensor | None = None
) -> Float[Tensor, "S C"]:
    """Tokens of the seeds after all blocks. Where all blocks read one hop, each leaves out what no seed feels anymore.

    With all neighbours drawn, over as many hops as the blocks reach in sum, a backbone of message passing gives what it
    gives on the whole graph.
    """
    blocks, hops = blocks_of(backbone), len(sample.num_sampled_edges)
    edges = torch.from_numpy(sample.edge_index).to(x.device)
    nodes_until = np.cumsum(sample.num_sampled_nodes)
    arcs_until = np.cumsum((0, *sample.num_sampled_edges))
    trims = all(r in (0, 1) for r in reaches(backbone))
    tokens = x[None]
    for i, block in enumerate(blocks):
        arcs = int(arcs_until[min(hops, len(blocks) - i)]) if trims else edges.shape[1]
        attr = None if edge_attr is None else edge_attr[:arcs]
        layout = Layout((tokens.shape[1],), ordered=False, edges=edges[:, :arcs], edge_attr=attr)
        tokens = block.mix(tokens, layout)
        if trims:
            tokens = tokens[:, : int(nodes_until[min(hops, len(blocks) - i - 1)])]
        tokens = _channel(block, tokens)
    seeds = tokens[:, : sample.batch_size]
    return normalise(backbone.norm, seeds, Layout((sample.batch_size,), ordered=False))[0]


def pieces_of(graph: Csr, rows: int = ROWS, arcs: int = ARCS) -> Iterator[Int64[np.ndarray, "m"]]:
    """All nodes in order, in pieces bounded in nodes and in arcs that point to them."""
    at = 0
    while at < graph.nodes:
        end = int(np.searchsorted(graph.start, graph.start[at] + arcs, "right")) - 1
        end = max(at + 1, min(end, at + rows, graph.nodes))
        yield np.arange(at, end)
        at = end


class _Table:
    """An (N, C) matrix of float32, in memory or, above a size, in a file of its own."""

    def __init__(self, rows: int, width: int, folder: Path | None, name: str) -> None:
        self.values: Float32[np.ndarray, "N C"]
        if folder is None:
            self.values = np.empty((rows, width), np.float32)
        else:
            self.values = np.lib.format.open_memmap(folder / name, "w+", np.float32, (rows, width))


@torch.no_grad()
def whole_graph(
    stem: Callable[[Int64[np.ndarray, "m"]], Float[Tensor, "m C"]],
    backbone: Backbone,
    head: Callable[[Float[Tensor, "m C"]], Float[Tensor, "m K"]],
    graph: Csr,
    *,
    edge_attr: EdgeAttr | None = None,
    rows: int = ROWS,
    arcs: int = ARCS,
    memory: int = 4 * 2**30,
    folder: Path | None = None,
    device: torch.device | str = "cpu",
) -> Float32[np.ndarray, "N K"]:
    """Outputs of all nodes from all their neighbours, one block at a time over all nodes, in bounded memory.

    stem: the first tokens of some nodes by their numbers; head: outputs from their last tokens.
    Two tables of N x C tokens are kept; where they exceed ``memory`` bytes they lie in files of ``folder`` (a
    temporary one by default). Raises BadRequest for a backbone that is not local.
    """
    if not is_local(backbone):
        raise BadRequest(
            "layer by layer only message passing is exact: this backbone has a mixer that reads all nodes. Predict "
            "without sample, or choose a preset of message passing alone"
        )
    was = backbone.training
    backbone.eval()
    count = graph.nodes
    on_disk = 2 * 4 * count * backbone.dim_in > memory
    with TemporaryDirectory(dir=folder) as aside:
        place = Path(aside) if on_disk else None
        now, then = (_Table(count, backbone.dim_in, place, f"{i}.npy").values for i in range(2))
        for piece in pieces_of(graph, rows, arcs):
            now[piece] = stem(piece).cpu().numpy()
        random = np.random.default_rng(0)  # nothing is drawn: all neighbours are taken
        for block, hops in zip(blocks_of(backbone), reaches(backbone), strict=True):
            sampler = Sampler(graph, [-1] * max(1, hops or 0))
            for piece in pieces_of(graph, rows, arcs):
                near = sampler.sample(piece, random)
                x = torch.from_numpy(rows_of(now, near.n_id)).to(device)[None]
                attr = None if edge_attr is None else edge_attr(near.e_id).to(device)
                edges = torch.from_numpy(near.edge_index).to(device)
                mixed = block.mix(x, Layout((x.shape[1],), ordered=False, edges=edges, edge_attr=attr))
                then[piece] = _channel(block, mixed[:, : len(piece)])[0].cpu().numpy()
            now, then = then, now
        found = []
        for piece in pieces_of(graph, rows, arcs):
            x = torch.from_numpy(rows_of(now, piece)).to(device)[None]
            tokens = normalise(backbone.norm, x, Layout((len(piece),), ordered=False))[0]
            found.append(head(tokens).float().cpu().numpy())
    backbone.train(was)
    return np.concatenate(found)
