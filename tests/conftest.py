"""What every test runs under: one thread, no network, no telemetry, hypothesis without a clock."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(DO_NOT_TRACK="1", PREFECT_SERVER_ANALYTICS_ENABLED="false", MPLBACKEND="Agg")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything imports lightning, and with it ONNX Runtime

import socket
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile("cambium", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("cambium")


LONGEST = (
    "test_export_law.py", "test_assemble.py", "test_train.py", "test_laws.py", "test_cli.py", "test_jobs.py",
    "test_command.py", "test_promotion.py", "test_faults.py", "test_export.py",
)  # fmt: skip
UNTRACED = ("test_laws.py", "pipelines", "flows")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: dealt out last, one of them would keep one process at work alone.

    pytest-xdist would put the files with the most tests first (``--no-loadscope-reorder`` in the Makefile).

    Counting lines doubles the time of a test, as the counter is called for every line of torch too. So what runs the
    same lines again and again (the laws of every mixer), or other rooms, is left out of the count: the references, the
    presets and the tests of the domains reach the floor alone.
    """
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        if item.path.name in UNTRACED or item.path.parent.name in UNTRACED:
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails and says whither."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])  # type: ignore[index]
            if host not in {"127.0.0.1", "::1", "localhost"}:
                raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def public_data() -> Path:
    """The folder of public data; skips where there is none."""
    home = os.environ.get("CAMBIUM_DATA")
    if not home or not Path(home).is_dir():
        pytest.skip("CAMBIUM_DATA does not name a folder of public data")
    return Path(home)
