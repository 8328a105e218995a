"""What a sceptic would try first on whole graphs: counts of features, and the Weisfeiler-Lehman subtree kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from ..scoring import class_evidence, value_evidence
from ..task import Evidence, Split
from .data import Graph

ROUNDS = (0, 1, 2, 3, 4)
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def bag(graph: Graph) -> Float[np.ndarray, "G D"]:
    """Per graph: sums of the node features, number of nodes, number of edges."""
    home = graph.graph_of()
    sums = np.stack([np.bincount(home, graph.features[:, f], graph.graphs) for f in range(graph.features.shape[1])], 1)
    edges = np.bincount(home[graph.edges[1]], minlength=graph.graphs) / (1 if graph.directed else 2)
    return np.concatenate([sums, graph.sizes[:, None], edges[:, None]], 1)


def start_colours(graph: Graph) -> Int[np.ndarray, "N"]:
    """Nodes of equal features have equal colours."""
    return np.unique(np.asarray(graph.features), axis=0, return_inverse=True)[1].reshape(-1)


def refined(graph: Graph, colour: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
    """One round of Weisfeiler and Lehman: a new colour for each pair of own colour and multiset of neighbours'."""
    first, near, _ = graph.csr()
    around = colour[near]
    known: dict[bytes, int] = {}
    found = np.empty(graph.nodes, np.int64)
    for i in range(graph.nodes):
        key = np.append(np.sort(around[first[i] : first[i + 1]]), colour[i]).tobytes()
        found[i] = known.setdefault(key, len(known))
    return found


def subtree_counts(graph: Graph, rounds: int) -> list[Any]:
    """Sparse counts (G, colours) after 0 .. ``rounds`` rounds: the features of the subtree kernel (Shervashidze 2011).

    No target enters, so counting test graphs' colours beside the others gives nothing away.
    """
    colour, home, found = start_colours(graph), graph.graph_of(), []
    for number in range(rounds + 1):
        colour = refined(graph, colour) if number else colour
        shape = (graph.graphs, int(colour.max()) + 1)
        found.append(sp.csr_matrix((np.ones(graph.nodes), (home, colour)), shape=shape))
    return found


def _machine(graph: Graph, kernel: Any, split: Split, penalty: float) -> Any:
    """A machine on a precomputed kernel, fitted on the training part."""
    from sklearn.svm import SVC, SVR

    train = split.parts["train"]
    assert graph.target is not None
    machine = SVC(C=penalty, kernel="precomputed") if graph.classes else SVR(C=penalty, kernel="precomputed")
    return machine.fit(kernel[np.ix_(train, train)], graph.target[train])


def _normalised(kernel: Any) -> Any:
    root = np.sqrt(np.maximum(np.diag(kernel), 1e-12))
    return kernel / root[:, None] / root[None]


def _best(graph: Graph, kernels: list[Any], split: Split) -> Any:
    """Guesses for the test part by the kernel and penalty that do best on validation."""
    train, val, test = (split.parts[p] for p in ("train", "val", "test"))
    assert graph.target is not None
    best, found = -np.inf, None
    for kernel in kernels:
        for penalty in PENALTIES:
            machine = _machine(graph, kernel, split, penalty)
            score = machine.score(kernel[np.ix_(val, train)], graph.target[val])
            if score > best:
                best, found = score, machine.predict(kernel[np.ix_(test, train)])
    return found


def graph_baselines(graph: Graph, split: Split) -> dict[str, Evidence]:
    """Evidence of majority (or mean), bag + SVM, subtree kernel + SVM, on the whole test part."""
    assert graph.target is not None
    train, test = split.parts["train"], split.parts["test"]
    x = bag(graph)
    mean, std = x[train].mean(0), x[train].std(0)
    x = np.clip((x - mean) / np.where(std > 0, std, 1), -1e6, 1e6)
    squared = ((x[:, None] - x[None]) ** 2).sum(-1) if len(x) <= 2000 else _distances(x)
    widths = [np.exp(-g * squared / x.shape[1]) for g in (0.1, 0.3, 1.0)]
    counts = subtree_counts(graph, max(ROUNDS))
    linear = [np.asarray((c @ c.T).todense(), np.float64) for c in counts]
    subtree = [_normalised(np.sum(linear[: r + 1], axis=0)) for r in ROUNDS]
    if not graph.classes:
        guesses = {"mean": np.full(len(test), graph.target[train].mean())}
    else:
        guesses = {"majority": np.full(len(test), np.bincount(graph.target[train]).argmax())}
    guesses |= {"bag_svm": _best(graph, widths, split), "weisfeiler_lehman_svm": _best(graph, subtree, split)}
    return {name: _evidence(graph, test, guess) for name, guess in guesses.items()}


def _distances(x: Any) -> Any:
    norms = (x**2).sum(1)
    return np.maximum(norms[:, None] + norms[None] - 2 * x @ x.T, 0)


def _evidence(graph: Graph, test: Any, guess: Any) -> Evidence:
    assert graph.target is not None
    if not graph.classes:
        return value_evidence(test, graph.target[test].astype(np.float64), np.asarray(guess, np.float64))
    sure = np.full((len(test), len(graph.classes)), 1e-6)  # a machine says which, not how sure
    sure[np.arange(len(test)), np.asarray(guess, np.int64)] = 1
    return class_evidence(test, graph.target[test].astype(np.int64), sure / sure.sum(1, keepdims=True))
