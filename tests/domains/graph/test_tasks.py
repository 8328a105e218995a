"""Tasks on nodes and on graphs: protocols, exact ragged batches, regression, prediction on new tables, pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from domains.graph.baselines import label_propagation
from domains.graph.batches import ManyGraphs, WholeGraph
from domains.graph.config import EncodingOptions, GraphSetOptions, NodeOptions, SplitOptions
from domains.graph.data import Graph, Rules, assemble
from domains.graph.encodings import encodings
from domains.graph.graphs import Graphs
from domains.graph.kernels import subtree_counts
from domains.graph.model import GraphNet
from domains.graph.node import Node
from domains.graph.simulate import citations, molecules
from domains.graph.splits import audit_split, make_split
from domains.task import Split
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.mixers import MIXERS, unmet
from shared_backbones.presets import load_preset, parse_preset

from .conftest import tables, write

SENTENCE = """
paper: test
stem: nodes
stages:
  - {{dim: 12, placement: pre, norm: {norm}, layers: [{layer}]}}
model: {{readout: [mean, max, sum], activation: none}}
"""


def sentence(layer: str, norm: str = "layer") -> Any:
    return parse_preset("test", SENTENCE.format(layer=layer, norm=norm))


def serving() -> list[str]:
    """Every mixer that can serve a graph with its defaults."""
    return [n for n, m in MIXERS.items() if not unmet(m, 1, False, (), {"edges"})]


@pytest.fixture(scope="module")
def chemistry() -> tuple[Graph, Split]:
    """Graphs of very unequal sizes."""
    graph = molecules({"graphs": 24})
    path = np.stack([np.arange(90), np.arange(1, 91)])
    small = int(graph.offsets[-1])
    forward = graph.edges[:, graph.edges[0] < graph.edges[1]]
    both = assemble(
        "ragged",
        np.random.default_rng(0).normal(size=(small + 92, 3)).astype(np.float32),  # no ties: mixers may choose tokens
        np.concatenate([forward, path + small], 1),
        Rules(),
        offsets=np.append(graph.offsets, [small + 91, small + 92]),
        target=np.append(graph.target, [0, 1]),  # type: ignore[arg-type]
        classes=graph.classes,
        level="graph",
    )
    return both, make_split(both, SplitOptions())


@pytest.mark.parametrize("mixer", serving())
def test_each_graph_of_a_batch_gives_its_own_result(chemistry: tuple[Graph, Split], mixer: str) -> None:
    graph, split = chemistry
    task = Graphs(GraphSetOptions())
    fitted = task.fit(graph, split)
    torch.manual_seed(0)
    model = GraphNet(fitted, sentence(f"{{mixer: {mixer}, channel: mlp}}"), "graph").double().eval()
    items = ManyGraphs(graph, fitted, np.zeros((graph.nodes, 0), np.float32), np.arange(graph.graphs))
    rows = [0, 24, 7, 25, 13]  # 91 nodes and a single one among them

    def out(batch: Any, pad: int = 0) -> torch.Tensor:
        batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
        if pad:
            n = batch["x"].shape[1]
            home = batch["edges"] // n
            batch["edges"] = batch["edges"] + home * pad
            batch["x"] = torch.nn.functional.pad(batch["x"], (0, 0, 0, pad), value=float("nan"))
            batch["mask"] = torch.nn.functional.pad(batch["mask"], (0, pad))
        with torch.no_grad():
            return model(batch)

    together = out(items.batch(rows))
    alone = torch.cat([out(items.batch([r])) for r in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)
    torch.testing.assert_close(out(items.batch(rows), pad=91), together, rtol=0, atol=2e-6)


def test_the_bag_of_a_graph_is_what_its_batch_holds(chemistry: tuple[Graph, Split]) -> None:
    graph, split = chemistry
    fitted = Graphs(GraphSetOptions()).fit(graph, split)
    batch = ManyGraphs(graph, fitted, np.zeros((graph.nodes, 0), np.float32), np.arange(graph.graphs)).batch([3, 24])
    for b, g in enumerate((3, 24)):
        n, size = batch["x"].shape[1], int(graph.sizes[g])
        assert int(batch["mask"][b].sum()) == size
        inside = (batch["edges"] // n == b).all(0)
        got = {tuple(e) for e in (batch["edges"][:, inside] - b * n).T.tolist()}
        mine = (graph.edges >= graph.offsets[g]).all(0) & (graph.edges < graph.offsets[g + 1]).all(0)
        assert got == {tuple(e) for e in (graph.edges[:, mine] - graph.offsets[g]).T.tolist()}


def test_protocols_are_named_hashed_and_disjoint() -> None:
    graph = citations({"nodes": 300})
    seen = set()
    for index in range(3):
        options = SplitOptions(protocol="per_class", per_class=5, val=50, test=100, index=index)
        split = make_split(graph, options)
        assert f"draw {index}" in split.protocol
        counts = np.bincount(graph.target[split.parts["train"]])  # type: ignore[index]
        assert counts.tolist() == [5] * 4
        assert len(split.parts["test"]) == 100
        seen.add(split.digest)
        assert make_split(graph, options).digest == split.digest
    assert len(seen) == 3


def test_folds_cover_all_graphs_once_and_nest_their_validation() -> None:
    graph = molecules({"graphs": 50})
    tests = []
    for index in range(5):
        split = make_split(graph, SplitOptions(folds=5, index=index))
        assert "nested" in split.protocol
        tests.append(split.parts["test"])
        every = np.concatenate([split.parts[p] for p in ("train", "val", "test")])
        assert np.array_equal(np.sort(every), np.arange(50))
    assert np.array_equal(np.sort(np.concatenate(tests)), np.arange(50))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"protocol": "given"}, "gives no parts"),
        ({"protocol": "folds", "index": 10}, "split.index must lie in 0 .. 9"),
        ({"protocol": "per_class", "per_class": 200}, "labelled nodes, and split.per_class asks for 200"),
    ],
)
def test_splits_that_cannot_be(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        make_split(citations({"nodes": 120}), SplitOptions.model_validate(options))


def test_a_class_without_training_labels_is_named(tmp_path: Path) -> None:
    nodes, edges = tables(tmp_path)
    nodes["label"] = ["rare"] + ["a", "b"] * 19 + ["a"]
    write(tmp_path, nodes, edges)
    task = Node(NodeOptions(columns={"colour": "category"}, split=SplitOptions(fractions=(0.2, 0.2, 0.6))))
    with pytest.raises(BadInput, match="class 'rare' has no training node"):
        task.split(task.open(str(tmp_path)))


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    nodes, edges = tables(tmp_path)
    nodes["label"] = "a"
    write(tmp_path, nodes, edges)
    task = Node(NodeOptions(columns={"colour": "category"}))
    with pytest.raises(BadInput, match="all targets are 'a'; classification needs two"):
        task.split(task.open(str(tmp_path)))


def test_twins_are_found() -> None:
    graph = molecules({"graphs": 20})
    doubled = assemble(
        "twice", np.tile(graph.features, (2, 1)), np.concatenate([graph.edges, graph.edges + graph.nodes], 1), Rules(),
        offsets=np.append(graph.offsets, graph.offsets[1:] + graph.nodes), target=np.tile(graph.target, 2),  # type: ignore[arg-type]
        classes=graph.classes, level="graph",
    )  # fmt: skip
    parts = {"train": np.arange(20), "val": np.arange(20, 30), "test": np.arange(30, 40)}
    audit = audit_split(doubled, Split("by hand", parts))[0]
    assert audit.value == 10
    assert audit.passed is False


def test_sparse_and_dense_features_give_one_answer() -> None:
    graph = citations({"nodes": 80, "words": 200})
    task = Node(NodeOptions())
    split = task.split(graph)
    fitted = task.fit(graph, split)
    assert fitted["sparse"]
    torch.manual_seed(0)
    model = GraphNet(fitted, load_preset("graph_propagation"), "node").eval()
    none = np.zeros((80, 0), np.float32)
    sparse = model(WholeGraph(graph, fitted, none, split.parts["test"]).batch([0, 1, 2]))
    dense = model(WholeGraph(graph, {**fitted, "sparse": False}, none, split.parts["test"]).batch([0, 1, 2]))
    torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-6)


def test_laplacian_signs_flip_only_while_training() -> None:
    graph = molecules({"graphs": 30})
    options = EncodingOptions(laplacian=3)
    task = Graphs(GraphSetOptions(encodings=options))
    split = task.split(graph)
    model = task.build(task.fit(graph, split), sentence("{mixer: identity}")).eval()
    batch = ManyGraphs(graph, {}, encodings(graph, options), np.arange(30)).batch([0, 1])
    flipped = {**batch, "encoding": -batch["encoding"]}
    assert torch.equal(model(batch), model(batch))
    assert not torch.allclose(model(batch), model(flipped))
    model.train()
    outs = torch.stack([model(batch) for _ in range(8)])
    assert not torch.allclose(outs[0], outs.mean(0))


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        yield self.path / name


def _trained(folder: Path, steps: int = 60, **options: Any) -> tuple[Node, Any, GraphNet]:
    """A node task on tables, trained a little."""
    task = Node(NodeOptions(columns={"colour": "category"}, **options))
    data = task.open(str(folder))
    split = task.split(data)
    fitted = task.fit(data, split)
    torch.manual_seed(0)
    model = task.build(fitted, load_preset("graph_propagation"))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    items = task.items(data, split, fitted, "train")
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(model, items.batch(range(len(items))))[0].backward()
        optimizer.step()
    model.eval()
    return task, fitted, model


def test_new_tables_are_predicted_by_the_saved_schema(tmp_path: Path) -> None:
    tables(tmp_path / "old")
    task, fitted, model = _trained(tmp_path / "old")
    nodes, edges = tables(tmp_path / "new", n=20, seed=5)
    nodes["colour"] = "red"  # one of the two levels only
    write(tmp_path / "new", nodes.drop(columns="label"), edges)
    facts = task.predict(model, fitted, str(tmp_path / "new"), Folder(tmp_path))
    table = pd.read_csv(tmp_path / facts["output"])
    assert table["id"].tolist() == nodes["id"].tolist()
    assert np.allclose(table[["p_no", "p_yes"]].sum(1), 1, atol=1e-4)
    assert (table["prediction"] == np.where(table["p_yes"] > table["p_no"], "yes", "no")).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"a": "z"}, r"missing \['a'\], unknown \['z'\]"),
        ({"colour": "color"}, "schema speaks of a column 'colour'"),
    ],
)
def test_tables_with_another_schema_are_refused(tmp_path: Path, change: dict[str, str], says: str) -> None:
    nodes, edges = tables(tmp_path / "old")
    task, fitted, model = _trained(tmp_path / "old", steps=1)
    write(tmp_path / "new", nodes.rename(columns=change), edges)
    with pytest.raises(BadInput, match=says):
        task.predict(model, fitted, str(tmp_path / "new"), Folder(tmp_path))


def test_an_unknown_category_is_refused(tmp_path: Path) -> None:
    nodes, edges = tables(tmp_path / "old")
    task, fitted, model = _trained(tmp_path / "old", steps=1)
    nodes.loc[4, "colour"] = "green"
    write(tmp_path / "new", nodes, edges)
    with pytest.raises(BadInput, match="row 6, column 'colour': 'green' is a category that the model never saw"):
        task.predict(model, fitted, str(tmp_path / "new"), Folder(tmp_path))


def test_regression_on_nodes(tmp_path: Path) -> None:
    nodes, edges = tables(tmp_path)
    nodes["label"] = 100 + 10 * nodes["a"] + 0.5
    write(tmp_path, nodes, edges)
    with pytest.raises(BadInput, match="target_kind=value"):
        Node(NodeOptions(columns={"colour": "category"})).open(str(tmp_path))
    task, fitted, model = _trained(tmp_path, target_kind="value", baselines=("label_propagation", "sgc"))
    data = task.open(str(tmp_path))
    split = task.split(data)
    assert next(iter(task.metric_facts)) == "mae"
    scored = task.metrics(task.evidence(model, data, split, fitted, "test"))
    assert scored["rmse"] >= scored["mae"] > 0
    for evidence in task.baselines(data, split, fitted).values():
        assert np.isfinite(task.metrics(evidence)["mae"])


def test_label_propagation_uses_no_features_and_follows_edges() -> None:
    pairs = np.array([[i, i + 1] for i in range(9)] + [[i, i + 1] for i in range(10, 19)]).T
    target = np.repeat([0, 1], 10)
    graph = assemble(
        "two lines", np.zeros((20, 1), np.float32), pairs, Rules(), target=target, classes=("a", "b"),
    )  # fmt: skip
    parts = {"train": np.array([0, 10]), "val": np.array([1, 11]), "test": np.array([5, 9, 15, 19])}
    found = label_propagation(graph, Split("by hand", parts))
    assert found.argmax(1).tolist() == [0, 0, 1, 1]


def test_subtree_colours_separate_what_counts_cannot() -> None:
    """A ring of six and two rings of three have equal degrees; a path and a star of four do not."""
    six = [(i, (i + 1) % 6) for i in range(6)]
    path, star = [(6, 7), (7, 8), (8, 9)], [(10, 11), (10, 12), (10, 13)]
    graph = assemble(
        "shapes", np.ones((14, 1), np.float32), np.array(six + path + star).T, Rules(),
        offsets=np.array([0, 6, 10, 14]), target=np.array([0, 1, 1]), classes=("a", "b"), level="graph",
    )  # fmt: skip
    before, after = (c.toarray() for c in subtree_counts(graph, 1))
    assert np.array_equal(before[1], before[2])
    assert not np.array_equal(after[1], after[2])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("{readout: median}", "unknown readout 'median'"),
        ("{dropout: 2}", "model.dropout must lie in 0 .. 1"),
        ("{dropuot: 0.1}", "unknown model option 'dropuot'; did you mean 'dropout'"),
        ("{activation: tanh}", "unknown activation 'tanh'"),
    ],
)
def test_model_options_are_checked(model: str, says: str) -> None:
    task = Graphs(GraphSetOptions())
    graph = molecules({"graphs": 30})
    fitted = task.fit(graph, task.split(graph))
    text = SENTENCE.format(layer="{mixer: identity}", norm="layer")
    preset = parse_preset("test", text[: text.index("model:")] + f"model: {model}\n")
    with pytest.raises(BadRequest, match=says):
        task.build(fitted, preset)


def test_a_source_of_another_level_names_the_right_task(tmp_path: Path) -> None:
    (tmp_path / "10fold_idx").mkdir()
    (tmp_path / "T.txt").write_text("1\n2 0\n0 1 1\n0 1 0\n")
    with pytest.raises(BadInput, match="use the task graph/graph"):
        Node(NodeOptions()).open(str(tmp_path))


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(BadInput, match="did you mean the data set 'cora'"):
        Node(NodeOptions()).open("coraa")
