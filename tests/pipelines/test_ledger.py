"""The ledger: rows survive, cut lines do not count, one batch at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ledger import Row, append, owned, read
from shared_backbones.errors import BadRequest


def row(name: str, state: str = "done", **more: object) -> Row:
    return Row(input=name, state=state, folder=name, model="m", **more)  # type: ignore[arg-type]


def test_newest_row_of_an_input_wins(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append(path, row("a", "refused", reason="truncated"))
    append(path, row("b", outputs={"b/x.tif": "00"}))
    append(path, row("a"))
    rows = read(path)
    assert set(rows) == {"a", "b"}
    assert rows["a"].state == "done"
    assert rows["b"].outputs == {"b/x.tif": "00"}
    assert len(path.read_text().splitlines()) == 3  # appended, never rewritten


@given(cut=st.integers(min_value=0, max_value=60), text=st.text(max_size=20))
def test_a_cut_line_is_no_row_and_costs_no_other(tmp_path_factory: pytest.TempPathFactory, cut: int, text: str) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    append(path, row("first", reason=text))
    whole = path.read_bytes()
    append(path, row("second"))
    path.write_bytes(path.read_bytes()[: len(whole) + cut])  # the crash
    append(path, row("third", reason=text))
    rows = read(path)
    assert set(rows) == {"first", "third"}
    assert rows["first"].reason == rows["third"].reason == text


def test_rows_of_a_later_version_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(json.dumps({"input": "a", "state": "done", "folder": "a", "model": "m", "colour": 3}) + "\n[]\n7\n")
    assert read(path)["a"].folder == "a"


def test_one_batch_at_a_time_and_the_kernel_lets_go(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with owned(out), pytest.raises(BadRequest, match="another batch"), owned(out):
        pass
    assert not out.exists()  # nothing came of it: nothing stays
    code = (
        "import os, sys; from pathlib import Path; from pipelines.ledger import owned\n"
        "with owned(Path(sys.argv[1])): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, out], check=False).returncode == 9
    with owned(out):
        (out / "x").touch()
    assert out.exists()
