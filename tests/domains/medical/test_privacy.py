"""Whatever a header plants, no file that a run, a batch, a ledger or a tracker leaves behind holds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.cli import run

from .dicoms import WORDS, write
from .made import scan


def leaks(folder: Path) -> list[str]:
    """Files below that hold a planted word, in whatever case."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes().lower()
            found += [f"{path.name}: {word}" for word in WORDS if word.lower().encode() in content]
    return found


@pytest.mark.slow
def test_planted_identities_reach_no_file_and_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(24):
        pixels = scan(i, (16, 16)).astype(np.uint16) * 4
        write(tmp_path / "in" / ("ill" if i % 2 else "well") / f"{i}.dcm", pixels, PatientID=f"MRN-77421903-{i // 2}")
    write(tmp_path / "new" / "good.dcm", scan(50, (16, 16)).astype(np.uint16))
    write(tmp_path / "new" / "odd.dcm", scan(51, (16, 16)).astype(np.uint16), PhotometricInterpretation="QUILLFEATHER")
    cut = write(tmp_path / "new" / "cut.dcm", scan(52, (16, 16)).astype(np.uint16))
    cut.write_bytes(cut.read_bytes()[:-200])
    small = ["size=16", "cnn_epochs=0", "corrupted=0", "train.epochs=1"]
    sets = [word for s in small for word in ("--set", s)]
    source, runs, out = str(tmp_path / "in"), tmp_path / "runs", tmp_path / "out"
    assert run(["train", "medical/classify", "--data", source, *sets, "--out", str(runs)]) == 0
    done = next((runs / "medical-classify").glob("*/metrics.json")).parent
    assert run(["predict", str(done), str(tmp_path / "new"), "--out", str(out)]) == 3
    ledger = (out / "ledger.jsonl").read_text()
    assert ledger.count('"refused"') == 2
    assert "image-" in (out / "good" / "predictions.csv").read_text()
    told = capfd.readouterr()
    assert not [word for word in WORDS if word in told.out + told.err]
    assert not leaks(runs) + leaks(out)
    assert leaks(tmp_path / "in")  # the search finds what is there
    assert (done / "report.html").is_file()
