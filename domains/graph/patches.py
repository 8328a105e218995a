"""Blocks of interactions with the past they may read, cut into temporal patches of equal numbers of interactions.

The past of a block is the last ``history`` interactions strictly before its first instant: nothing of the block, and
nothing of that instant, is in it. B blocks, n nodes that the past holds, M patches, Q queries, C candidates of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from ..task import Batch
from .data.events import Events

NODE_INPUTS = 3  # of a node in a patch: log counts as source and as target, log age of its newest interaction


@dataclass(frozen=True)
class PatchOptions:
    """How the past is cut."""

    history: int  # interactions
    patches: int
    scale: float  # of time


@dataclass(frozen=True)
class Block:
    """The past of one block, nodes numbered anew in ascending order."""

    nodes: Int[np.ndarray, "n"]
    inputs: Float[np.ndarray, "n M 3"]
    present: np.ndarray  # (n, M) bool: whether the node is in the patch
    arcs: Int[np.ndarray, "2 e"]  # tokens node * M + patch; both ways of each interaction, inside one patch
    attr: Float[np.ndarray, "e F"]  # log age, direction, features


def past_block(data: Events, instant: float, options: PatchOptions, features: Float[np.ndarray, "E K"]) -> Block:
    """The past of an instant."""
    end = int(np.searchsorted(data.time, instant, "left"))
    seen = np.arange(max(0, end - options.history), end)
    m = options.patches
    patch = m - 1 - (end - 1 - seen) * m // options.history
    source, target = data.source[seen], data.target[seen]
    nodes, local = np.unique(np.concatenate([source, target]), return_inverse=True)
    a, b = local[: len(seen)], local[len(seen) :]
    age = np.log1p((instant - data.time[seen]) / options.scale)
    counts = np.zeros((2, len(nodes), m))
    np.add.at(counts[0], (a, patch), 1)
    np.add.at(counts[1], (b, patch), 1)
    newest = np.full((len(nodes), m), np.inf)
    for end_ in (a, b):
        np.minimum.at(newest, (end_, patch), age)
    present = np.isfinite(newest)
    inputs = np.stack([np.log1p(counts[0]), np.log1p(counts[1]), np.where(present, newest, 0.0)], -1)
    forth = np.concatenate([age[:, None], np.zeros((len(seen), 1)), features[seen]], 1)
    back = np.concatenate([age[:, None], np.ones((len(seen), 1)), features[seen]], 1)
    tokens = a * m + patch, b * m + patch
    arcs = np.stack([np.concatenate(tokens), np.concatenate(tokens[::-1])])
    return Block(nodes, inputs, present, arcs.astype(np.int64), np.concatenate([forth, back]))


def joined(blocks: Sequence[Block], queries: Sequence[Int[np.ndarray, "_ c"]]) -> Batch:
    """Blocks side by side, padded to the most nodes.

    "inputs" (B, n, M, 3), "present" (B, n * M), "edges" (2, E) into the flattened tokens, "edge_attr" (E, F), and "at":
    for every query node its row among B * (n + 1) embeddings, the last of each block for nodes that its past lacks.
    """
    m = blocks[0].inputs.shape[1]
    n = max(1, *(len(block.nodes) for block in blocks))
    inputs = np.zeros((len(blocks), n, m, NODE_INPUTS), np.float32)
    present = np.zeros((len(blocks), n, m), bool)
    edges, attrs, rows = [], [], []
    for b, (block, asked) in enumerate(zip(blocks, queries, strict=True)):
        count = len(block.nodes)
        inputs[b, :count], present[b, :count] = block.inputs, block.present
        edges.append(block.arcs + b * n * m)
        attrs.append(block.attr)
        place = np.minimum(np.searchsorted(block.nodes, asked), max(0, count - 1))
        known = block.nodes[place] == asked if count else np.zeros(asked.shape, bool)
        rows.append(b * (n + 1) + np.where(known, place, n))
    return {
        "inputs": torch.from_numpy(inputs),
        "present": torch.from_numpy(present.reshape(len(blocks), -1)),
        "edges": torch.from_numpy(np.concatenate(edges, 1)),
        "edge_attr": torch.from_numpy(np.concatenate(attrs).astype(np.float32)),
        "at": torch.from_numpy(np.concatenate(rows)),
    }
