"""Comparisons: chosen on validation, averaged over seeds, honest about parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import stats

from pipelines import compare as module
from pipelines.compare import Asked, candidates, compare, considered, interval_of_mean, mixer_option, steps_to
from pipelines.grid import combinations, parts_of, settings_table
from shared_backbones.errors import BadRequest

from .made import make_run, rows_task  # noqa: F401 - a fixture

PRESET = str(Path(__file__).with_name("rows.yaml"))


@pytest.fixture
def trained(rows_task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:  # noqa: F811
    """Stands for the trainer: the test score falls with the rate, the validation loss is least at 0.01."""
    asked: list[Any] = []

    def train(config: Any, out: Path, *, quiet: bool = False) -> Path:
        mixer, rate = config.model.get("mixer", "attention"), config.train.lr
        folder = out / "toy-rows" / f"{mixer}-{rate}-{config.seed}"
        asked.append((mixer, rate, config.seed))
        if not folder.exists():
            mse = {"attention": 0.5, "identity": 0.7}[mixer] + 0.1 * config.seed - rate
            sets = (f"train.lr={rate}", *([f"model.mixer={mixer}"] if mixer == "identity" else []))
            make_run(folder, seed=config.seed, mse=mse, sets=sets)
            metrics = json.loads((folder / "metrics.json").read_text())
            metrics["training"] = {"best_val_loss": abs(np.log10(rate) + 2)}
            metrics["cost"] = {"parameters": 100, "macs": 5, "train_seconds": 1.0, "items_per_second": 9.0}
            (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    monkeypatch.setattr(module, "train", train)
    return asked


def test_rates_are_chosen_on_validation_and_scores_averaged_over_seeds(trained: list[Any], tmp_path: Path) -> None:
    result = compare("toy/rows", [PRESET], seeds=3, rates=[0.1, 0.01], out=tmp_path / "runs", quiet=True)
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == ["rows", "rows without mixing", "mean"]
    assert rows["rows"]["lr"] == 0.01  # 0.1 has the better test score and the worse validation loss
    scores = [0.49, 0.59, 0.69]
    assert rows["rows"]["mse"] == pytest.approx(np.mean(scores))
    low, high = stats.t.interval(0.95, 2, np.mean(scores), stats.sem(scores))
    assert (rows["rows"]["seeds_low"], rows["rows"]["seeds_high"]) == pytest.approx((low, high))
    assert rows["rows"]["bootstrap_low"] == pytest.approx(np.mean(scores) - 0.1)
    assert rows["rows without mixing"]["mse"] > rows["rows"]["mse"]
    assert rows["mean"]["mse"] == 1.0
    assert json.loads(Path(result["json"]).read_text())["sweeps"]["rows"] == {"0.1": 1.0, "0.01": 0.0}
    page = Path(result["page"]).read_text()
    for said in ("rows without mixing", "validation loss", "0.01", "3 seeds"):
        assert said in page
    for link in ("attention-0.01-0", "identity-0.01-2"):
        assert f"../{link}/report.html" in page
    assert ("attention", 0.1, 1) not in trained  # other seeds are not spent on the sweep


def test_more_parameters_are_pointed_out() -> None:
    rows = [{"kind": "model", "method": name, "parameters": n} for name, n in (("a", 100), ("b", 110), ("c", 111))]
    (warning,) = module._warnings(rows)
    assert "c has 1.11 times the parameters of a" in warning


def test_the_interval_of_a_mean() -> None:
    assert interval_of_mean([1.0]) == (None, None)
    values = list(np.random.default_rng(0).normal(size=7))
    expected = stats.t.interval(0.95, 6, np.mean(values), stats.sem(values))
    assert interval_of_mean(values) == pytest.approx(expected)


def test_requests_that_cannot_be_met(trained: list[Any], tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="each preset once"):
        compare("toy/rows", [PRESET, PRESET], out=tmp_path)
    with pytest.raises(BadRequest, match="at least 1"):
        compare("toy/rows", [PRESET], seeds=0, out=tmp_path)
    with pytest.raises(BadRequest, match="unknown preset"):
        compare("toy/rows", [PRESET, "nonsense"], out=tmp_path)
    assert not trained


def test_mixers_in_one_preset(trained: list[Any], tmp_path: Path) -> None:
    result = compare("toy/rows", [PRESET], mixers=["attention"], rates=[0.01], out=tmp_path / "runs", quiet=True)
    assert [(r["method"], r["kind"]) for r in result["rows"]] == [
        ("attention", "model"),
        ("identity", "ablation"),
        ("mean", "baseline"),
    ]
    assert result["cannot"] == []
    assert "0.01" in Path(result["page"]).read_text()


def asked(task: str, *sets: str) -> Asked:
    return Asked(task, None, None, sets)


def test_a_mixer_with_options_and_the_ladder() -> None:
    assert mixer_option("delta:decay=true:chunk=16") == {"mixer": "delta", "decay": True, "chunk": 16}
    assert mixer_option("delta") == "delta"
    with pytest.raises(BadRequest, match="option=value"):
        mixer_option("delta:decay")
    listed = candidates(asked("synthetic/recall"), ["recall"], ["delta:decay=true", "identity"], ladder=True)
    assert [c.name for c in listed][:2] == ["delta:decay=true", "identity"]
    assert {"pooling", "separable", "attention"} <= {c.name for c in listed if c.kind == "ablation"}
    with pytest.raises(BadRequest, match="each mixer once"):
        candidates(asked("synthetic/recall"), ["recall"], ["delta", "delta"])


def test_what_cannot_serve_is_listed_with_its_reason() -> None:
    some = asked("synthetic/patterns")
    able, cannot = considered(some, candidates(some, ["recall"], ["attention", "delta", "fourier"]))
    served = [c.setting for c, _ in able if c.method == "delta"]
    assert served == ["pattern=causal_self", "pattern=causal_cross"]
    assert len([c for c, _ in able if c.method == "attention"]) == 4
    reasons = {c["method"]: c["reason"] for c in cannot}
    assert "causal by its nature" in reasons["delta, pattern=self"]
    assert "can be causal along axes" in reasons["fourier, pattern=causal_self"]
    one = asked("synthetic/patterns", "pattern=cross")
    assert {c.setting for c in candidates(one, ["recall"], ["attention"])} == {None}
    with pytest.raises(BadRequest, match="none of these can serve"):
        considered(one, candidates(one, ["recall"], ["delta"])[:1])


def test_steps_to_a_watched_score() -> None:
    class Told:
        history: ClassVar[list[Any]] = [
            {"step": 0, "watched": 0.1},
            {"step": 10, "watched": 0.995},
            {"step": 20, "watched": 0.9},
        ]

    assert steps_to(Told(), 0.99) == 10  # type: ignore[arg-type]
    assert steps_to(Told(), 0.999) is None  # type: ignore[arg-type]


def test_parameters_are_held_against_the_first_of_the_same_setting() -> None:
    rows = [
        {"kind": "model", "method": f"{name}, p={p}", "parameters": n * p, "setting": f"p={p}"}
        for p in (1, 2)
        for name, n in (("a", 100), ("b", 120))
    ]
    assert len(module._warnings(rows)) == 2


def test_every_combination_is_a_setting_and_the_last_option_has_a_mean() -> None:
    assert combinations(["lookback=96,336", "grid=[8,8],[4,4]"]) == [
        f"lookback={a}; grid={b}" for a in (96, 336) for b in ("[8,8]", "[4,4]")
    ]
    assert parts_of("data=ett_h1; lookback=96") == (["lookback=96"], "ett_h1")
    assert parts_of(None) == ([], None)
    for bad in (["lookback"], ["=1"], ["a="], ["a=1,1"], ["a=1", "a=2"]):
        with pytest.raises(BadRequest, match="--vary"):
            combinations(bad)
    rows = [
        {"of": m, "setting": f"a={a}; b={b}", "mse": x * a + b, "metrics": {"mae": x}}
        for m, x in (("one", 1.0), ("two", 2.0))
        for a in (1, 2)
        for b in (3, 5)
        if (m, a, b) != ("two", 2, 5)
    ]
    methods, table = settings_table(rows, "mse")
    assert methods == ["one", "two"]
    assert table == [
        ("a=1; b=3", [4.0, 5.0]), ("a=1; b=5", [6.0, 7.0]), ("a=1; mean over b", [5.0, 6.0]),
        ("a=2; b=3", [5.0, 7.0]), ("a=2; b=5", [7.0, None]), ("a=2; mean over b", [6.0, None]),
    ]  # fmt: skip
    assert settings_table(rows, "mae")[1][0] == ("a=1; b=3", [1.0, 2.0])


def test_settings_of_one_command(trained: list[Any], tmp_path: Path) -> None:
    result = compare(
        "toy/rows", [PRESET], vary=["train.lr=0.1,0.01"], ablation=False, out=tmp_path / "runs", quiet=True
    )
    assert [r["method"] for r in result["rows"]] == [
        f"{m}, train.lr={lr}" for m in ("rows", "mean") for lr in (0.1, 0.01)
    ]
    assert [rate for _, rate, _ in trained] == [0.1, 0.01]
    assert settings_table(result["rows"], "mse")[1][-1][0] == "mean over train.lr"
