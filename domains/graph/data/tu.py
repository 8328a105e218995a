"""Sets of small graphs in TU style: one text file with given folds, or the folder of ``NAME_A.txt`` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shared_backbones.errors import BadInput

from .assemble import Rules, assemble
from .graph import Given, Graph


def tu_file(folder: Path) -> Path | None:
    """The text file of a folder that also holds ``10fold_idx``, or of the ``NAME_A.txt`` layout."""
    found = sorted(folder.glob("*_A.txt"))
    if not found and (folder / "10fold_idx").is_dir():
        found = sorted(p for p in folder.glob("*.txt") if p.name.upper() != "SOURCE.TXT")
    return found[0] if found else None


def read_tu(path: Path, rules: Rules) -> Graph:
    """Graphs with their labels, node tags one-hot, and given folds where there are any. Raises BadInput."""
    return _folder(path, rules) if path.name.endswith("_A.txt") else _text(path, rules)


def _numbers(path: Path, separator: str | None = None) -> list[list[float]]:
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            rows.append([float(v) for v in (line.replace(",", " ") if separator else line).split()])
        except ValueError:
            raise BadInput(f"{path}, line {number}: numbers are wanted, got {line[:60]!r}") from None
    return [row for row in rows if row]


def one_hot(tags: Any) -> tuple[Any, tuple[str, ...]]:
    """Indicator columns of whole numbers, and their names."""
    values, place = np.unique(np.asarray(tags, np.int64), return_inverse=True)
    found = np.zeros((len(place), len(values)), np.float32)
    found[np.arange(len(place)), place.reshape(-1)] = 1
    return found, tuple(f"tag {v}" for v in values)


def _text(path: Path, rules: Rules) -> Graph:
    """Line 1: number of graphs. Each graph: "n label", then n lines "tag degree neighbours... [attributes...]"."""
    rows, at = _numbers(path), 1
    tags: list[float] = []
    arcs: list[tuple[int, int]] = []
    labels: list[int] = []
    sizes: list[int] = []
    extra: list[list[float]] = []
    try:
        for _ in range(int(rows[0][0])):
            n, label = int(rows[at][0]), int(rows[at][1])
            first, at = len(tags), at + 1
            for i in range(n):
                row = rows[at]
                degree = int(row[1])
                near = [int(v) for v in row[2 : 2 + degree]]
                if len(near) != degree or any(not 0 <= j < n for j in near):
                    raise BadInput(
                        f"{path}, line {at + 1}: node {i} of graph {len(sizes)} names {degree} neighbours among "
                        f"0 .. {n - 1}, got {near}"
                    )
                tags.append(row[0])
                extra.append(row[2 + degree :])
                arcs += [(first + j, first + i) for j in near]
                at += 1
            labels.append(label)
            sizes.append(n)
    except IndexError:
        raise BadInput(f"{path}: ends within graph {len(sizes)} of {int(rows[0][0]) if rows else 0}") from None
    features, names = one_hot(tags)
    if extra and extra[0] and len({len(e) for e in extra}) == 1:
        features = np.concatenate([features, np.asarray(extra, np.float32)], 1)
        names += tuple(f"attribute {i}" for i in range(len(extra[0])))
    given = _folds(path.parent / "10fold_idx", len(sizes))
    return _assembled(path, rules, features, names, np.array(arcs, np.int64).reshape(-1, 2).T, sizes, labels, given)


def _folds(folder: Path, graphs: int) -> Given | None:
    if not folder.is_dir():
        return None
    parts = []
    for number in range(1, len(list(folder.glob("test_idx-*.txt"))) + 1):
        read = {}
        for ours, theirs in (("train", "train"), ("test", "test")):
            file = folder / f"{theirs}_idx-{number}.txt"
            if not file.is_file():
                raise BadInput(f"{file} is missing: every fold needs its train and its test list")
            read[ours] = np.array([int(row[0]) for row in _numbers(file)], np.int64)
        parts.append({"train": read["train"], "val": read["train"][:0], "test": read["test"]})
    return Given(f"{len(parts)} given folds", tuple(parts)) if parts else None


def _folder(path: Path, rules: Rules) -> Graph:
    stem = str(path).removesuffix("_A.txt")

    def part(name: str) -> Any:
        file = Path(f"{stem}_{name}.txt")
        return np.array(_numbers(file, ",")) if file.is_file() else None

    arcs, indicator, labels = part("A"), part("graph_indicator"), part("graph_labels")
    if indicator is None or labels is None:
        raise BadInput(f"{path}: {Path(stem).name}_graph_indicator.txt and _graph_labels.txt must stand beside it")
    home = indicator[:, 0].astype(np.int64) - 1
    if (np.diff(home) < 0).any():
        raise BadInput(f"{stem}_graph_indicator.txt: nodes of one graph must stand together, in order")
    tags, attributes = part("node_labels"), part("node_attributes")
    columns: list[Any] = []
    names: tuple[str, ...] = ()
    if tags is not None:
        columns, names = [one_hot(tags[:, 0])[0]], one_hot(tags[:, 0])[1]
    if attributes is not None:
        columns.append(attributes.astype(np.float32))
        names += tuple(f"attribute {i}" for i in range(attributes.shape[1]))
    features = np.concatenate(columns, 1) if columns else np.ones((len(home), 1), np.float32)
    sizes = np.bincount(home, minlength=len(labels))
    pairs = arcs[:, :2].astype(np.int64).T - 1
    given = _folds(path.parent / "10fold_idx", len(sizes))
    return _assembled(path, rules, features, names, pairs, sizes, labels[:, 0], given)


def _assembled(
    path: Path, rules: Rules, features: Any, names: tuple[str, ...], pairs: Any, sizes: Any, labels: Any, given: Any
) -> Graph:
    values = np.asarray(labels, np.float64)
    whole = np.array_equal(values, np.round(values))
    found, position = np.unique(values, return_inverse=True)
    return assemble(
        str(path),
        features.astype(np.float32),
        pairs,
        rules,
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        columns=names,
        target=position.reshape(-1).astype(np.int64) if whole else values,
        classes=tuple(str(int(c)) for c in found) if whole else (),
        level="graph",
        given=given,
    )
