"""Windows of node signals as batches, the closed-form forecast beside every model, and a simulator.

B windows, N nodes, L lags, T steps, K regressors. Everything is z-scored by the training part unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from domains.task import Batch

from .data.signals import Signals, assemble

PENALTIES = (1e-3, 1.0, 10.0, 100.0, 1000.0)
TERMS = (("own",), ("own", "near"), ("own", "all"), ("own", "near", "all"))


@dataclass(frozen=True)
class SignalWindows:
    """One example per target step. See :class:`domains.task.Items`."""

    values: Float[np.ndarray, "T N"]  # in the units of the file
    steps: Int[np.ndarray, "n"]  # targets
    lags: int

    def __len__(self) -> int:
        return len(self.steps)

    def batch(self, indices: Sequence[int]) -> Batch:
        """ "past" (B, N, L), the newest step last, and "target" (B, N), in the units of the file."""
        at = self.steps[np.asarray(indices, np.int64)]
        past = self.values[at[:, None] - np.arange(self.lags, 0, -1)].swapaxes(1, 2)
        return {"past": torch.from_numpy(past.copy()), "target": torch.from_numpy(self.values[at])}


def neighbour_mean(edges: Int[np.ndarray, "2 E"], nodes: int) -> Float[np.ndarray, "N N"]:
    """A with A x = the mean of x over the incoming neighbours of each node (0 where there is none)."""
    a = np.zeros((nodes, nodes))
    np.add.at(a, (edges[1], edges[0]), 1.0)
    return a / np.maximum(1.0, a.sum(1, keepdims=True))


def regressors(
    past: Float[np.ndarray, "B N L"], near: Float[np.ndarray, "N N"], terms: Sequence[str], order: int
) -> Float[np.ndarray, "B N K"]:
    """The newest ``order`` lags of the node itself, of the mean of its neighbours, of the mean of all."""
    newest = past[..., past.shape[-1] - order :]
    parts = {
        "own": lambda: newest,
        "near": lambda: np.einsum("ij,bjl->bil", near, newest),
        "all": lambda: np.broadcast_to(newest.mean(1, keepdims=True), newest.shape),
    }
    return np.concatenate([parts[term]() for term in terms], -1)


def pooled_ridge(x: Float[np.ndarray, "B N K"], y: Float[np.ndarray, "B N"], penalty: float) -> Float[np.ndarray, "K"]:
    """One map for all nodes in closed form."""
    rows, wanted = x.reshape(-1, x.shape[-1]), y.reshape(-1)
    return np.asarray(np.linalg.solve(rows.T @ rows + penalty * np.eye(rows.shape[1]), rows.T @ wanted))


@dataclass(frozen=True)
class ClosedForm:
    """A chosen closed form: what it reads, and its weights on (own, near, all) x L lags (zeros where it reads none)."""

    terms: tuple[str, ...]
    order: int
    penalty: float
    val_mse: float
    weight: Float[np.ndarray, "3 L"]


def choose(
    train: tuple[Float[np.ndarray, "B N L"], Float[np.ndarray, "B N"]],
    val: tuple[Float[np.ndarray, "V N L"], Float[np.ndarray, "V N"]],
    near: Float[np.ndarray, "N N"],
) -> ClosedForm:
    """Terms, order and penalty with the least validation error, fitted on the training windows alone."""
    lags, best = train[0].shape[-1], None
    for order in sorted({n for n in (1, 2, 4, 8, 12, lags) if n <= lags}):
        for terms in TERMS:
            x, v = regressors(train[0], near, terms, order), regressors(val[0], near, terms, order)
            for penalty in PENALTIES:
                w = pooled_ridge(x, train[1], penalty)
                error = float(((v @ w - val[1]) ** 2).mean())
                if best is None or error < best.val_mse:
                    weight = np.zeros((3, lags))
                    for part, term in zip(w.reshape(len(terms), order), terms, strict=True):
                        weight[("own", "near", "all").index(term), lags - order :] = part
                    best = ClosedForm(terms, order, penalty, error, weight)
    assert best is not None
    return best


def simulated(nodes: int = 12, steps: int = 240, seed: int = 0) -> Signals:
    """A ring with chords on which heat spreads from random sources: x' = a x + b A x + noise."""
    random = np.random.default_rng(seed)
    ring = np.stack([np.arange(nodes), (np.arange(nodes) + 1) % nodes], 1)
    chords = random.integers(0, nodes, (nodes // 2, 2))
    pairs = np.concatenate([ring, chords])
    both = np.concatenate([pairs, pairs[:, ::-1]])
    near = neighbour_mean(both[both[:, 0] != both[:, 1]].T, nodes)
    x, rows = np.zeros(nodes), []
    for _ in range(steps + 50):
        x = 0.3 * x + 0.55 * near @ x + random.normal(size=nodes)
        rows.append(10 + 3 * x)
    names = [f"station_{i:02d}" for i in range(nodes)]
    return assemble("simulated", names, np.round(rows[50:], 4), pairs, False, "simulated, free of rights")
