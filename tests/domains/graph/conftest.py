"""Small graphs that the tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from domains.graph.data import Graph, Rules, Schema, read_graph


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Encodings are kept in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tables(folder: Path, n: int = 40, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Node and edge tables of a small graph of two classes, written as nodes.csv and edges.csv."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 2
    nodes = pd.DataFrame(
        {
            "id": [f"n{i}" for i in range(n)],
            "a": (kind + rng.normal(size=n)).round(3),
            "b": rng.normal(size=n).round(3),
            "colour": np.where(rng.random(n) < 0.5, "red", "blue"),
            "label": np.where(kind == 1, "yes", "no"),
        }
    )
    ends = np.array([(i, (i + 2 * int(rng.integers(1, 5))) % n) for i in range(n) for _ in range(2)])
    edges = pd.DataFrame({"source": nodes["id"].to_numpy()[ends[:, 0]], "target": nodes["id"].to_numpy()[ends[:, 1]]})
    write(folder, nodes, edges)
    return nodes, edges


def write(folder: Path, nodes: pd.DataFrame, edges: pd.DataFrame) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nodes.to_csv(folder / "nodes.csv", index=False)
    edges.to_csv(folder / "edges.csv", index=False)


COLOURS = Schema(kinds={"colour": "category"})


def opened(folder: Path, schema: Schema = COLOURS, rules: Rules | None = None) -> Graph:
    return read_graph(folder, schema, rules or Rules())
