"""Planetoid raw files (``ind.NAME.x`` ... ``ind.NAME.test.index``): old pickles, read as inert records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from shared_backbones.errors import BadInput

from .assemble import Rules, assemble
from .graph import Given, Graph
from .inert import inert

_PARTS = ("x", "y", "tx", "ty", "allx", "ally", "graph")


def planetoid_name(folder: Path) -> str | None:
    """NAME, where a folder holds the Planetoid files ``ind.NAME.*``."""
    found = sorted(p.name.split(".")[1] for p in folder.glob("ind.*.allx"))
    return found[0] if found else None


def read_planetoid(folder: Path, name: str, rules: Rules) -> Graph:
    """A citation graph with its public split: training nodes first, 500 for validation, the given test nodes.

    Test nodes that the files leave out (isolated ones, in CiteSeer) have zero features and no known class.
    Raises BadInput where a file is missing, damaged, or would execute.
    """
    files = {part: folder / f"ind.{name}.{part}" for part in (*_PARTS, "test.index")}
    missing = [p.name for p in files.values() if not p.is_file()]
    if missing:
        raise BadInput(f"{folder}: missing {', '.join(missing)}; the Planetoid layout needs all of ind.{name}.*")
    raw: dict[str, Any] = {part: inert(files[part].read_bytes(), str(files[part])) for part in _PARTS}
    try:
        test = np.array([int(line) for line in files["test.index"].read_text().split()], np.int64)
    except ValueError as error:
        raise BadInput(f"{files['test.index']}: node numbers, one a line, are wanted ({error})") from None
    known, train = raw["allx"].shape[0], len(raw["y"])
    n = max(int(test.max()) + 1, len(raw["graph"]))
    features = sp.lil_matrix((n, raw["allx"].shape[1]), dtype=np.float32)
    labels = np.zeros((n, raw["ally"].shape[1]), np.int64)
    features[:known], labels[:known] = raw["allx"], raw["ally"]
    features[test], labels[test] = raw["tx"], raw["ty"]
    target = np.where(labels.sum(1) > 0, labels.argmax(1), -1)
    pairs = np.array([(i, j) for i, near in raw["graph"].items() for j in near], np.int64).reshape(-1, 2).T
    parts = {"train": np.arange(train), "val": np.arange(train, min(train + 500, known)), "test": np.sort(test)}
    return assemble(
        str(folder),
        np.asarray(features.todense(), np.float32),
        pairs,
        rules,
        target=target,
        classes=tuple(str(c) for c in range(labels.shape[1])),
        given=Given("Planetoid public", (parts,)),
    )
