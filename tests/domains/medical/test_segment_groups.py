"""Copies and near copies of segmented cases stay on one side; sites test whole."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from domains.medical.segment import Segment
from shared_backbones.errors import BadInput

from .made import scan


def task(**split: Any) -> Segment:
    return Segment(Segment.Config.model_validate({"split": split, "patches": 2, "batch": 1}))


def scans(root: Path, columns: dict[str, list[str]] | None = None) -> Path:
    """Nine pictures of which 3 is a copy of 0 and 4 another exposure of 1, and a table of them."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(9):
        x = scan({3: 0, 4: 1}.get(i, i))
        x = (x * 0.8).astype(np.uint8) if i == 4 else x
        Image.fromarray(x).save(root / "images" / f"{i}.png")
        Image.fromarray((x > 128).astype(np.uint8)).save(root / "masks" / f"{i}.png")
    if columns:
        with (root / "manifest.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "mask", *columns])
            table.writerows([f"images/{i}.png", f"masks/{i}.png", *(c[i] for c in columns.values())] for i in range(9))
    return root


def sides(split: Any) -> list[set[int]]:
    return [{int(row[0]) for row in rows} for rows in split.parts.values()]


def test_copies_and_near_copies_are_never_divided(tmp_path: Path) -> None:
    data = task().open(str(scans(tmp_path)))
    assert data.manifest.facts["exact_copies"] == 1
    assert data.manifest.facts["equal_hash_cases"] == 4
    assert data.manifest.facts["groups"] == 7
    for fold in range(5):
        t = task(fold=fold)
        split = t.split(data)
        assert all(
            ({0, 3} <= side or not {0, 3} & side) and ({1, 4} <= side or not {1, 4} & side) for side in sides(split)
        )
        assert "copies together" in split.protocol
        audits = {a.name: a for a in t.audit(data, split)}
        assert audits["test_groups_in_training"].passed
    split = task(by="blocks", folds=3).split(data)  # 0 and 1 test, their copies train
    audits = {a.name: a for a in task().audit(data, split)}
    assert (audits["test_images_in_training"].value, audits["test_groups_in_training"].value) == (1, 2)
    assert audits["test_groups_in_training"].passed is False


def test_sites_test_whole_and_a_patient_of_two_sites_joins_them(tmp_path: Path) -> None:
    sites = list("aabacbbcd")
    data = task().open(str(scans(tmp_path / "a", {"site": sites})))
    assert data.manifest.facts["sites"] == 4
    split = task(by="sites", folds=3).split(data)
    held = [{sites[i] for i in side} for side in sides(split)]
    assert sorted(site for side in held for site in side) == sorted(set(sites))
    assert any({"a", "c"} <= side for side in held)  # picture 1 of a is all but a copy of picture 4 of c
    with pytest.raises(BadInput, match="needs a site for every case"):
        task(by="sites").split(task().open(str(scans(tmp_path / "b"))))
    patients = list("xyzuvwwxw")  # 5, 6 and 8 are of one patient, 0 and 7 of another
    data = task().open(str(scans(tmp_path / "c", {"site": list("aabacbbcd"), "patient": patients})))
    with pytest.raises(BadInput, match="join its 4 sites to 2"):
        task(by="sites").split(data)
