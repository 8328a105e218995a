"""``cambium overfit``: one batch learned by heart, and a model that cannot is found out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import cli


def test_one_batch_is_learned_by_heart(
    toy_task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["overfit", toy_task, "--items", "4", "--set", "train.lr=0.02"]
    assert cli.run([*argv, "--steps", "150", "--json"]) == 0
    values = json.loads(capfd.readouterr().out)
    assert values["passed"]
    assert values["last_loss"] < 0.1 * values["first_loss"]
    assert values["items"] == 4
    assert cli.run([*argv, "--steps", "1"]) == 1
    assert "NOT learned by heart" in capfd.readouterr().out
    assert not list(tmp_path.iterdir())
