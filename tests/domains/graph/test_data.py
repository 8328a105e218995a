"""Readers: what they read, what they refuse, and that nothing is executed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from domains.graph.data import Rules, Schema, read_graph
from domains.graph.data.inert import inert
from domains.graph.data.plain import classes_of
from shared_backbones.errors import BadInput

from .conftest import opened, tables, write


def test_tables_become_a_graph(tmp_path: Path) -> None:
    nodes, edges = tables(tmp_path)
    graph = opened(tmp_path)
    assert graph.columns == ("a", "b", "colour=blue", "colour=red")
    assert graph.classes == ("no", "yes")
    assert [graph.classes[c] for c in graph.target] == nodes["label"].tolist()  # type: ignore[union-attr]
    wanted = {frozenset(pair) for pair in edges.itertuples(index=False) if pair[0] != pair[1]}
    got = {frozenset((graph.names[a], graph.names[b])) for a, b in graph.edges.T}
    assert got == wanted
    assert graph.arcs == 2 * len(wanted)
    both = {tuple(arc) for arc in graph.edges.T.tolist()}
    assert all((b, a) in both for a, b in both)


def test_parquet_and_csv_give_one_content(tmp_path: Path) -> None:
    nodes, edges = tables(tmp_path / "csv")
    (tmp_path / "pq").mkdir()
    nodes.to_parquet(tmp_path / "pq" / "nodes.parquet")
    edges.to_parquet(tmp_path / "pq" / "edges.parquet")
    assert opened(tmp_path / "csv").manifest.sha256 == opened(tmp_path / "pq").manifest.sha256


def test_edge_columns_weight_and_time(tmp_path: Path) -> None:
    nodes, edges = tables(tmp_path)
    edges["weight"], edges["length"] = 2.0, np.arange(len(edges)) / 7
    edges["time"] = pd.date_range("2024-01-01", periods=len(edges), freq="h").astype(str)
    write(tmp_path, nodes, edges)
    graph = opened(tmp_path, rules=Rules(directed=True))
    loops = (edges["source"] == edges["target"]).to_numpy()
    assert graph.edge_columns == ("length",)
    assert np.allclose(graph.edge_attr[:, 0], edges["length"][~loops])  # type: ignore[index]
    assert np.allclose(np.diff(graph.time[:2]), 3600 * (1 + loops[:2].sum()))  # type: ignore[index]
    assert graph.arcs == (~loops).sum()  # interactions are never merged


def test_rules_are_counted(tmp_path: Path) -> None:
    nodes, _ = tables(tmp_path)
    edges = pd.DataFrame({"source": ["n0", "n1", "n0", "n3", "n3"], "target": ["n1", "n0", "n1", "n3", "n4"]})
    edges["weight"] = [1.0, 2.0, 4.0, 9.0, 1.0]
    write(tmp_path, nodes, edges)
    facts = opened(tmp_path).manifest.facts
    assert facts["self_loops"] == "1 (dropped)"
    assert facts["equal_edges"].startswith("2 merged")
    assert facts["edges"] == 2
    assert facts["isolated_nodes"] == 36
    graph = opened(tmp_path, rules=Rules(directed=True, self_loops="keep"))
    assert graph.arcs == 4
    weight = {tuple(e): w for e, w in zip(graph.edges.T.tolist(), graph.weight, strict=True)}  # type: ignore[arg-type]
    assert weight[(0, 1)] == 5.0
    assert weight[(1, 0)] == 2.0


def _change(**columns: Any) -> Callable[[pd.DataFrame, pd.DataFrame], None]:
    def change(nodes: pd.DataFrame, edges: pd.DataFrame) -> None:
        for name, value in columns.items():
            table, column = name.split("__")
            frame = nodes if table == "nodes" else edges
            if column not in frame:
                frame[column] = 1.0
            frame[column] = frame[column].astype(object)
            frame.loc[3, column] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_change(edges__source="ghost"), r"row 5, column 'source': 'ghost' is no node .* \(1 of \d+ edges"),
        (_change(nodes__a=np.nan), "row 5, column 'a'.*no finite number"),
        (_change(nodes__a="x"), "row 5, column 'a': 'x'"),
        (_change(nodes__id="n0"), "every node needs an id of its own"),
        (_change(edges__weight=-1.0), "weights are >= 0"),
        (_change(edges__time="yesterday"), "neither a number nor an ISO 8601"),
        (_change(nodes__split="holdout"), "a part is train, val, test"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, change: Any, says: str) -> None:
    nodes, edges = tables(tmp_path)
    change(nodes, edges)
    write(tmp_path, nodes, edges)
    with pytest.raises(BadInput, match=says):
        opened(tmp_path)


def test_text_without_a_schema_is_refused(tmp_path: Path) -> None:
    tables(tmp_path)
    with pytest.raises(BadInput, match=r"column 'colour' holds text.*columns.colour=category"):
        opened(tmp_path, Schema())


def test_a_graph_without_edges_is_refused(tmp_path: Path) -> None:
    nodes, edges = tables(tmp_path)
    write(tmp_path, nodes, edges[:0])
    with pytest.raises(BadInput, match="not one edge"):
        opened(tmp_path)


def _npz(path: Path, **changes: Any) -> Path:
    n = 12
    parts: dict[str, Any] = {
        "node_features": np.eye(n, 3, dtype=np.float32),
        "node_labels": np.arange(n) % 3,
        "edges": np.stack([np.arange(n), (np.arange(n) + 1) % n], 1),
        **{f"{m}_masks": np.stack([np.arange(n) % 3 == k] * 2) for k, m in enumerate(("train", "val", "test"))},
    }
    np.savez(path, **{**parts, **changes})
    return path


def test_npz_with_masks(tmp_path: Path) -> None:
    graph = read_graph(_npz(tmp_path / "g.npz"), Schema(), Rules())
    assert graph.given is not None
    assert len(graph.given.parts) == 2
    assert graph.given.parts[1]["val"].tolist() == [1, 4, 7, 10]
    assert graph.arcs == 24


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"test_masks": np.ones((2, 12), bool)}, "is in 'test' and in"),
        ({"edge_features": np.ones((5, 2))}, "5 rows of edge features for 12 edges"),
        ({"node_labels": np.arange(5)}, "5 node_labels for 12"),
        ({"edges": np.array([[0, 99]])}, "edge 0 names node 99"),
        ({"node_features": np.full((12, 3), np.nan, np.float32)}, "feature 0 of node 0 is nan"),
        ({"train_masks": np.ones((2, 4), bool)}, "train_masks are 4 long"),
        ({"val_masks": np.zeros((1, 12), bool)}, "2 train_masks and 1 val_masks"),
        ({"edges": np.array([[0, 0.5]])}, r"edge 0 of 'edges' is \[0.0, 0.5\], and nodes are whole"),
        ({"edges": np.zeros((4, 3), int)}, r"must be \(E, 2\), got \(4, 3\)"),
        ({"node_features": np.full((12, 2), "a")}, "'node_features' holds text"),
        ({"node_features": np.full((12, 2, 2), 1.0)}, r"one row of numbers each, got shape \(12, 2, 2\)"),
        ({"node_features": np.array([{}] * 12)}, "node_features holds Python objects, which are never read"),
    ],
)
def test_bad_npz(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        read_graph(_npz(tmp_path / "g.npz", **changes), Schema(), Rules())


def test_targets_as_text_and_unknown_ones() -> None:
    assert classes_of("", np.array(["b", "a"]))[1] == ("a", "b")
    position, names = classes_of("", np.array([2.0, np.nan, 5.0, -1.0]))
    assert (position.tolist(), names) == ([0, -1, 1, -1], ("2", "5"))
    assert classes_of("", np.array([-1, -1])) == (None, ())
    assert classes_of("", np.array([0.5, 1.0]))[1] == ()


def test_one_file_of_two_and_an_empty_target_say_so(tmp_path: Path) -> None:
    nodes, edges = tables(tmp_path)
    nodes["label"] = np.nan
    nodes.loc[3, "a"] = np.nan
    write(tmp_path, nodes, edges)
    with pytest.raises(BadInput, match="column 'a': an empty cell is no finite number"):
        opened(tmp_path)
    write(tmp_path, nodes.fillna({"a": 0}), edges)
    assert opened(tmp_path).target is None
    (tmp_path / "edges.csv").unlink()
    with pytest.raises(BadInput, match=r"nodes.csv is there, and no edges.csv .*--set edges=FILE"):
        opened(tmp_path)


def test_sparse_npz(tmp_path: Path) -> None:
    a, x = sp.random(9, 9, 0.3, "csr", random_state=0), sp.random(9, 4, 0.5, "csr", random_state=1)
    a.data[:] = 1
    parts = {f"{k}_{p}": getattr(m, p) for k, m in (("adj", a), ("attr", x)) for p in ("data", "indices", "indptr")}
    np.savez(tmp_path / "s.npz", adj_shape=a.shape, attr_shape=x.shape, labels=np.arange(9) % 2, **parts)
    graph = read_graph(tmp_path / "s.npz", Schema(), Rules(directed=True, self_loops="keep"))
    dense = np.zeros((9, 9))
    dense[graph.edges[0], graph.edges[1]] = 1
    assert np.array_equal(dense, a.toarray() > 0)
    assert np.allclose(graph.features, x.toarray())


def test_an_unknown_npz_layout_and_a_broken_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", foo=np.ones(3))
    with pytest.raises(BadInput, match="no known layout: it holds foo"):
        read_graph(tmp_path / "x.npz", Schema(), Rules())
    (tmp_path / "y.npz").write_bytes(b"PK nonsense")
    with pytest.raises(BadInput, match="not an npz archive"):
        read_graph(tmp_path / "y.npz", Schema(), Rules())


class Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was executed",))


def test_a_pickle_that_calls_is_refused_unexecuted() -> None:
    with pytest.raises(BadInput, match="not a pickle of plain arrays: it asks for"):
        inert(pickle.dumps(Bomb(), protocol=2), "bomb")


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"\x80\x02]q\x00."[:-1], b"\x80\x02K\x01K\x02\x86q\x00R."])
def test_damaged_pickles_are_refused(raw: bytes) -> None:
    with pytest.raises(BadInput):
        inert(raw, "damaged")


def test_inert_reads_what_pickle_reads() -> None:
    matrix = sp.random(7, 5, 0.4, "csr", dtype=np.float32, random_state=0)
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert np.array_equal(inert(pickle.dumps(array, protocol=2), "a"), array)
    assert np.array_equal(inert(pickle.dumps(np.asfortranarray(array), protocol=2), "a"), array)
    assert inert(pickle.dumps({1: [2, 3]}, protocol=2), "d") == {1: [2, 3]}
    state = {**matrix.__dict__}
    assert matrix.nnz == len(state["data"])


def test_tensors_only(tmp_path: Path) -> None:
    data = {
        "x": torch.randn(5, 2), "edge_index": torch.tensor([[0, 1, 2], [1, 2, 3]]), "y": torch.tensor([0, 1, 0, 1, 0]),
        "train_mask": torch.tensor([1, 1, 0, 0, 0]).bool(), "val_mask": torch.tensor([0, 0, 1, 0, 0]).bool(),
        "test_mask": torch.tensor([0, 0, 0, 1, 1]).bool(),
    }  # fmt: skip
    torch.save(data, tmp_path / "g.pt")
    graph = read_graph(tmp_path / "g.pt", Schema(), Rules())
    assert graph.arcs == 6
    assert graph.given is not None
    assert graph.given.parts[0]["test"].tolist() == [3, 4]
    torch.save(Bomb(), tmp_path / "b.pt")
    with pytest.raises(BadInput, match="holds more than tensors"):
        read_graph(tmp_path / "b.pt", Schema(), Rules())


GRAPHML = """<?xml version="1.0"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns">
<key id="k0" for="node" attr.name="size" attr.type="double"/>
<key id="k1" for="node" attr.name="label" attr.type="string"/>
<graph edgedefault="{kind}">{body}</graph></graphml>"""


def _graphml(path: Path, kind: str = "directed", extra: str = "") -> Path:
    body = "".join(
        f'<node id="n{i}"><data key="k0">{i / 2}</data><data key="k1">{"ab"[i % 2]}</data></node>' for i in range(4)
    )
    body += '<edge source="n0" target="n1"/><edge source="n1" target="n2"/>' + extra
    path.write_text(GRAPHML.format(kind=kind, body=body))
    return path


def test_graphml_states_its_direction(tmp_path: Path) -> None:
    graph = read_graph(_graphml(tmp_path / "d.graphml"), Schema(), Rules())
    assert graph.directed
    assert graph.arcs == 2
    assert graph.features[:, 0].tolist() == [0, 0.5, 1, 1.5]
    assert graph.classes == ("a", "b")
    assert read_graph(_graphml(tmp_path / "u.graphml", "undirected"), Schema(), Rules()).arcs == 4


def test_bad_graphml(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'n9' names a node that is not there"):
        read_graph(_graphml(tmp_path / "a.graphml", extra='<edge source="n0" target="n9"/>'), Schema(), Rules())
    bomb = tmp_path / "b.graphml"
    bomb.write_text('<!DOCTYPE x [<!ENTITY a "aaaa">]>' + GRAPHML.format(kind="directed", body=""))
    with pytest.raises(BadInput, match="DOCTYPE"):
        read_graph(bomb, Schema(), Rules())


TU = """2\n3 5\n0 1 1\n1 2 0 2\n0 1 1\n2 7\n2 1 1\n0 1 0\n"""


def test_tu_text_with_folds(tmp_path: Path) -> None:
    (tmp_path / "10fold_idx").mkdir()
    for part, rows in (("train", "0"), ("test", "1")):
        (tmp_path / "10fold_idx" / f"{part}_idx-1.txt").write_text(rows + "\n")
    (tmp_path / "TINY.txt").write_text(TU)
    graph = read_graph(tmp_path, Schema(), Rules())
    assert graph.sizes.tolist() == [3, 2]
    assert graph.classes == ("5", "7")
    assert graph.columns == ("tag 0", "tag 1", "tag 2")
    assert graph.arcs == 6
    assert graph.given is not None
    assert graph.given.parts[0]["test"].tolist() == [1]
    (tmp_path / "TINY.txt").write_text(TU.replace("2 0 2", "2 0 9"))
    with pytest.raises(BadInput, match=r"line 4: node 1 of graph 0"):
        read_graph(tmp_path, Schema(), Rules())


def test_tu_folder(tmp_path: Path) -> None:
    parts = {"A": "1, 2\n2, 1\n3, 4\n4, 3\n", "graph_indicator": "1\n1\n2\n2\n", "graph_labels": "1\n-1\n"}
    for name, text in {**parts, "node_labels": "0\n1\n1\n1\n"}.items():
        (tmp_path / f"X_{name}.txt").write_text(text)
    graph = read_graph(tmp_path, Schema(), Rules())
    assert graph.sizes.tolist() == [2, 2]
    assert graph.classes == ("-1", "1")
    assert graph.target.tolist() == [1, 0]  # type: ignore[union-attr]


@pytest.mark.data
def test_cora_is_as_pyg_reads_it(public_data: Path) -> None:
    io = pytest.importorskip("torch_geometric.io")
    graph = read_graph(public_data / "graph" / "planetoid_cora", Schema(), Rules())
    data = io.read_planetoid_data(str(public_data / "graph" / "planetoid_cora"), "cora")
    assert np.array_equal(graph.features, data.x.numpy())
    assert np.array_equal(graph.target, data.y.numpy())  # type: ignore[arg-type]
    assert {tuple(e) for e in graph.edges.T.tolist()} == {tuple(e) for e in data.edge_index.T.tolist()}
    assert graph.given is not None
    for part in ("train", "val", "test"):
        assert np.array_equal(graph.given.parts[0][part], np.flatnonzero(data[f"{part}_mask"].numpy()))
