"""Training end to end on the toy task: the same result however often killed, one run however often asked."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pipelines.config import RunConfig, resolve
from pipelines.runs import load_run
from pipelines.store import finite
from pipelines.train import TrainingError, train
from pipelines.trainer import shards
from shared_backbones.errors import BadInput, BadRequest

SETS = ["train.checkpoint_every=4", "train.threads=1"]  # 144 rows in batches of 16: 9 steps an epoch
PARENT = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it\n"
    "import sys; from pathlib import Path; from pipelines.config import resolve; from pipelines.train import train\n"
    f"print(train(resolve('toy/line', sets={SETS!r}), Path(sys.argv[1])))"
)


def request_(*sets: str) -> RunConfig:
    return resolve("toy/line", sets=[*SETS, *sets])


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def result(run: Path) -> dict[str, Any]:
    """What must be the same whatever happened on the way: all but the clock and the memory."""
    metrics = json.loads((run / "metrics.json").read_bytes())
    history = [
        {k: v for k, v in row.items() if k != "seconds"} for row in json.loads((run / "history.json").read_bytes())
    ]
    metrics.pop("usage")
    timed = {"train_seconds", "items_per_second", "peak_memory_mb"}  # batch_memory_mb is counted
    metrics["cost"] = {k: v for k, v in metrics["cost"].items() if k not in timed}
    return {"metrics": metrics, "history": history}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run that nothing happened to."""
    from .conftest import link_toy

    with pytest.MonkeyPatch.context() as patch:
        link_toy(tmp_path_factory.mktemp("site"), patch)
        yield train(request_(), tmp_path_factory.mktemp("undisturbed"), quiet=True)


def test_a_run_holds_what_the_design_says(undisturbed: Path, toy_task: str) -> None:
    names = {path.name for path in undisturbed.iterdir()}
    assert names == {
        "config.yaml", "data.json", "model.safetensors", "model.json", "checkpoints", "metrics.json", "figures",
        "report.html", "MODEL_CARD.md", "log.txt", "history.json", "reference.safetensors",
    }  # fmt: skip
    assert undisturbed.parent.name == "toy-line"
    assert [p.name for p in undisturbed.parent.iterdir()] == [undisturbed.name]  # neither lock nor staging is left
    metrics = json.loads((undisturbed / "metrics.json").read_bytes())
    assert metrics == finite(metrics)
    assert set(metrics["metrics"]["mse"]) == {"value", "low", "high"}
    assert metrics["metrics"]["mse"]["low"] < metrics["metrics"]["mse"]["value"] < metrics["metrics"]["mse"]["high"]
    assert set(metrics["baselines"]) == {"mean", "least_squares"}
    assert set(metrics["cost"]) >= {"parameters", "macs", "train_seconds", "items_per_second", "peak_memory_mb"}
    assert metrics["paired"]["baseline"] == "least_squares"
    assert [a["name"] for a in metrics["audits"]] == ["overlap", "statistics_without_test"]
    assert [row["epoch"] for row in json.loads((undisturbed / "history.json").read_bytes())] == [0, 1, 2, 3]


def test_resumes_to_the_same_result_wherever_it_was_killed(
    undisturbed: Path, toy_task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = [
        "val:1",  # before there is any checkpoint
        "train:15",  # mid-epoch, between two checkpoints
        "last.pt:2",  # a checkpoint is written and not yet in its place
        "val:2",  # while validating at an epoch's end
        "calibrate:1",  # between training and evaluation
        "metrics.json:1",  # while the results are written
    ]
    monkeypatch.setenv("TOY_KILL", ",".join(moments))
    monkeypatch.setenv("TOY_DEATHS", str(tmp_path / "deaths"))
    for _ in moments:
        with pytest.raises(TrainingError, match="killed by SIGKILL"):
            train(request_(), tmp_path / "runs", quiet=True)
    run = train(request_(), tmp_path / "runs", quiet=True)
    assert (tmp_path / "deaths").read_text().split() == moments
    assert run.name == undisturbed.name
    assert weights(run) == weights(undisturbed)
    assert result(run) == result(undisturbed)
    assert not list(run.rglob(".writing-*"))
    assert (run / "log.txt").read_text().count("resumed at") == len(moments) - 1


def test_the_trainer_dies_with_its_parent_and_its_lock_is_taken_over(
    undisturbed: Path, toy_task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"
    slow = os.environ | {"TOY_SLEEP": "0.1"}
    with subprocess.Popen([sys.executable, "-c", PARENT, str(out)], env=slow, stderr=subprocess.DEVNULL) as parent:
        while not list(out.rglob("last.pt")):
            time.sleep(0.05)
            assert parent.poll() is None
        (child,) = psutil.Process(parent.pid).children()
        parent.send_signal(signal.SIGKILL)
        psutil.wait_procs([child])
    assert list(out.rglob(".lock-*"))
    run = train(request_(), out, quiet=True)
    assert weights(run) == weights(undisturbed)
    assert not list(out.rglob(".lock-*"))


def test_ctrl_c_leaves_a_run_that_can_be_resumed(toy_task: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    slow = os.environ | {"TOY_SLEEP": "0.1"}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(out)], env=slow, stderr=subprocess.PIPE, text=True
    ) as parent:
        while not list(out.rglob("last.pt")):
            time.sleep(0.05)
            assert parent.poll() is None
        (child,) = psutil.Process(parent.pid).children()
        parent.send_signal(signal.SIGINT)
        _, said = parent.communicate()
    assert "the same command goes on from the last checkpoint" in said
    assert not child.is_running()
    assert list(out.rglob("last.pt"))
    assert not list(out.rglob(".lock-*"))


def test_a_rerun_finds_the_finished_run_and_says_so(
    undisturbed: Path, toy_task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (undisturbed / "metrics.json").stat().st_mtime_ns
    assert train(request_(), undisturbed.parents[1]) == undisturbed
    assert f"run {undisturbed.name} is finished already" in capsys.readouterr().err
    assert (undisturbed / "metrics.json").stat().st_mtime_ns == before


def test_the_same_request_from_two_processes_trains_once(undisturbed: Path, toy_task: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate() for process in both]
    said = "".join(err for _, err in told)
    (run,) = {Path(out.strip()) for out, _ in told}
    assert said.count("epoch 0/3") == 1
    assert "waiting for it" in said or "is finished already" in said
    assert weights(run) == weights(undisturbed)
    assert not list(tmp_path.rglob(".lock-*"))


def test_a_loaded_run_is_the_trained_model(undisturbed: Path, toy_task: str) -> None:
    trained = load_run(undisturbed)
    assert trained.config == request_()
    data = trained.task.open("simulated")
    with torch.no_grad():
        evidence = trained.task.evidence(trained.model, data, trained.task.split(data), trained.fitted, "test")
    metrics = json.loads((undisturbed / "metrics.json").read_bytes())["metrics"]
    assert trained.task.metrics(evidence)["mse"] == pytest.approx(metrics["mse"]["value"], rel=1e-12)


def test_bad_data_leaves_nothing_behind(toy_task: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="row 3"):
        train(resolve("toy/line", data="bad"), tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


def test_a_request_that_only_the_trainer_can_refuse_leaves_nothing_behind(toy_task: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="heads must divide dim, got heads=2 and dim=9"):
        train(request_("model.dim=9"), tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_one_clear_sentence_and_nothing_half_written(toy_task: str, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))  # the trainer inherits it; a checkpoint is larger
    try:
        with pytest.raises(BadInput, match=r"cannot write .*last\.pt: file too large"):
            train(request_(), tmp_path / "runs", quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "runs").exists()


def test_an_accelerator_that_is_not_there_is_refused(
    toy_task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(BadRequest, match="no CUDA device"):
        train(request_("train.accelerator=gpu"), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_processes_train_one_run_as_one_process_does(toy_task: str, tmp_path: Path) -> None:
    options = ("dropout=0", "train.batch_size=17", "train.accumulate=2", "train.layer_decay=0.6")  # 9 batches of 17, 8
    one = train(request_(*options), tmp_path, quiet=True)
    two = train(request_(*options, "train.devices=2"), tmp_path, quiet=True)
    assert {path.name for path in (tmp_path / "toy-line").iterdir()} == {one.name, two.name}
    a, b = (result(run) for run in (one, two))
    for x, y in zip(a["history"][1:], b["history"][1:], strict=True):
        assert (x["train_loss"], x["val_loss"]) == pytest.approx((y["train_loss"], y["val_loss"]), rel=1e-4)
    assert b["metrics"]["runtime"]["devices"] == 2


@pytest.mark.slow
def test_shards_and_recomputed_activations_train_the_same_run(
    toy_task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In shards it is killed on the way, and goes on from the shards."""
    options = ("dropout=0", "train.batch_size=17", "train.accumulate=2", "train.epochs=2", "train.layer_decay=0.6")
    one, again = (train(request_(*options, *more), tmp_path, quiet=True) for more in ((), ("train.recompute=true",)))
    sharded = request_(*options, "train.devices=2", "train.strategy=fsdp", "train.recompute=true")
    with monkeypatch.context() as patch:
        patch.setenv("TOY_KILL", "train:13")  # in the second epoch
        patch.setenv("TOY_DEATHS", str(tmp_path / "deaths"))
        with pytest.raises(TrainingError):
            train(sharded, tmp_path, quiet=True)
    run = train(sharded, tmp_path, quiet=True)
    assert "resumed at epoch 2" in (run / "log.txt").read_text()
    assert weights(one) == weights(again)
    a, b, c = (result(folder) for folder in (one, again, run))
    for x, y in zip(a["history"][1:], c["history"][1:], strict=True):
        assert (x["train_loss"], x["val_loss"]) == pytest.approx((y["train_loss"], y["val_loss"]), rel=1e-4)
    assert a["metrics"]["metrics"] == b["metrics"]["metrics"]
    assert c["metrics"]["runtime"]["devices"] == 2

    folder = run / "checkpoints"  # two devices wrote it; here one reads it
    found = shards.load(folder / shards.INDEX)
    assert found is not None
    assert (found[0].epoch, found[0].finished, found[0].best_epoch) == (2, True, 2)
    for name, value in load_run(run).model.state_dict().items():
        if name != "bias":  # that of the calibration
            assert torch.equal(found[1][name], value), name
            assert torch.equal(found[0].best[name], value), name
    assert {key for entries in found[2]["state"].values() for key in entries} == {"step", "exp_avg", "exp_avg_sq"}
    assert [path.name for path in folder.glob("shards-*/*")] != []
    assert len(list(folder.glob("shards-*"))) == 1
    next(folder.glob("shards-*/00001.safetensors")).unlink()
    assert shards.load(folder / shards.INDEX) is None


@pytest.mark.slow
def test_two_nodes_of_torchrun_train_one_run(toy_task: str, tmp_path: Path) -> None:
    """Both on loopback, one process each, as the README says for two machines with one folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["cambium", "train", "toy/line", "--out", str(tmp_path / "runs"), "--set", "train.devices=2"]
    for option in (*SETS, "dropout=0", "train.epochs=1"):
        command += ["--set", option]
    run_ = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc-per-node=1",
        "--master-addr=127.0.0.1",
    ]
    nodes = [
        subprocess.Popen(
            [*run_, f"--master-port={port}", f"--node-rank={rank}", "-m", "pipelines.cli", *command[1:]],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parents[2],
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    (folder,) = (path for path in (tmp_path / "runs" / "toy-line").iterdir())
    assert result(folder)["metrics"]["runtime"]["devices"] == 2
    plain = train(request_("dropout=0", "train.epochs=1"), tmp_path / "one", quiet=True)
    rows = [result(path)["history"][1] for path in (folder, plain)]
    assert rows[0]["val_loss"] == pytest.approx(rows[1]["val_loss"], rel=1e-4)


def test_the_ablation_stands_beside_the_score_of_the_same_run(undisturbed: Path, toy_task: str) -> None:
    """Last in this file: it adds to the undisturbed run."""
    run = train(request_("train.ablation=true"), undisturbed.parents[1], quiet=True)
    assert run == undisturbed
    ablation = json.loads((run / "metrics.json").read_bytes())["ablation"]
    assert ablation["mixer"] == "identity"
    assert set(ablation["metrics"]["mse"]) == {"value", "low", "high"}
    assert load_run(run.parent / ablation["run"]).config.model == {"mixer": "identity"}
