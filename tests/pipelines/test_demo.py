"""The demo: every task trained, scored, used, and one page that leads to all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import demo as module
from pipelines.demo import demo
from pipelines.report import write_report

from .made import make_run
from .test_report import Page


def test_one_page_leads_to_everything(toy_task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config: Any, out: Path, *, quiet: bool = False) -> Path:
        assert config.train.epochs <= module.EPOCHS
        folder = out / "toy-line" / "0123456789ab"
        if not folder.exists():
            make_run(folder, task=config.task)
            write_report(folder)
        return folder

    preset = str(Path(__file__).with_name("toy.yaml"))
    monkeypatch.setattr("tests.pipelines.toy.Line.default_preset", preset)
    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "all_tasks", lambda: {toy_task: None})
    first = demo(tmp_path / "demo", quiet=True)
    index = Path(first["index"])
    for link in Page(index.read_text()).links:
        assert (index.parent / link).resolve().is_file(), link
    assert len(first["runs"][0]["predictions"]) == 1
    output = Path(first["runs"][0]["predictions"][0])
    before = output.stat().st_mtime_ns
    again = demo(tmp_path / "demo", quiet=True)
    assert output.stat().st_mtime_ns == before  # what is done already stays
    assert json.dumps(again) == json.dumps(first)


def test_a_task_of_each_domain_or_all_that_are_of_data() -> None:
    one, every = module.shown_tasks(False), module.shown_tasks(True)
    assert [name.partition("/")[0] for name in one] == list(dict.fromkeys(n.partition("/")[0] for n in every))
    assert len(every) > len(one) > 3
    assert set(one) < set(every)
    assert not any(name.startswith("synthetic/") for name in every)
