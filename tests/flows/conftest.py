"""One loopback server for all tests of flows, and the toy tasks, which need no data and train in seconds."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import Server, loopback_server
from tests.pipelines.conftest import link_toy


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run root of all tests here; Prefect's database in it is made once."""
    return tmp_path_factory.mktemp("flows")


@pytest.fixture(scope="package")
def server(root: Path) -> Iterator[Server]:
    """A server whose environment holds while the tests of this folder run."""
    before = logging.raiseExceptions
    with loopback_server(root) as running:
        yield running
    logging.raiseExceptions = before


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The toy task, found here and in child processes as another package's would be."""
    link_toy(tmp_path / "site", monkeypatch)
    return "toy/line"
