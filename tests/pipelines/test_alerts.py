"""Alarms reach a hook on loopback, say nothing of its address, and are kept whether or not it answers."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines import retrain
from pipelines.alerts import ALERTS, HOOK, keep, send
from pipelines.config import resolve
from pipelines.registry import record
from shared_backbones.errors import BadInput, BadRequest

from .made import make_run, rows_task  # noqa: F401 - a fixture

ROW = {"run": "abc", "why": "unlike the training data"}


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """What a server on loopback was sent; a body that asks for it is answered with an error."""
    bodies: list[dict[str, str]] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if "broken" in bodies[-1]["why"] else 200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Taker)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv(HOOK, f"http://127.0.0.1:{server.server_port}/secret-token")
    yield bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_alarm_is_kept_and_sent_once(tmp_path: Path, hook: list[dict[str, str]]) -> None:
    assert keep(tmp_path, ROW)
    assert not keep(tmp_path, ROW)
    assert len(hook) == 1
    assert hook[0]["text"] == "cambium: unlike the training data"
    assert {k: hook[0][k] for k in ROW} == ROW
    assert json.loads((tmp_path / ALERTS).read_text())["run"] == "abc"


def test_a_hook_that_fails_stops_nothing_and_its_address_is_not_said(
    tmp_path: Path, hook: list[dict[str, str]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING):
        assert keep(tmp_path, {**ROW, "why": "broken"})
        monkeypatch.setenv(HOOK, "http://127.0.0.1:9/secret-token")
        assert not send(ROW)
    assert len(caplog.records) == 2
    assert "500" in caplog.text
    assert "secret" not in caplog.text


def test_without_a_hook_nothing_is_sent_and_a_wrong_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOOK, raising=False)
    assert not send(ROW)
    monkeypatch.setenv(HOOK, "file:///etc/secret")
    with pytest.raises(BadRequest, match="must be an http") as caught:
        send(ROW)
    assert "secret" not in str(caught.value)


def test_data_that_may_not_train_a_challenger_are_told(
    tmp_path: Path,
    rows_task: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise BadInput("rows.csv has another schema")

    monkeypatch.setattr(retrain, "checked", refuse)
    request = resolve("toy/rows", data="simulated", preset=str(Path(__file__).with_name("rows.yaml")))
    for told in (0, 1):  # nobody relies on a model that is not there
        with pytest.raises(BadInput, match="another schema"):
            retrain.retrain(request, tmp_path, quiet=True)
        assert (tmp_path / ALERTS).is_file() == bool(told)
        if not told:
            record(make_run(tmp_path / "toy-rows" / "aaaaaaaaaaaa"), tmp_path)
    assert json.loads((tmp_path / ALERTS).read_text())["why"] == "rows.csv has another schema"
