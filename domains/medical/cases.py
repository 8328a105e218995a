"""Labelled images in memory, checked: canvases, labels with gaps, patients and copies, and the data card."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from shared_backbones.errors import BadInput

from ..task import Manifest
from .duplicates import Duplicates

DEFAULT_SIDE = 96
MISSING = {"", "nan", "na", "none", "-1", "-1.0", "?"}  # -1: uncertain, as radiologists' reports are read
TRUTH = {"0": 0.0, "0.0": 0.0, "false": 0.0, "no": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0}


@dataclass(frozen=True)
class Cases:
    """Images of one source. exclusive: exactly one label is true of each case, and every one is known.

    target: 1 true, 0 false, NaN not known. group: cases that must not be divided. patients, sites, parts, folds: ""
    where the source says none.
    """

    manifest: Manifest
    canvases: UInt8[np.ndarray, "n C S S"]
    target: Float32[np.ndarray, "n L"]
    labels: tuple[str, ...]
    exclusive: bool
    names: tuple[str, ...]
    patients: tuple[str, ...]
    sites: tuple[str, ...]
    parts: tuple[str, ...]
    folds: tuple[str, ...]
    group: Int64[np.ndarray, "n"]
    keys: tuple[str, ...]  # of the pixels

    def __len__(self) -> int:
        return len(self.canvases)

    @property
    def classes(self) -> Int64[np.ndarray, "n"]:
        """The true label of each case, where labels are exclusive."""
        return self.target.argmax(1).astype(np.int64)


@dataclass(frozen=True)
class Labels:
    """What is to be told: names, values, and whether exactly one is true of each case."""

    names: tuple[str, ...]
    target: Float32[np.ndarray, "n L"]
    exclusive: bool


def natural(name: str) -> tuple[int, float, str]:
    """Order of names: numbers by value, then words."""
    return (0, float(name), name) if name.isdigit() else (1, 0.0, name)


def labels_of(
    source: str,
    rows: Sequence[dict[str, str]],
    where: Sequence[str],
    separator: str | None,
    positive: str | None = None,
) -> Labels:
    """Labels of a manifest's or a folder's cells, one row per case.

    One column names the class of each case, or lists several labels where ``separator`` is given; several columns are
    one label each, of 0, 1 or empty. Raises BadInput.
    """
    columns = list(rows[0]) if rows else []
    if not columns:
        raise BadInput(f"{source}: no labels. Give a folder with a folder per class, or a manifest with label columns")
    if len(columns) > 1:
        return _columns(columns, rows, where)
    cells = [row.get(columns[0], "") for row in rows]
    if separator is not None:
        return _listed(source, cells, separator)
    for cell, place in zip(cells, where, strict=True):
        if cell.lower() in ("", "nan"):
            raise BadInput(f"{place}: no class in column {columns[0]}. Leave the row out, or name its class")
    if positive is not None and positive not in cells:
        raise BadInput(f"{source}: no case of class positive={positive!r}; there are {', '.join(sorted(set(cells)))}")
    names = tuple(sorted(set(cells), key=lambda name: (name == positive, natural(name))))
    target = np.array([[float(cell == name) for name in names] for cell in cells], np.float32)
    return Labels(names, target, True)


def _columns(columns: Sequence[str], rows: Sequence[dict[str, str]], where: Sequence[str]) -> Labels:
    target = np.full((len(rows), len(columns)), np.nan, np.float32)
    for i, (row, place) in enumerate(zip(rows, where, strict=True)):
        for j, column in enumerate(columns):
            cell = row[column].lower()
            if cell in TRUTH:
                target[i, j] = TRUTH[cell]
            elif cell not in MISSING:
                raise BadInput(
                    f"{place}, column {column}: {row[column]!r}; a label column holds 0, 1, or nothing where it is not "
                    "known. Name the columns that are labels with label_columns=[...]"
                )
        if np.isnan(target[i]).all():
            raise BadInput(f"{place}: none of its labels is known. Leave the row out")
    return Labels(tuple(columns), target, False)


def _listed(source: str, cells: Sequence[str], separator: str) -> Labels:
    said = [{part.strip() for part in cell.split(separator) if part.strip()} for cell in cells]
    names = tuple(sorted(set().union(*said), key=natural))
    if not names:
        raise BadInput(f"{source}: no case has any label (separator={separator!r})")
    return Labels(names, np.array([[float(name in s) for name in names] for s in said], np.float32), False)


def balance_of(labels: Labels) -> dict[str, dict[str, int]]:
    """Label -> how many cases have it, have it not, and are not known."""
    return {
        name: {
            "true": int((labels.target[:, i] == 1).sum()),
            "false": int((labels.target[:, i] == 0).sum()),
            "unknown": int(np.isnan(labels.target[:, i]).sum()),
        }
        for i, name in enumerate(labels.names)
    }


def _kind(labels: Labels) -> str:
    if not labels.names:
        return "no labels"
    return ("two classes" if len(labels.names) == 2 else "classes") if labels.exclusive else "several labels"


def cases_of(
    source: str, licence: str, canvases: UInt8[np.ndarray, "n C S S"], labels: Labels, keys: Sequence[str],
    found: Duplicates, said: dict[str, Sequence[str]], facts: dict[str, Any],
) -> Cases:  # fmt: skip
    """Checked cases with their data card. said: names, patients, sites, parts and folds of every case."""
    if labels.names and len(labels.names) < 1 + labels.exclusive:
        raise BadInput(f"{source}: one class only ({', '.join(labels.names)}); give at least two")
    text = "".join(
        f"{key}|{row.tobytes().hex()}|{p}|{part}|{fold}\n"
        for key, row, p, part, fold in zip(
            keys, labels.target, said["patients"], said["parts"], said["folds"], strict=True
        )
    )
    shape = "x".join(map(str, canvases.shape[1:]))
    sha256 = hashlib.sha256(f"{shape}{labels.names}{labels.exclusive}\n{text}".encode()).hexdigest()
    patients = {p for p in said["patients"] if p}
    card = {
        "cases": len(canvases),
        "task": _kind(labels),
        "labels": balance_of(labels),
        "canvas": f"{canvases.shape[2]} x {canvases.shape[3]} pixels, {'grey' if canvases.shape[1] == 1 else 'colour'}",
        "patients": len(patients) if patients else "not known",
        "sites": dict(sorted(Counter(s for s in said["sites"] if s).items())),
        "copies_and_groups": found.facts(),
        "use": "for research use; not a medical device",
        **facts,
    }
    return Cases(
        Manifest(source, sha256, licence, card), canvases, labels.target, labels.names, labels.exclusive,
        tuple(said["names"]), tuple(said["patients"]), tuple(said["sites"]), tuple(said["parts"]),
        tuple(said["folds"]), found.group, tuple(keys),
    )  # fmt: skip


def poisoned(data: Cases, rows: Any) -> Cases:
    """Noise for images, and other labels, in the rows given; who belongs together stays."""
    random = np.random.default_rng(0)
    canvases, target = data.canvases.copy(), data.target.copy()
    canvases[rows] = random.integers(0, 256, canvases[rows].shape, np.uint8)
    target[rows] = np.roll(target[rows], 1, 1) if data.exclusive else 1 - target[rows]
    return replace(data, canvases=canvases, target=target)
