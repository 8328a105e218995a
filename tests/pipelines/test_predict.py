"""Batch prediction: resumable, atomic, one bad input never costs another."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines import predict as module
from pipelines import sink as sink_module
from pipelines.ledger import read
from pipelines.predict import Summary, expand, input_digests, predict
from pipelines.sink import FolderSink
from pipelines.store import DiskFull
from shared_backbones.errors import BadInput, BadRequest

from .made import make_run, rows_task  # noqa: F401 - a fixture

ROWS = np.random.default_rng(0).normal(size=(5, 4))


@pytest.fixture
def run(rows_task: str, tmp_path: Path) -> Path:  # noqa: F811
    return make_run(tmp_path / "runs" / "toy-rows" / "0123456789ab")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, name in enumerate(("a.npy", "b.npy", "c.npy")):
        np.save(folder / name, ROWS + i)
    return folder


def states(summary: Summary) -> dict[str, str]:
    return {Path(row.input).name: row.state for row in summary.rows}


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_ino) for p in folder.rglob("*") if p.is_file()}


def test_a_batch_and_the_same_again(run: Path, inbox: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = predict(run, [str(inbox)], out)
    assert first.exit_code == 0
    assert states(first) == {"a.npy": "done", "b.npy": "done", "c.npy": "done"}
    assert {p.name for p in out.iterdir()} == {"a", "b", "c", "ledger.jsonl"}
    assert {p.name for p in (out / "a").iterdir()} == {"first.txt", "lineage.json", "prediction.csv"}
    assert len(np.loadtxt(out / "b" / "prediction.csv")) == 5
    before = tree(out)
    again = predict(run, [str(inbox / "*.npy")], out)
    assert len(again.reused) == 3
    assert tree(out) == before  # not one file was touched


def test_only_what_is_missing_is_done_again(run: Path, inbox: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(run, [str(inbox)], out)
    whole = tree(out)
    (out / "a" / "prediction.csv").unlink()
    (out / "b" / "first.txt").write_text("tampered")
    again = predict(run, [str(inbox)], out)
    assert {Path(name).name for name in again.reused} == {"c.npy"}
    assert {k: v[0] for k, v in tree(out).items() if k != "ledger.jsonl"} == {
        k: v[0] for k, v in whole.items() if k != "ledger.jsonl"
    }
    np.save(inbox / "c.npy", ROWS * 2)  # another input under the old name
    third = predict(run, [str(inbox)], out)
    assert {Path(name).name for name in third.reused} == {"a.npy", "b.npy"}
    assert tree(out)["c/prediction.csv"][0] != whole["c/prediction.csv"][0]


def test_another_model_predicts_anew(run: Path, inbox: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "runs" / "toy-rows" / "other", seed=1)
    out = tmp_path / "out"
    predict(run, [str(inbox)], out)
    before = tree(out)["a/prediction.csv"][0]
    assert not predict(other, [str(inbox)], out).reused
    assert tree(out)["a/prediction.csv"][0] != before


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_inputs_are_refused_and_the_rest_is_done(run: Path, inbox: Path, tmp_path: Path, workers: int) -> None:
    (inbox / "b.npy").write_bytes((inbox / "b.npy").read_bytes()[:-7])  # truncated
    np.save(inbox / "wide.npy", np.zeros((3, 5)))
    out = tmp_path / "out"
    summary = predict(run, [str(inbox), str(inbox / "gone.npy")], out, workers=workers)
    assert summary.exit_code == 3
    assert states(summary) == {
        "a.npy": "done",
        "b.npy": "refused",
        "c.npy": "done",
        "wide.npy": "refused",
        "gone.npy": "refused",
    }
    reasons = {Path(r["input"]).name: r["reason"] for r in summary.to_json()["refused"]}
    assert "rows of 4 numbers, got shape (3, 5)" in reasons["wide.npy"]
    assert {p.name for p in out.iterdir()} == {"a", "c", "ledger.jsonl"}
    rows = read(out / "ledger.jsonl")
    assert len(rows) == 5
    assert rows[str(inbox / "a.npy")].facts == {"rows": 5}
    np.save(inbox / "b.npy", ROWS)  # mended
    again = predict(run, [str(inbox / "*.npy")], out)
    assert states(again)["b.npy"] == "done"
    assert len(again.reused) == 2


def test_an_unexpected_failure_is_told_from_a_refusal(run: Path, inbox: Path, tmp_path: Path) -> None:
    np.save(inbox / "b.npy", np.full((2, 4), 1e30))
    summary = predict(run, [str(inbox)], tmp_path / "out")
    assert summary.exit_code == 1
    assert states(summary) == {"a.npy": "done", "b.npy": "failed", "c.npy": "done"}
    assert not (tmp_path / "out" / "b").exists()  # its first file was written before it failed
    assert not list((tmp_path / "out").glob(".*"))


def test_a_single_refused_input_writes_nothing(run: Path, inbox: Path, tmp_path: Path) -> None:
    np.save(inbox / "wide.npy", np.zeros((3, 5)))
    for name in ("wide.npy", "missing.npy"):
        with pytest.raises(BadInput):
            predict(run, [str(inbox / name)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_half_written(
    run: Path, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls, fsync = tmp_path / "out", [], os.fsync

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 5:  # among the files of the second input
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(sink_module.os, "fsync", full)
    with pytest.raises(DiskFull, match="no space left"):
        predict(run, [str(inbox)], out)
    monkeypatch.setattr(sink_module.os, "fsync", fsync)
    assert {p.name for p in out.iterdir()} == {"a", "ledger.jsonl"}
    again = predict(run, [str(inbox)], out)
    assert (len(again.reused), again.exit_code) == (1, 0)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="only root can mount a small disk")
def test_a_disk_that_is_really_full(run: Path, inbox: Path, tmp_path: Path) -> None:
    np.save(inbox / "b.npy", np.zeros((40000, 4)))  # its prediction takes 1 MB
    out = tmp_path / "small"
    out.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", out], check=False, capture_output=True
    ).returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        with pytest.raises(DiskFull, match="no space left"):
            predict(run, [str(inbox)], out / "o")
        assert {p.name for p in (out / "o").iterdir()} == {"a", "ledger.jsonl"}
        np.save(inbox / "b.npy", ROWS)
        assert predict(run, [str(inbox)], out / "o").exit_code == 0
    finally:
        subprocess.run(["umount", out], check=True)


def test_kill_9_and_go_on(run: Path, inbox: Path, tmp_path: Path) -> None:
    for i in range(40):
        np.save(inbox / f"n{i}.npy", np.zeros((3000, 4)))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipelines.cli", "predict", str(run), str(inbox), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(read(out / "ledger.jsonl")) < 3:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    done = [row for row in read(out / "ledger.jsonl").values() if row.state == "done"]
    assert len(done) >= 3
    summary = predict(run, [str(inbox)], out)
    assert summary.exit_code == 0
    assert len(summary.reused) >= len(done)
    assert summary.count("done") == 43
    assert not list(out.glob(".*"))


def test_same_names_from_two_folders(run: Path, inbox: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(inbox, other)
    out = tmp_path / "out"
    predict(run, [str(inbox / "a.npy"), str(other)], out)
    assert {p.name for p in out.iterdir() if p.is_dir()} == {"a", "a-2", "b", "c"}
    again = predict(run, [str(other), str(inbox)], out)  # in another order, and more of them
    assert len(again.reused) == 4
    assert {p.name for p in out.iterdir() if p.is_dir()} == {"a", "a-2", "b", "b-2", "c", "c-2"}


def test_requests_that_cannot_be_met(run: Path, inbox: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BadRequest, match="unknown engine 'spark'"):
        predict(run, [str(inbox)], out, engine="spark")
    with pytest.raises(BadRequest, match="at least 1"):
        predict(run, [str(inbox)], out, workers=0)
    with pytest.raises(BadRequest, match=r"no file that ends in \.npy"):
        predict(run, [str(tmp_path / "runs")], out)
    with pytest.raises(BadRequest, match="no run directory"):
        predict(tmp_path / "nowhere", [str(inbox)], out)
    with pytest.raises(BadRequest, match=r"holds no model\.json"):
        predict(inbox, [str(inbox)], out)
    (run / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(BadInput, match="has changed"):
        predict(run, [str(inbox)], out)
    assert not out.exists()
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match="cannot write to the output folder"):
        predict(make_run(tmp_path / "r2"), [str(inbox)], tmp_path / "file" / "out")


def test_inputs_are_expanded_in_order_and_once(inbox: Path, tmp_path: Path) -> None:
    (inbox / ".hidden.npy").touch()
    (inbox / "note.txt").touch()
    out = inbox / "out"
    (out / "a").mkdir(parents=True)
    (out / "a" / "own.npy").touch()
    names = [Path(p).name for p in expand([str(inbox / "c.npy"), str(inbox), str(inbox / "**")], out, (".npy",))]
    assert names == ["c.npy", "a.npy", "b.npy"]
    assert expand(["simulated", "https://x.org/a.npy", "gone.npy"], out) == [
        "simulated",
        "https://x.org/a.npy",
        "gone.npy",
    ]
    odd = inbox / "odd [1].npy"
    odd.touch()
    assert expand([str(odd)], out) == [str(odd)]  # a file's own name is no pattern


def test_sidecars_are_part_of_an_input(tmp_path: Path) -> None:
    for name in ("scene.hdr", "scene", "scene.hdr.aux.xml", "scene2.hdr", "scene.v2.hdr"):
        (tmp_path / name).write_text(name)
    header = str(tmp_path / "scene.hdr")
    before = input_digests([header])[header]
    (tmp_path / "scene2.hdr").write_text("changed")
    (tmp_path / "scene.v2.hdr").write_text("changed")
    assert input_digests([header])[header] == before
    (tmp_path / "scene").write_text("changed")
    assert input_digests([header])[header] != before
    named = input_digests(["simulated", "salinas_a", "https://x.org/a.npy"])
    assert named["simulated"] not in (None, named["salinas_a"])
    assert named["https://x.org/a.npy"] is None  # nobody knows what stands there tomorrow


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", "/etc/x", "twice"])
def test_a_sink_keeps_to_its_folder(tmp_path: Path, name: str) -> None:
    sink = FolderSink(tmp_path, "a")
    with sink.file("twice") as path:
        path.touch()
    with pytest.raises(ValueError, match="plain file names"), sink.file(name):
        pass


def test_a_sink_publishes_all_or_nothing(tmp_path: Path) -> None:
    sink = FolderSink(tmp_path, "a")
    with sink.file("x.tif") as path:
        path.write_text("x")
        path.with_name("x.tif.aux.xml").write_text("sidecar of a library")
    with pytest.raises(ZeroDivisionError), sink.file("y.tif") as path:
        path.write_text(f"half {1 / 0}")
    assert not (tmp_path / "a").exists()
    assert set(sink.publish()) == {"a/x.tif", "a/x.tif.aux.xml"}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_answer_is_plain(run: Path, inbox: Path, tmp_path: Path) -> None:
    summary = predict(run, [str(inbox)], tmp_path / "out")
    assert json.loads(json.dumps(summary.to_json()))["done"] == 3
    assert module.model_digest(run) == summary.rows[0].model
