"""One loopback server for all tests of flows, and the toy tasks, which need no data and train in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import Server, loopback_server


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run root of all tests here; Prefect's database in it is made once."""
    return tmp_path_factory.mktemp("flows")


@pytest.fixture(scope="package")
def server(root: Path) -> Iterator[Server]:
    """A server whose environment holds while the tests of this folder run."""
    with loopback_server(root) as running:
        yield running


@pytest.fixture
def toy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """A toy task that predicts rows of .npy files, found here and in child processes as another package's would be."""
    site = tmp_path_factory.mktemp("site")
    info = site / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cambium.tasks]\ntoy/rows = tests.pipelines.made:Rows\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{Path(__file__).parents[2]}")
    return "toy/rows"
