"""What a process runs under is set when asked and said as it is."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from shared_backbones import runtime
from shared_backbones.errors import BadRequest


def test_configure_records_what_it_set() -> None:
    before = torch.get_num_threads()
    try:
        found = runtime.configure(threads=1, allocator=False)
        assert found["threads"] == torch.get_num_threads() == 1
        assert (found["precision"], found["allocator"], found["torch"]) == ("32", "default", torch.__version__)
        assert runtime.configure()["threads"] == 1  # None leaves them
    finally:
        torch.set_num_threads(before)


def test_allocator_is_set_in_a_process_of_its_own() -> None:
    code = "from shared_backbones.runtime import keep_memory; print(keep_memory())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("glibc") or sys.platform != "linux" or said.strip() == "default"


def test_elsewhere_the_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.platform, "system", lambda: "Darwin")
    assert runtime.keep_memory() == "default"


def test_autocast_by_precision() -> None:
    a = torch.randn(4, 4)
    with runtime.autocast("bf16-mixed"):
        assert (a @ a).dtype == torch.bfloat16
    with runtime.autocast("32"):
        assert (a @ a).dtype == torch.float32


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(BadRequest, match="did you mean 'bf16-mixed'"):
        runtime.configure(precision="bf16")
    with pytest.raises(BadRequest, match="precision"):
        runtime.autocast("8")
    with pytest.raises(BadRequest, match="at least 1"):
        runtime.configure(threads=0)
