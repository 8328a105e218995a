"""The toy task, linked as another installed package would link it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def toy_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the toy task, which this process and its children find through an entry point."""
    site = tmp_path / "site"
    info = site / "toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cambium.tasks]\ntoy/line = tests.pipelines.toy:Line\n")
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{root}")
    return "toy/line"
