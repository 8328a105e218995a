"""Following a growing source: pieces do not matter, memory does not grow, a stop loses and repeats nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domains import load_task
from domains.audio.data import write_wav
from domains.following import Lines
from pipelines.cli import run as cli
from pipelines.follow import ROWS, follow
from pipelines.predict import predict
from pipelines.runs import load_run
from pipelines.sink import FolderSink
from shared_backbones.errors import BadInput, BadRequest

from .made import untrained_run

SMALL: dict[str, dict[str, Any]] = {
    "timeseries/forecast": {"lookback": 24, "horizon": 3, "ets_origins": 0},
    "timeseries/detect": {
        "simulated": {"series": 3, "steps": 700}, "lookback": 16, "forest_trees": 0, "discord_cells": 0,
        "probation_most": 90,
    },
    "audio/classify": {
        "simulated": {"speakers": 4, "takes": 3, "words": 3}, "cnn_epochs": 0, "chunk_s": 0.4, "whole_s": 0.5,
    },
}  # fmt: skip


TABLES = ["timeseries/forecast", "timeseries/detect"]  # rows with a clock


@given(st.lists(st.binary(max_size=9).filter(lambda b: b"\n" not in b and b"\r" not in b and b.strip()), max_size=9),
       st.integers(1, 7))  # fmt: skip
@settings(max_examples=50)
def test_lines_come_whole_however_they_are_cut(lines: list[bytes], size: int) -> None:
    content = b"".join(line + b"\r\n" for line in lines) + b"torn"
    cut = Lines()
    found = [line for i in range(0, len(content), size) for line in cut.push(content[i : i + size])]
    assert found == [line + b"\n" for line in lines]
    assert cut.rest == b"torn"


@pytest.fixture(scope="module", params=list(SMALL))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, untrained_run(request.param, SMALL[request.param], tmp_path_factory.mktemp("runs") / "run")


def a_source(task: str, run: Path, folder: Path) -> Path:
    """A source longer than what any of the models looks back on."""
    if task == "audio/classify":
        rate = int(load_run(run).fitted["rate"])
        write_wav(folder / "x.wav", 0.3 * np.random.default_rng(0).standard_normal(round(2.7 * rate)), rate)
        return folder / "x.wav"
    if task == "timeseries/forecast":
        data = load_task(task)(load_task(task).Config.model_validate(SMALL[task])).open("simulated")
        table = pd.DataFrame(data.values[:40], columns=list(data.names))
        table.insert(0, "date", data.times[:40])
        table.iloc[33, 2] = np.nan
    else:
        wave = np.sin(np.arange(700) / 5) + 0.1 * np.random.default_rng(1).standard_normal(700)
        wave[[400, 401, 600]] += 4
        label = np.isin(np.arange(700), [400, 401, 600]).astype(int)  # the answer, which is not to be watched
        stamps = pd.date_range("2024-01-01", periods=700, freq="h")
        table = pd.DataFrame({"time": stamps, "value": wave, "label": label})
    table.to_csv(folder / "x.csv", index=False)
    return folder / "x.csv"


def whole(task: str, run: Path, source: Path, folder: Path) -> list[dict[str, Any]]:
    """What the batch says: the reference."""
    trained = load_run(run)
    trained.model.eval()
    sink = FolderSink(folder, "out")
    if task != "timeseries/forecast":
        trained.task.predict(trained.model, trained.fitted, str(source), sink)
        sink.publish()
        name = "predictions.csv" if task == "audio/classify" else "scores.csv"
        return pd.read_csv(folder / "out" / name).to_dict("records")
    lines, found = source.read_text().splitlines(), []
    for end in range(24, 41):
        (folder / "so_far.csv").write_text("\n".join(lines[: end + 1]) + "\n")
        sink = FolderSink(folder, f"out{end}")
        trained.task.predict(trained.model, trained.fitted, str(folder / "so_far.csv"), sink)
        sink.publish()
        found.append(pd.read_csv(folder / f"out{end}" / "forecast.csv").to_dict("list"))
    return found


def test_following_equals_the_batch_however_the_bytes_come(run: tuple[str, Path], tmp_path: Path) -> None:
    task, folder = run
    source = a_source(task, folder, tmp_path)
    expected = whole(task, folder, source, tmp_path)
    trained = load_run(folder)
    trained.model.eval()
    for size in (97, 10**6):
        content, rows = source.read_bytes(), []
        follower = trained.task.follow(trained.model, trained.fitted)
        for i in range(0, len(content), size):
            rows += list(follower.push(content[i : i + size]))
        json.dumps(rows)
        if task == "timeseries/forecast":
            assert len(rows) == len(expected) == 17
            for row, table in zip(rows, expected, strict=True):
                got = [v for name in trained.fitted["names"] for v in row["series"][name]["forecast"]]
                np.testing.assert_allclose(got, table["forecast"], rtol=1e-5, atol=1e-6)
                assert row["ds"] == table["ds"][:3]
        elif task == "timeseries/detect":
            late = [row for row in expected if not row["probation"]]
            assert len(rows) == len(late) == 610
            np.testing.assert_allclose([r["score"] for r in rows], [r["score"] for r in late], rtol=1e-4, atol=1e-5)
            assert [r["alarm"] for r in rows] == [r["alarm"] for r in late]
            assert [r["time"] for r in rows] == [r["time"] for r in late]
            assert sum(r["alarm"] for r in rows) >= 1
        else:
            full = [r for r in expected if r["end"] - r["start"] > 0.4 - 1e-6]
            assert len(rows) == len(full) >= 4
            for row, known in zip(rows, full, strict=True):
                assert (row["start"], row["prediction"]) == (known["start"], known["prediction"])
                assert row["confidence"] == pytest.approx(known["confidence"], abs=1e-4)


def test_a_stopped_following_goes_on_behind_its_rows(run: tuple[str, Path], tmp_path: Path) -> None:
    task, folder = run
    source = a_source(task, folder, tmp_path)
    content, grown, out = source.read_bytes(), tmp_path / "grown", tmp_path / "out"
    grown.write_bytes(content[: 2 * len(content) // 3])
    first = follow(folder, str(grown), out, every=0.01, idle=0.0)
    with (out / ROWS).open("ab") as file:
        file.write(b'{"torn": ')  # killed while writing

    def grow() -> None:
        time.sleep(0.2)
        with grown.open("ab") as file:  # written anew it would be shorter for a moment, which is refused
            file.write(content[2 * len(content) // 3 :])

    done = threading.Thread(target=grow)
    done.start()
    second = follow(folder, str(grown), out, every=0.01, idle=1.0)
    done.join()
    straight = follow(folder, str(source), tmp_path / "straight", idle=0.0)
    assert first["rows"] + second["new"] == second["rows"] == straight["rows"]
    assert (out / ROWS).read_bytes() == (tmp_path / "straight" / ROWS).read_bytes()
    with pytest.raises(BadRequest, match="another model or source"):
        follow(folder, str(source), out, idle=0.0)


def spoiled(lines: list[str], row: int, how: str) -> list[str]:
    """The lines with one of them (its place, the head is 0) made unreadable, or its clock set back."""
    cells = lines[row].split(",")
    bad = {
        "value": ",".join([cells[0], "oops", *cells[2:]]),
        "stamp": ",".join(["yesterday", *cells[1:]]),
        "long": lines[row] + ",7,8",
        "back": ",".join([lines[row - 3].split(",")[0], *cells[1:]]),
        "twice": ",".join([lines[row - 1].split(",")[0], *cells[1:]]),
    }
    return [*lines[:row], bad[how], *lines[row + 1 :]]


@pytest.mark.parametrize("run", TABLES, indirect=True)
@pytest.mark.parametrize("how", ["value", "stamp", "long", "back", "twice"])
def test_rows_before_a_bad_one_are_told_and_its_own_row_is_named(
    run: tuple[str, Path], tmp_path: Path, how: str
) -> None:
    task, folder = run
    lines = a_source(task, folder, tmp_path).read_text().splitlines()
    first, row = (24, 30) if task == "timeseries/forecast" else (90, 120)
    source = tmp_path / "spoiled.csv"
    source.write_text("\n".join(spoiled(lines, row, how)) + "\n")
    with pytest.raises(BadInput, match=rf"(row|line) {row + 1}\b"):
        follow(folder, str(source), tmp_path / "out", idle=0.0)
    assert len((tmp_path / "out" / ROWS).read_text().splitlines()) == row - 1 - first + (task == "timeseries/forecast")
    source.write_text("\n".join(lines) + "\n")  # mended
    follow(folder, str(source), tmp_path / "out", idle=0.0)
    follow(folder, str(tmp_path / "x.csv"), tmp_path / "straight", idle=0.0)
    assert (tmp_path / "out" / ROWS).read_bytes() == (tmp_path / "straight" / ROWS).read_bytes()


@pytest.mark.parametrize("run", TABLES, indirect=True)
def test_a_clock_that_goes_back_early_is_refused_too(run: tuple[str, Path], tmp_path: Path) -> None:
    task, folder = run
    lines = a_source(task, folder, tmp_path).read_text().splitlines()
    source = tmp_path / "spoiled.csv"
    source.write_text("\n".join(spoiled(lines, 9, "back")) + "\n")
    with pytest.raises(BadInput, match="row 10"):
        follow(folder, str(source), tmp_path / "out", idle=0.0)


@pytest.mark.parametrize("run", ["timeseries/forecast"], indirect=True)
def test_advice_that_only_training_can_take_says_so(run: tuple[str, Path], tmp_path: Path) -> None:
    task, folder = run
    source = a_source(task, folder, tmp_path)
    source.write_text(source.read_text().replace(",", ";"))
    for answer in (lambda: predict(folder, [str(source)], tmp_path / "out"),
                   lambda: follow(folder, str(source), tmp_path / "rows", idle=0.0)):  # fmt: skip
        with pytest.raises(BadInput, match=r"--set separator=';'.*\(a run reads as it was trained to: --set is for"):
            answer()


@pytest.mark.parametrize("run", ["timeseries/detect"], indirect=True)
def test_rows_without_a_clock_are_numbered_as_in_the_batch(run: tuple[str, Path], tmp_path: Path) -> None:
    task, folder = run
    table = pd.read_csv(a_source(task, folder, tmp_path)).drop(columns="time")
    table.to_csv(tmp_path / "bare.csv", index=False)
    expected = [row["time"] for row in whole(task, folder, tmp_path / "bare.csv", tmp_path) if not row["probation"]]
    trained, rows = load_run(folder), []
    follower = trained.task.follow(trained.model.eval(), trained.fitted)
    content = (tmp_path / "bare.csv").read_bytes()
    for i in range(0, len(content), 500):
        rows += list(follower.push(content[i : i + 500]))
    assert [row["time"] for row in rows] == expected == list(range(90, 700))


@pytest.mark.parametrize("run", ["timeseries/forecast"], indirect=True)
def test_a_forecast_goes_on_through_an_outage(run: tuple[str, Path], tmp_path: Path) -> None:
    task, folder = run
    config = load_task(task).Config.model_validate(SMALL[task])
    data = load_task(task)(config).open("simulated")
    table = pd.DataFrame(data.values[:110], columns=list(data.names))
    table.insert(0, "date", data.times[:110])
    table.drop(index=range(40, 70)).to_csv(tmp_path / "outage.csv", index=False)
    with (tmp_path / "outage.csv").open("a") as file:
        file.write("2024-")  # still being written
    facts = follow(folder, str(tmp_path / "outage.csv"), tmp_path / "out", idle=0.0)
    rows = [json.loads(row) for row in (tmp_path / "out" / ROWS).read_text().splitlines()]
    silent = [i for i, row in enumerate(rows) if "note" in row]
    assert (facts["rows"], facts["waiting"]) == (57, "the last line has no end yet, and is not told")
    assert silent == list(range(17, 17 + 11))  # until 12 of 24 steps are there
    assert all(row["series"] == {} and row["note"].startswith("no forecast: ") for row in rows[17:28])
    table.iloc[::3].to_csv(tmp_path / "sparse.csv", index=False)
    with pytest.raises(BadInput, match="frequency"):  # at the first look-back, of which nothing was told yet
        follow(folder, str(tmp_path / "sparse.csv"), tmp_path / "other", idle=0.0)


@pytest.mark.parametrize("run", TABLES, indirect=True)
def test_a_packed_file_cannot_be_followed(run: tuple[str, Path], tmp_path: Path) -> None:
    task, folder = run
    table = pd.read_csv(a_source(task, folder, tmp_path))
    table.to_parquet(tmp_path / "x.parquet")
    table.to_csv(tmp_path / "x.csv.gz")
    for name, kind in (("x.parquet", "parquet"), ("x.csv.gz", "gzip")):
        with pytest.raises(BadInput, match=f"a {kind} file"):
            follow(folder, str(tmp_path / name), tmp_path / f"out-{kind}", idle=0.0)


@pytest.mark.parametrize("more", [["--idle", "3"], ["--follow", "--idle", "-1"]])
def test_idle_goes_with_following_and_takes_seconds(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["predict", "runs/none", "x.csv", "--out", "nowhere", *more]) == 2
    assert "--idle" in capsys.readouterr().err


def test_a_pipe_is_followed_to_its_end(run: tuple[str, Path], tmp_path: Path) -> None:
    task, folder = run
    if task != "timeseries/detect":
        pytest.skip("one task is enough")
    source = a_source(task, folder, tmp_path)
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "predict",
        str(folder),
        "-",
        "--follow",
        "--out",
        str(tmp_path / "o"),
    ]
    with source.open("rb") as file:
        said = subprocess.run([*command, "--json"], stdin=file, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout)["rows"] == 610
    assert len((tmp_path / "o" / ROWS).read_text().splitlines()) == 610


def test_what_cannot_be_followed_is_said(run: tuple[str, Path], tmp_path: Path) -> None:
    folder = run[1]
    with pytest.raises(BadInput, match="no such file to follow"):
        follow(folder, str(tmp_path / "missing"), tmp_path / "out", idle=0.0)
    assert not (tmp_path / "out").exists()
    (tmp_path / "noise").write_bytes(os.urandom(400_000) + b"\n" * 3)
    with pytest.raises(BadInput):
        follow(folder, str(tmp_path / "noise"), tmp_path / "noisy", idle=0.0)
    assert torch.is_grad_enabled()
