"""From what a reader found to a checked :class:`Graph`: one set of stated rules for all formats."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from domains.task import Manifest
from shared_backbones.errors import BadInput

from .graph import Given, Graph, both_ways


@dataclass(frozen=True)
class Rules:
    """What is done with arcs that formats leave open; every application is counted on the data card."""

    directed: bool = False  # False: an edge is felt at both ends
    self_loops: Literal["drop", "keep"] = "drop"
    duplicates: Literal["merge", "keep"] = "merge"  # merge: the first of equal edges stays, weights are summed
    edgeless: bool = False  # whether a source without any edge is accepted


def _check_features(where: str, features: Shaped[np.ndarray, "N F"], names: Callable[[int], str]) -> None:
    step = max(1, 10_000_000 // max(1, features.shape[1]))
    for start in range(0, len(features), step):
        bad = ~np.isfinite(features[start : start + step])
        if bad.any():
            row, column = (int(v[0]) for v in np.nonzero(bad))
            total = int(bad.sum())
            raise BadInput(
                f"{where}: feature {names(column)} of node {start + row} is {features[start + row, column]} "
                f"({total} such values nearby). Fill it, or leave the column or the node out"
            )


def _check_edges(where: str, pairs: Int[np.ndarray, "2 P"], n: int, offsets: Int[np.ndarray, "G1"]) -> None:
    outside = (pairs < 0) | (pairs >= n)
    if outside.any():
        at = int(np.flatnonzero(outside.any(0))[0])
        who = pairs[:, at][outside[:, at]][0]
        raise BadInput(
            f"{where}: edge {at} names node {who}, and nodes are 0 .. {n - 1} "
            f"({int(outside.any(0).sum())} edges with an unknown node)"
        )
    if len(offsets) > 2 and pairs.shape[1]:
        home = np.searchsorted(offsets, pairs, side="right")
        crossing = np.flatnonzero(home[0] != home[1])
        if len(crossing):
            raise BadInput(f"{where}: edge {int(crossing[0])} joins two graphs ({len(crossing)} such edges)")


def _check_length(where: str, what: str, value: Shaped[np.ndarray, "..."] | None, count: int) -> None:
    if value is not None and len(value) != count:
        raise BadInput(f"{where}: {len(value)} rows of {what} for {count} edges; give one row per edge")
    if value is not None and value.dtype.kind == "f" and not np.isfinite(value).all():
        at = int(np.argwhere(~np.isfinite(value))[0][0])
        raise BadInput(f"{where}: {what} of edge {at} is not a finite number")


def _check_given(where: str, given: Given | None, count: int) -> None:
    for number, parts in enumerate(given.parts if given else ()):
        seen = np.full(count, -1)
        for code, (name, index) in enumerate(parts.items()):
            if len(index) and (index.min() < 0 or index.max() >= count):
                raise BadInput(f"{where}: part {name!r} of split {number} names element {int(index.max())} of {count}")
            taken = index[seen[index] >= 0]
            if len(taken):
                other = list(parts)[seen[int(taken[0])]]
                raise BadInput(
                    f"{where}: element {int(taken[0])} is in {name!r} and in {other!r} of given split {number} "
                    f"({len(taken)} such); the parts must be disjoint"
                )
            seen[index] = code


def _merged(pairs: Int[np.ndarray, "2 P"], n: int, directed: bool) -> tuple[Int[np.ndarray, "Q"], Int[np.ndarray, "P"]]:
    """(positions of the first of each distinct edge, in their order; the number of the distinct edge of each)."""
    a, b = (pairs[0], pairs[1]) if directed else (pairs.min(0), pairs.max(0))
    _, first, inverse = np.unique(a.astype(np.int64) * n + b, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse.reshape(-1)]


def assemble(
    where: str,
    features: Float[np.ndarray, "N F"],
    pairs: Int[np.ndarray, "2 P"],
    rules: Rules,
    *,
    edge_attr: Float[np.ndarray, "rows K"] | None = None,
    weight: Float[np.ndarray, "weights"] | None = None,
    time: Float[np.ndarray, "times"] | None = None,
    offsets: Int[np.ndarray, "G1"] | None = None,
    columns: tuple[str, ...] = (),
    given: Given | None = None,
    **rest: Any,
) -> Graph:
    """A checked graph from edges as the source has them. Raises BadInput naming what is wrong and where.

    ``rules.directed`` False: each edge becomes two arcs, and a source that has both directions loses nothing by it.
    Interactions (with ``time``) are never merged. ``rest``: further fields of :class:`Graph`.
    """
    n, facts = len(features), dict(rest.pop("facts", {}))
    offsets = np.array([0, n], np.int64) if offsets is None else offsets.astype(np.int64)
    if n == 0:
        raise BadInput(f"{where}: a graph without nodes")
    pairs = np.ascontiguousarray(pairs, np.int64)
    _check_features(where, features, lambda c: repr(columns[c]) if columns else str(c))
    _check_edges(where, pairs, n, offsets)
    for what, value in (("edge features", edge_attr), ("edge weights", weight), ("edge times", time)):
        _check_length(where, what, value, pairs.shape[1])
    count = n if rest.get("level", "node") == "node" else len(offsets) - 1
    _check_given(where, given, count)
    if not pairs.shape[1] and not rules.edgeless:
        raise BadInput(
            f"{where}: {n} nodes and not one edge. Without edges a table model serves better; check the edge file"
        )
    facts |= {"nodes": n, "edges_in_source": int(pairs.shape[1]), "directed": rules.directed}
    keep = np.arange(pairs.shape[1])
    loops = pairs[0] == pairs[1]
    facts["self_loops"] = f"{int(loops.sum())} ({'dropped' if rules.self_loops == 'drop' else 'kept'})"
    if rules.self_loops == "drop":
        keep = keep[~loops]
    equal = 0
    if rules.duplicates == "merge" and time is None:
        first, number = _merged(pairs[:, keep], n, rules.directed)
        equal = len(keep) - len(first)
        if weight is not None:
            summed = np.bincount(number, weight[keep], len(first))
            weight = weight.copy()
            weight[keep[first]] = summed
        keep = keep[first]
    back = "" if rules.directed else ", both directions of one edge among them"
    facts["equal_edges"] = f"{equal} merged{back}" if rules.duplicates == "merge" and time is None else "kept"
    pick = [None if a is None else a[keep] for a in (edge_attr, weight, time)]
    edges = pairs[:, keep]
    if not rules.directed:
        edges, pick = both_ways(edges, *pick)
    graph = Graph(
        features=features, edges=edges, directed=rules.directed, manifest=Manifest(where, ""), offsets=offsets,
        edge_attr=pick[0], weight=pick[1], time=pick[2], columns=columns, given=given, **rest,
    )  # fmt: skip
    return with_card(graph, facts)


def with_card(graph: Graph, facts: dict[str, Any]) -> Graph:
    """The graph with its data card: counts, what the rules did, homophily, isolated nodes, content digest."""
    degree, known = graph.degree(), graph.known()
    facts = facts | {
        "edges": len(graph.pairs()),
        "features": graph.features.shape[1],
        "graphs": graph.graphs,
        "isolated_nodes": int(((degree == 0) & (np.bincount(graph.edges[0], minlength=graph.nodes) == 0)).sum()),
        "mean_degree": round(float(degree.mean()), 3),
        "largest_degree": int(degree.max(initial=0)),
    }
    if graph.graphs > 1:
        facts["nodes_per_graph"] = f"{graph.sizes.min()} to {graph.sizes.max()}, mean {graph.sizes.mean():.1f}"
    if graph.classes:
        assert graph.target is not None
        counts = np.bincount(graph.target[known], minlength=len(graph.classes))
        facts["class_counts"] = {name: int(c) for name, c in zip(graph.classes, counts, strict=True)}
        if graph.level == "node":
            facts["edge_homophily"] = homophily(graph)
    facts["labelled"] = int(known.sum())
    manifest = replace(graph.manifest, sha256=digest(graph), facts={**graph.manifest.facts, **facts})
    return replace(graph, manifest=manifest)


def homophily(graph: Graph) -> float | None:
    """Share of the edges between labelled nodes that join equal classes; None where there is none."""
    assert graph.target is not None
    a, b = graph.target[graph.edges]
    both = (a >= 0) & (b >= 0) & (graph.edges[0] != graph.edges[1])
    return round(float((a == b)[both].mean()), 4) if both.any() else None


def digest(graph: Graph) -> str:
    """sha256 of all arrays, so of the content, wherever it stands."""
    h = hashlib.sha256(f"{graph.directed} {graph.classes} {graph.columns} {graph.level}".encode())
    arrays = [graph.features, graph.edges, graph.offsets, graph.edge_attr, graph.weight, graph.time, graph.target]
    for array in [*arrays, None if graph.ids is None else graph.ids.astype(str)]:
        if array is None:
            h.update(b"none")
            continue
        h.update(f"{array.dtype.str}{array.shape}".encode())
        step = max(1, 50_000_000 // max(1, array[:1].nbytes))
        for start in range(0, len(array), step):
            h.update(np.ascontiguousarray(array[start : start + step]).tobytes())
    for parts in graph.given.parts if graph.given else ():
        for name in sorted(parts):
            h.update(name.encode() + parts[name].astype(np.int64).tobytes())
    return h.hexdigest()
