"""The command line: light to start, one answer, exit codes to go by, no traceback for a user's mistake."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import domains
from pipelines import cli
from pipelines.commands.catalogue import public_data

from .made import make_run, rows_task  # noqa: F401 - a fixture

COMMANDS = [
    "demo",
    "train",
    "retrain",
    "evaluate",
    "predict",
    "compare",
    "backbones",
    "data",
    "export",
    "flow",
    "lineage",
    "models",
    "overfit",
    "watch",
    "backfill",
    "sweep",
    "cleanup",
    "report",
]
HEAVY = ("torch", "lightning", "prefect", "mlflow", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "rasterio")


def call(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command line run in this process."""
    code = cli.run(list(argv))
    out, err = capfd.readouterr()
    return code, out, err


def answer(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    """(exit code, the one JSON object on stdout)."""
    code, out, _ = call(capfd, *argv, "--json")
    assert out.count("\n") == 1, out
    return code, json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def refused(capfd: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one sentence with which a command line is refused."""
    code, out, err = call(capfd, *argv)
    assert code == 2, (code, out, err)
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    return lines[0]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder


def test_start_up_imports_nothing_heavy() -> None:
    code = "import sys; from pipelines.cli import run; run(['--help']); print([m for m in sys.modules if '.' not in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout.splitlines()[-1]))
    assert not loaded & set(HEAVY)
    assert {"typer", "rich"} <= loaded


def test_help_is_faster_than_importing_torch() -> None:
    def seconds(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    torch, ours = "import torch", "from pipelines.cli import run; run(['--help'])"
    seconds(torch)  # warm
    pairs = [(seconds(ours), seconds(torch)) for _ in range(3)]  # one beside the other, whatever else the machine does
    assert min(a for a, _ in pairs) < min(b for _, b in pairs)


@pytest.mark.parametrize("command", ["", *(c for c in COMMANDS if c != "flow"), "data list", "models promote"])
def test_every_command_explains_itself(capfd: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = call(capfd, *command.split(), "--help")
    assert code == 0
    assert "Usage: cambium" in out
    if not command:
        assert all(f" {c} " in out for c in COMMANDS)


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert call(capfd, "--version")[1].startswith("cambium 0.")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "'train'"),
        (["train"], "DOMAIN/TASK"),
        (["train", "timeseries/forcast"], "unknown task 'timeseries/forcast'; did you mean 'timeseries/forecast'"),
        (["train", "timeseries/forecast", "--sed", "1"], "--seed"),
        (["train", "timeseries/forecast", "--seed", "one"], "--seed"),
        (["train", "timeseries/forecast", "--preset", "itransfomer"], "did you mean 'itransformer'"),
        (["train", "timeseries/forecast", "--set", "train.ler=1"], "did you mean 'train.lr'"),
        (["train", "timeseries/forecast", "--set", "lr=1"], "'train.lr'"),
        (["train", "timeseries/forecast", "--set", "train.lr"], "NAME=VALUE"),
        (["train", "timeseries/forecast", "--set", "train.lr=-1"], "train.lr"),
        (["train", "timeseries/forecast", "--config", "gone.yaml"], "no configuration file"),
        (["train", "timeseries/forecast", "--data", "gone.csv"], "gone.csv"),
        (["train", "hyperspectral/classify", "--data", "gone.tif"], "gone.tif"),
        (["evaluate", "gone"], "no run directory gone"),
        (["predict", "gone", "x.csv", "--out", "out"], "no run directory gone"),
        (["predict", "timeseries-forecast@champion", "x.csv", "--out", "out"], "no registry in runs"),
        (["compare", "timeseries/forecast", "--presets", ","], "names separated by commas"),
        (["compare", "timeseries/forecast", "--presets", "linear_skip", "--lr", "1e-3,x"], "--lr takes numbers"),
        (["compare", "timeseries/forecast", "--presets", "linear_skip", "--seeds", "0"], "at least 1"),
        (["compare", "timeseries/forecast", "--presets", "linear_skip,linear_skip"], "each preset once"),
        (["backbones", "show", "atention"], "did you mean 'attention'"),
        (["data", "get", "salinas"], "did you mean 'salinas_a'"),
        (["data", "check", "my.csv"], "--task"),
        (["export", "gone", "--to", "onnx"], "no run directory gone"),
        (["flow", "runn"], "did you mean 'run'"),
        (["models", "promote", "x@1"], "no registry in runs"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    capfd: pytest.CaptureFixture[str], here: Path, argv: list[str], said: str
) -> None:
    assert said in refused(capfd, *argv)
    assert not list(here.iterdir())


def test_mistakes_in_json(capfd: pytest.CaptureFixture[str], here: Path) -> None:
    code, values = answer(capfd, "train", "timeseries/forcast")
    assert (code, values["exit"]) == (2, 2)
    assert "unknown task" in values["error"]


def test_an_unexpected_failure_names_its_log(
    capfd: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ArithmeticError("nobody saw this coming")

    monkeypatch.setattr("pipelines.commands.catalogue.public_data", broken)
    code, out, err = call(capfd, "data", "list")
    assert (code, out) == (1, "")
    assert "nobody saw this coming" in err
    assert "Traceback" not in err
    log = Path(err.split("traceback: ")[1].split(")")[0])
    assert "ArithmeticError" in log.read_text()
    with pytest.raises(ArithmeticError):
        cli.run(["--debug", "data", "list"])
    assert answer(capfd, "data", "list")[1]["exit"] == 1


def test_public_data_is_listed_with_its_licence(capfd: pytest.CaptureFixture[str]) -> None:
    code, values = answer(capfd, "data", "list")
    assert code == 0
    rows = {row["name"]: row for row in values["data"]}
    assert {"ett_h1", "exchange_rate", "salinas_a"} <= set(rows)
    for row in rows.values():
        assert row["licence"] and row["protocol"] and row["source"]  # noqa: PT018
        assert row["task"] in {*domains.TASKS, ""}  # a data set may wait for its task
    assert all(len(f.sha256) == 64 for entry in public_data().values() for f in entry.files.values())
    assert "ett_h1" in call(capfd, "data", "list")[1]


def test_data_that_is_here_needs_no_network(capfd: pytest.CaptureFixture[str], public_data: Path) -> None:
    code, values = answer(capfd, "data", "get", "ett_h1")
    assert code == 0
    assert all(Path(f["path"]).is_file() for f in values["files"].values())
    assert values["licence"]


@pytest.mark.parametrize("task", sorted(domains.TASKS))
def test_data_is_checked_without_training(capfd: pytest.CaptureFixture[str], here: Path, task: str) -> None:
    code, values = answer(capfd, "data", "check", "simulated", "--task", task)
    assert code == 0
    assert set(values["split"]["sizes"]) == {"train", "val", "test"}
    assert len(values["data"]["sha256"]) == 64
    assert values["audits"]
    assert not list(here.iterdir())
    assert "can use it" in call(capfd, "data", "check", "simulated", "--task", task)[1]


def test_backbones_are_listed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["itransformer", "swin_t", "scene_pool"]  # each preset is counted elsewhere
    monkeypatch.setattr("shared_backbones.presets.preset_names", lambda: few)
    _, values = answer(capfd, "backbones", "list")
    assert "attention" in values["mixers"]
    for row in values["presets"]:
        assert row["paper"]
        assert row["parameters"] > 0
        assert row["cost"].startswith("O(")
    assert "swin_t" in call(capfd, "backbones", "list")[1]
    _, claims = answer(capfd, "backbones", "published")
    assert [row["name"] for row in claims["rows"]] == ["swin_t"]
    assert claims["worst"] < 0.03
    assert "28.3 M" in call(capfd, "backbones", "published")[1]


def test_a_backbone_is_drawn(capfd: pytest.CaptureFixture[str]) -> None:
    _, shown = answer(capfd, "backbones", "show", "itransformer")
    assert "attention" in shown["mixer_facts"]
    assert answer(capfd, "backbones", "show", "attention")[1]["cost"]
    _, small = answer(capfd, "backbones", "show", "swin_t", "--input", "112x64", "--channels", "5", "--classes", "0")
    assert [p["axes"] for p in small["parts"] if p["part"].startswith("stage")] == [[28, 16], [14, 8], [7, 4], [4, 2]]
    text = call(capfd, "backbones", "show", "swin_t")[1]
    assert "56 x 56 x 96" in text
    assert "3 x [window (heads 12, window 7) + mlp" in text
    assert "extents such as 512x512" in refused(capfd, "backbones", "show", "swin_t", "--input", "big")
    assert call(capfd, "backbones", "show", "linear")[0] == 0


def test_backbones_are_checked(capfd: pytest.CaptureFixture[str]) -> None:
    _, values = answer(capfd, "backbones", "check", "scene_pool")
    assert values["rows"][0]["exported_difference"] < 1e-4


@pytest.fixture
def run(rows_task: str, here: Path) -> Path:  # noqa: F811
    return make_run(here / "runs" / "toy-rows" / "0123456789ab")


def test_predict_from_the_shell(capfd: pytest.CaptureFixture[str], run: Path, here: Path) -> None:
    inbox = here / "in"
    inbox.mkdir()
    np.save(inbox / "a.npy", np.zeros((3, 4)))
    np.save(inbox / "wide.npy", np.zeros((3, 5)))
    code, values = answer(capfd, "predict", str(run), str(inbox), "--out", "out")
    assert (code, values["done"], values["exit"]) == (3, 1, 3)
    assert "rows of 4 numbers" in values["refused"][0]["reason"]
    assert all(Path(p).is_file() for files in values["outputs"].values() for p in files)
    code, out, _ = call(capfd, "predict", str(run), str(inbox / "a.npy"), "--out", "out")
    assert code == 0
    assert "1 done (1 before)" in out
    assert "rows of 4 numbers" in refused(capfd, "predict", str(run), str(inbox / "wide.npy"), "--out", "other")
    assert not (here / "other").exists()
    assert "unknown engine 'spark'" in refused(capfd, "predict", str(run), "x", "--out", "other", "--engine", "spark")


def test_evaluate_from_the_shell(capfd: pytest.CaptureFixture[str], run: Path) -> None:
    code, values = answer(capfd, "evaluate", str(run))
    assert code == 0
    assert values["metrics"]["mse"]["low"] <= values["metrics"]["mse"]["value"] <= values["metrics"]["mse"]["high"]
    assert "least_squares" in values["baselines"]
    _, other = answer(capfd, "evaluate", str(run), "--data", "simulated:7")
    assert other["metrics"]["mse"]["value"] != values["metrics"]["mse"]["value"]
    assert "least squares" in call(capfd, "evaluate", str(run))[1]
    assert "row 3 holds no number" in refused(capfd, "evaluate", str(run), "--data", "bad")


def test_stdout_holds_the_answer_alone_whatever_prints(
    capfd: pytest.CaptureFixture[str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import evaluate

    def noisy(*args: Any, **kwargs: Any) -> dict[str, Any]:
        print("a library speaks")
        subprocess.run(["echo", "a child speaks"], check=True)
        return {"metrics": {"nan": float("nan")}, "path": Path("x")}

    monkeypatch.setattr(evaluate, "evaluate", noisy)
    _, values = answer(capfd, "evaluate", str(run))
    assert values == {"metrics": {"nan": None}, "path": "x", "exit": 0}


def test_a_flow_passes_its_exit_code_on(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Started:
        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            seen.append(command)

        def wait(self) -> int:
            return 3

    monkeypatch.setattr("pipelines.commands.work.subprocess.Popen", Started)
    assert call(capfd, "flow", "run", "predict", "--out", "x", "--json")[0] == 3
    assert seen == [[sys.executable, "-m", "flows", "run", "predict", "--out", "x", "--json"]]


@pytest.mark.slow
def test_train_from_the_shell(capfd: pytest.CaptureFixture[str], toy_task: str, here: Path) -> None:
    preset = str(Path(__file__).with_name("toy.yaml"))
    argv = ["train", toy_task, "--preset", preset, "--set", "train.epochs=1"]
    code, values = answer(capfd, *argv)
    assert code == 0
    assert {"run", "metrics", "baselines", "cost"} <= set(values)
    assert (values["model"], values["version"], values["aliases"]) == ("toy-line", 1, ["champion"])
    assert "toy/line" in Path(values["report"]).read_text()
    code, out, err = call(capfd, *argv)
    assert code == 0
    assert "finished already" in err
    assert out.splitlines()[-1].endswith(values["run"])
    assert "row 3 holds no number" in refused(capfd, *argv, "--data", "bad")
    _, models = answer(capfd, "models", "list")
    assert [m["run"] for m in models["models"]] == [values["run"]]
    out_dir = here / "predicted"
    assert call(capfd, "predict", "toy-line@champion", "simulated:3", "--out", str(out_dir))[0] == 0
    assert (out_dir / "simulated_3" / "prediction.csv").is_file()
