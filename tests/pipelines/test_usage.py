"""What a step took: time, the memory and processor time of its children too; and the events that tell it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.events import WISH, JsonLines, line, tell
from pipelines.usage import EVERY, Usage, as_rows, measured, resident
from shared_backbones.errors import BadRequest

MB = 1_000_000


def test_wall_time_is_the_clocks_and_waiting_takes_no_processor_time() -> None:
    used: list[Usage] = []
    with measured("wait", used):
        time.sleep(0.3)
    assert used[0].step == "wait"
    assert used[0].wall_s >= 0.3
    assert used[0].cpu_s < 0.2


def test_memory_that_is_given_back_counts_at_its_highest() -> None:
    used: list[Usage] = []
    before = resident()
    with measured("hold", used):
        held = bytearray(200 * MB)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(3 * EVERY)
        del held
    assert used[0].peak_rss_mb * MB > before + 150 * MB


def test_a_child_counts_in_both() -> None:
    used: list[Usage] = []
    busy = (
        "import time; held = bytearray(300_000_000); held[::4096] = b'x' * len(held[::4096])\nt = time.process_time()\n"
    )
    busy += "while time.process_time() - t < 1: pass"
    with measured("child", used):
        subprocess.run([sys.executable, "-c", busy], check=True)
    assert used[0].cpu_s >= 1
    assert used[0].peak_rss_mb > 300


def test_a_step_that_fails_is_measured_too() -> None:
    used: list[Usage] = []
    with pytest.raises(ValueError, match="on purpose"), measured("fail", used):
        raise ValueError("on purpose")
    assert [row["step"] for row in as_rows(used)] == ["fail"]


def test_without_a_device_there_is_no_memory_of_one() -> None:
    used: list[Usage] = []
    with measured("plain", used):
        pass
    assert used[0].to_json()["gpu_mb"] is None


# --- events


def test_an_event_is_one_strict_line() -> None:
    told = json.loads(line("epoch", "two\nlines", loss=float("nan"), path=Path("a"), run="abc"))
    assert told.pop("at").endswith("+00:00")
    assert told == {"event": "epoch", "message": "two\nlines", "loss": None, "path": "a", "run": "abc"}
    assert "\n" not in line("epoch", "two\nlines")


def test_text_for_people_and_lines_for_machines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WISH, raising=False)
    tell("step", "took 1 s", run="abc")
    tell("step", "hidden", quiet=True)
    assert capsys.readouterr().err == "took 1 s\n"
    monkeypatch.setenv(WISH, "json")
    tell("step", "took 1 s", quiet=True, run="abc")
    assert json.loads(capsys.readouterr().err)["run"] == "abc"
    record = logging.LogRecord("cambium", logging.INFO, "", 1, "epoch %d", (3,), None)
    record.event, record.fields = "epoch", {"val_loss": 0.5}
    told = json.loads(JsonLines(run="abc").format(record))
    assert (told["event"], told["message"], told["val_loss"], told["run"]) == ("epoch", "epoch 3", 0.5, "abc")


def test_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WISH, "xml")
    with pytest.raises(BadRequest, match="one of text, json; got 'xml'"):
        tell("step", "")


def test_a_command_tells_its_failure_as_an_event(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WISH, "text")  # and it comes back after the test
    assert cli.run(["--log", "json", "backbones", "show", "no_such"]) == 2
    told = json.loads(capfd.readouterr().err)
    assert told["event"] == "error"
    assert "no_such" in told["message"]
    assert cli.run(["--log", "xml", "backbones", "list"]) == 2
    assert "one of text, json" in capfd.readouterr().err
