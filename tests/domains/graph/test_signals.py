"""Node signals: the closed forms against plain sums, the floors on public data, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from domains.checks import _Folder
from domains.graph.signal_items import TERMS, choose, neighbour_mean, pooled_ridge, regressors, simulated
from domains.graph.signals import NodeSignals, _smallest
from shared_backbones.errors import BadInput
from shared_backbones.presets import load_preset


def task(**options: Any) -> NodeSignals:
    return NodeSignals(NodeSignals.Config(**options))


def written(folder: Path, values: np.ndarray, edges: list[tuple[str, str]], stamps: Any = None) -> str:
    """A folder of signals.csv and edges.csv."""
    frame = pd.DataFrame(values, columns=[f"n{i}" for i in range(values.shape[1])])
    if stamps is not None:
        frame.insert(0, "time", stamps)
    frame.to_csv(folder / "signals.csv", index=False)
    pd.DataFrame(edges, columns=["source", "target"]).to_csv(folder / "edges.csv", index=False)
    return str(folder)


def test_regressors_and_ridge_are_what_they_say() -> None:
    random = np.random.default_rng(0)
    past, edges = random.normal(size=(30, 4, 5)), np.array([[0, 1, 2, 2], [1, 0, 0, 3]])
    near = neighbour_mean(edges, 4)
    x = regressors(past, near, ("own", "near", "all"), 3)
    assert x.shape == (30, 4, 9)
    assert np.allclose(x[7, 0, 3:6], (past[7, 1, 2:] + past[7, 2, 2:]) / 2)  # arcs 1 -> 0 and 2 -> 0
    assert np.allclose(x[7, 2, 3:6], 0)  # nothing points to node 2
    assert np.allclose(x[7, 3, 6:], past[7].mean(0)[2:])
    y = random.normal(size=(30, 4))
    want = np.linalg.lstsq(x.reshape(-1, 9), y.reshape(-1), rcond=None)[0]
    assert np.allclose(pooled_ridge(x, y, 1e-12), want)


def test_the_model_starts_at_the_chosen_closed_form() -> None:
    subject = task(lags=4)
    data = simulated(steps=200)
    split = subject.split(data)
    fitted = subject.fit(data, split)
    model = subject.build(fitted, load_preset("graph_signals")).eval()
    subject.initialise(model, data, split)
    arrays = [subject._arrays(model, data, split, part) for part in ("train", "val", "test")]  # type: ignore[arg-type]
    near = neighbour_mean(data.edges, len(data.names))
    found = choose(*arrays[:2], near)
    assert found.terms in TERMS
    assert "near" in found.terms or "all" in found.terms  # heat does spread along edges
    x = regressors(arrays[0][0], near, found.terms, found.order)
    weight = pooled_ridge(x, arrays[0][1], found.penalty)
    want = regressors(arrays[2][0], near, found.terms, found.order) @ weight
    items = subject.items(data, split, fitted, "test")
    with torch.no_grad():
        got = model(items.batch(range(len(items)))).double().numpy()
    assert np.allclose(got, want, atol=1e-5)


def test_a_correction_is_kept_only_where_it_clearly_helps() -> None:
    random = np.random.default_rng(0)
    noise = 1 + 0.3 * random.normal(size=(1, 60)) + np.zeros((5, 1))
    assert _smallest(noise, 6) == 0
    assert _smallest(noise - 0.2 * np.arange(5)[:, None] + 0.1 * random.normal(size=(5, 60)), 6) == 4
    assert _smallest(noise + 0.01 * random.normal(size=(5, 60)), 6) < 4


@pytest.mark.data
def test_chickenpox_floors(public_data: Path) -> None:
    subject = task()
    data = subject.open("chickenpox")
    assert data.values.shape == (521, 20)
    assert data.manifest.facts["self_loops_removed"] == 20
    split = subject.split(data)
    assert len(split.parts["test"]) == 104
    fitted = subject.fit(data, split)
    mse = {name: subject.metrics(e)["mse"] for name, e in subject.baselines(data, split, fitted).items()}
    assert mse["zero"] == pytest.approx(1.047, abs=5e-4)
    assert mse["persistence"] == pytest.approx(3.01, abs=5e-3)
    assert mse["mean of 4 lags"] == pytest.approx(1.37, abs=6e-3)
    assert mse["AR(4)"] == pytest.approx(0.724, abs=5e-4)
    model = subject.build(fitted, load_preset("graph_signals")).eval()
    subject.initialise(model, data, split)
    assert subject.metrics(subject.evidence(model, data, split, fitted, "test"))["mse"] < mse["AR(4)"]
    assert {a.name: a.value for a in subject.audit(data, split)}["scaled over the whole record"] == "yes"


def test_a_folder_of_tables_is_read_and_predicted(tmp_path: Path) -> None:
    values = simulated(nodes=4, steps=120).values
    stamps = pd.date_range("2024-01-01", periods=120)
    source = written(tmp_path, values, [("n0", "n1"), ("n1", "n2"), ("n2", "n2"), ("n0", "n1")], stamps)
    data = task(directed=True).open(source)
    assert data.edges.tolist() == [[0, 1], [1, 2]]
    assert data.manifest.facts["self_loops_removed"] == 1
    assert data.manifest.facts["duplicate_edges_removed"] == 1
    assert task().open(source).edges.shape == (2, 4)


def _bad(folder: Path, kind: str) -> str:
    values = simulated(nodes=4, steps=120).values.copy()
    edges, stamps = [("n0", "n1")], list(pd.date_range("2024-01-01", periods=120).astype(str))
    if kind == "nan":
        values[7, 2] = np.nan
    elif kind == "unknown":
        edges.append(("n0", "n9"))
    elif kind == "order":
        stamps[5], stamps[6] = stamps[6], stamps[5]
    elif kind == "constant":
        values[:, 3] = 2.0
    elif kind == "short":
        values, stamps = values[:30], stamps[:30]
    source = written(folder, values, edges, stamps)
    if kind == "text":
        pd.read_csv(folder / "signals.csv").assign(n1="abc").to_csv(folder / "signals.csv", index=False)
    return source


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("nan", r"step 7, node 'n2' is nan"),
        ("unknown", r"edges, row 3: node 'n9' has no column"),
        ("order", r"row 8: time stamp .* does not come after"),
        ("constant", r"node 'n3' is constant"),
        ("short", r"30 steps are too few"),
        ("text", r"'n1' is not numeric"),
    ],
)
def test_bad_signals_are_refused(tmp_path: Path, kind: str, says: str) -> None:
    subject = task()
    source = _bad(tmp_path, kind)

    def fitted() -> Any:
        data = subject.open(source)
        return subject.fit(data, subject.split(data))

    with pytest.raises(BadInput, match=says):
        fitted()


def test_bad_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"edges": [[0, 1]], "node_ids": {"a": 0}}))
    with pytest.raises(BadInput, match="no 'FX'"):
        task().open(str(path))
    path.write_text("{")
    with pytest.raises(BadInput, match="no JSON"):
        task().open(str(path))
    path.write_text(json.dumps({"edges": [[0, 3]], "node_ids": {"a": 0}, "FX": [[1.0], [2.0]]}))
    with pytest.raises(BadInput, match="unknown node, first 0 -> 3"):
        task().open(str(path))


def test_other_nodes_and_other_edges_are_refused_when_predicting(tmp_path: Path) -> None:
    subject = task(lags=4)
    data = subject.open(written(tmp_path, simulated(nodes=4, steps=120).values, [("n0", "n1")]))
    split = subject.split(data)
    fitted = subject.fit(data, split)
    model = subject.build(fitted, load_preset("graph_signals")).eval()
    for name, edges, says in (("a", [("n0", "n2")], "other edges"), ("b", [("n0", "n1")], "other nodes")):
        folder = tmp_path / name
        folder.mkdir()
        source = written(folder, simulated(nodes=4 if name == "a" else 5, steps=60).values, edges)
        with pytest.raises(BadInput, match=says):
            subject.predict(model, fitted, source, _Folder(folder))
