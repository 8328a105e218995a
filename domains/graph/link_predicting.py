"""New links of a whole graph, as a table, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int

from ..task import Fitted, Sink
from .batches import whole_inputs
from .data import Graph
from .encodings import encodings
from .link_model import LinkNet
from .pairs import Similarity, inputs_of, known_links, pair_table
from .predicting import known_levels
from .source import open_graph
from .tasks import held_to

if TYPE_CHECKING:
    from .link import Link

ALL_PAIRS = 3000  # nodes up to which every pair is a candidate; above it, pairs within two hops
PAIRS_AT_ONCE = 200_000


def new_links(task: Link, model: LinkNet, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
    """The ``top`` most likely new links of every node: links.csv with source, target and probability.

    The probability is that of a pair drawn half from links and half from pairs that are none, as in training.
    Raises BadInput where the graph does not match what the model was trained on.
    """
    graph = open_graph(source, task.config, "node", levels=known_levels(fitted))
    held_to(graph, fitted, source)
    model.eval()
    known, similarity = known_links(graph, pair_table(graph)[0]), Similarity.of(graph)
    rows, scored, device = [], 0, model.gate.device
    with torch.inference_mode():
        inputs = whole_inputs(graph, fitted, encodings(graph, task.config.encodings))
        h = model.embed({k: v.to(device) for k, v in inputs.items()})
        for pairs in _pieces(graph, similarity, known):
            scores = torch.from_numpy(inputs_of(similarity.scores(pairs)).astype(np.float32))[:, None].to(device)
            start, learnt = model.parts(h, torch.from_numpy(pairs)[:, None].to(device), scores)
            z = (start + model.gate * learnt)[:, 0].double().cpu().numpy()
            order = np.lexsort((pairs[:, 1], -z, pairs[:, 0]))
            first = np.r_[True, np.diff(pairs[order, 0]) > 0]
            place = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
            best = order[place < task.config.top]
            scored += len(pairs)
            table = {"source": pairs[best, 0], "target": pairs[best, 1], "probability": _share(z[best])}
            rows.append(pd.DataFrame(table))
    found = pd.concat(rows) if rows else pd.DataFrame({"source": [], "target": [], "probability": []})
    for end in ("source", "target"):
        found[end] = graph.names[found[end].to_numpy(np.int64)]
    with sink.file("links.csv") as path:
        found.to_csv(path, index=False, float_format="%.6g")
    return {
        "nodes": graph.nodes,
        "pairs_scored": scored,
        "candidates": "every pair" if graph.nodes <= ALL_PAIRS else "pairs within two hops",
        "links": len(found),
        "output": "links.csv",
    }


def _share(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def _pieces(graph: Graph, similarity: Similarity, known: Int[np.ndarray, "m"]) -> Any:
    """Candidate pairs, all of a source in one piece, known links left out."""
    n, adjacency = graph.nodes, similarity.adjacency
    step = max(1, PAIRS_AT_ONCE // n) if n <= ALL_PAIRS else 256
    for at in range(0, n, step):
        sources = np.arange(at, min(n, at + step))
        if n <= ALL_PAIRS:
            row, target = np.repeat(sources, n), np.tile(np.arange(n), len(sources))
        else:
            near = (adjacency[sources] @ adjacency).tocoo()
            row, target = sources[near.row], near.col
        keys = row.astype(np.int64) * n + target
        at_known = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        fresh = known[at_known] != keys
        if fresh.any():
            yield np.stack([row[fresh], target[fresh]], 1).astype(np.int64)
