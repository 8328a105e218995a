"""The toy task, linked as another installed package would link it."""

from __future__ import annotations

from pathlib import Path

import pytest


def link_toy(site: Path, patch: pytest.MonkeyPatch) -> None:
    """Make ``site`` a folder of installed packages with one that brings the toy task, here and in children."""
    info = site / "toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cambium.tasks]\ntoy/line = tests.pipelines.toy:Line\n")
    patch.syspath_prepend(str(site))
    patch.setenv("PYTHONPATH", f"{site}:{Path(__file__).parents[2]}")


def link_rows(site: Path) -> str:
    """The same for ``toy/rows`` without a test's patching; returns what PYTHONPATH must be for children to find it."""
    info = site / "rows-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rows\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cambium.tasks]\ntoy/rows = tests.pipelines.made:Rows\n")
    return f"{site}:{Path(__file__).parents[2]}"


@pytest.fixture
def toy_task(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the toy task, which this process and its children find through an entry point."""
    link_toy(tmp_path_factory.mktemp("site"), monkeypatch)
    return "toy/line"
