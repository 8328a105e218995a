"""Another annotator's masks are scored as a row beside the baselines, against the first one's."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from domains.medical.segment import Segment
from domains.medical.segment_config import SegmentOptions
from shared_backbones.errors import BadInput


def written(root: Path, seconds: int = 8) -> Path:
    """Eight images with a square each; the second annotator leaves its last column out."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(8):
        mask = np.zeros((24, 24), np.uint8)
        mask[4:14, 5:15] = 1
        other = mask.copy()
        other[:, 14] = 0
        image = (random.integers(0, 90, mask.shape) + 120 * mask).astype(np.uint8)
        for name, pixels in (("image", image), ("mask", mask), ("second", other)):
            Image.fromarray(pixels).save(root / f"{name}{i}.png")
        second = f"second{i}.png" if i < seconds else ""
        rows.append({"image": f"image{i}.png", "mask": f"mask{i}.png", "patient": f"p{i}", "second": second})
    with (root / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return root


@pytest.mark.parametrize(("seconds", "there"), [(8, True), (0, False)])
def test_a_second_annotator_is_a_row_where_every_test_case_has_one(seconds: int, there: bool, tmp_path: Path) -> None:
    task = Segment(SegmentOptions())
    data = task.open(str(written(tmp_path, seconds)))
    split = task.split(data)
    fitted = json.loads(json.dumps(task.fit(data, split)))
    rows = task.baselines(data, split, fitted)
    assert ("second annotator" in rows) == there
    if there:
        found = task.metrics(rows["second annotator"])
        assert found["dice"] == pytest.approx(2 * 90 / (100 + 90))
        assert found["missed"] == 0


def test_a_second_mask_that_is_not_there_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "second3.png").unlink()
    with pytest.raises(BadInput, match=r"line 5: the second 'second3\.png' is not there"):
        Segment(SegmentOptions()).open(str(tmp_path))
