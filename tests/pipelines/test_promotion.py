"""Champion and challenger: a better one is promoted, a worse one is not, and what happened can be read and undone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from domains.task import Evidence
from pipelines import registry, retrain
from pipelines.cli import run
from pipelines.config import resolve
from pipelines.evaluate import evaluate
from pipelines.promotion import Terms, decide, judge
from pipelines.registry import history, promote, record, rollback
from pipelines.registry import resolve as held_by
from pipelines.tail import tail_gain
from shared_backbones.errors import BadInput, BadRequest

from .made import make_run, rows_task  # noqa: F401 - a fixture
from .test_registry import empty_database, root  # noqa: F401 - fixtures
from .toy import Line, LineConfig

TASK = Line(LineConfig())
ROWS = str(Path(__file__).with_name("rows.yaml"))


def errors(scale: float, shift: float = 0.0, n: int = 400, seed: int = 0) -> Evidence:
    """Errors of a model: units of four rows; the same seed gives the same noise, so models can be paired."""
    noise = np.random.default_rng(seed).normal(size=n)
    return TASK._evidence(scale * noise + shift)


@pytest.mark.parametrize(
    ("challenger", "terms", "promoted", "said"),
    [
        (errors(0.9), {}, True, "no guard objects"),
        (errors(1.1), {}, False, "not better beyond chance"),
        (errors(1.0), {}, False, "not better beyond chance"),
        (errors(1.0, seed=1), {}, False, "not better beyond chance"),  # another model, as good
        (errors(0.9), {"margin": 0.5}, False, "less than the margin 0.5"),
        (errors(0.5, 0.3), {}, False, "worse beyond chance: bias by"),
        (errors(0.5, 0.3), {"guards": ()}, True, "no guard objects"),
        (errors(0.5, n=396), {}, False, "different cases"),
    ],
)
def test_decisions(challenger: Evidence, terms: dict[str, object], promoted: bool, said: str) -> None:
    found = decide(TASK, errors(1.0), challenger, Terms(**terms))  # type: ignore[arg-type]
    assert (found.promote, said in found.reason) == (promoted, True), found.reason


def test_equal_models_are_rarely_promoted() -> None:
    """The gain of an equally good model lies above its interval's lower end in about one of forty comparisons."""
    promoted = sum(
        decide(TASK, errors(1.0, seed=i), errors(1.0, seed=1000 + i), Terms(guards=(), draws=200)).promote
        for i in range(100)
    )
    assert promoted <= 8


def test_an_unknown_guard_is_named() -> None:
    with pytest.raises(BadRequest, match="unknown guard metric of toy/line 'bia'; did you mean 'bias'"):
        decide(TASK, errors(1.0), errors(0.9), Terms(guards=("bia",)))


def two(root: Path) -> tuple[Path, Path]:  # noqa: F811
    first = make_run(root / "toy-rows" / "aaaaaaaaaaaa")
    second = make_run(root / "toy-rows" / "bbbbbbbbbbbb", seed=1)
    record(first, root)
    record(second, root)
    return first, second


def test_runs_are_judged_on_the_same_cases(root: Path) -> None:  # noqa: F811
    first, second = two(root)
    one, other = judge(first, second), judge(second, first)
    scores = {run.name: evaluate(run, draws=10)["metrics"]["mse"]["value"] for run in (first, second)}
    assert one.facts["champion"] == pytest.approx(scores[first.name])
    assert one.facts["challenger"] == pytest.approx(scores[second.name])
    assert one.facts["gain"]["value"] == pytest.approx(-other.facts["gain"]["value"])
    assert one.facts["same_data"] is True
    assert judge(first, second, "simulated:5").facts["same_data"] is False
    assert "weights are equal" in judge(first, first).reason


def test_rollback_and_history(root: Path) -> None:  # noqa: F811
    first, second = two(root)
    with pytest.raises(BadRequest, match="never another run"):
        rollback("toy-rows", root)
    promote("toy-rows@2", root, why="a try")
    with pytest.raises(BadRequest, match=f"is run {second.name} by now, not {first.name}"):
        promote("toy-rows@1", root, instead_of=first.name)
    assert rollback("toy-rows", root)["run"] == first.name
    assert held_by("toy-rows@champion", root) == first
    whys = [row["why"] for row in history("toy-rows", root)]
    assert whys == ["the first version of its model", "a try", f"rolled back from run {second.name}"]
    with pytest.raises(BadRequest, match="did you mean 'toy-rows'"):
        history("toy-row", root)


def decided(monkeypatch: pytest.MonkeyPatch, promoted: bool) -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def judged(champion: Path, challenger: Path, source: str | None, terms: Terms) -> object:
        asked.append((champion.name, challenger.name))
        return type("J", (), {"to_json": lambda self: {"promote": promoted, "reason": "as the test wants"}})()

    monkeypatch.setattr(retrain, "judge", judged)
    return asked


def test_a_decision_is_made_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    first, second = two(root)
    asked = decided(monkeypatch, promoted=True)
    assert retrain.settle(first, second, root, None, Terms())["reused"] is False
    assert held_by("toy-rows@champion", root) == second
    assert retrain.settle(first, second, root, None, Terms())["reused"] is True  # it holds what it was given
    assert asked == [(first.name, second.name)]
    rollback("toy-rows", root)
    third = make_run(root / "toy-rows" / "cccccccccccc", seed=2)
    record(third, root)
    promote("toy-rows@3", root)
    with pytest.raises(BadRequest, match="out of date"):
        retrain.settle(first, second, root, None, Terms())
    (root / retrain.DECISIONS).write_text((root / retrain.DECISIONS).read_text() + '{"key": "torn')
    assert len(retrain.decisions(root)) == 1


def test_retraining_from_first_to_champion(
    rows_task: str,  # noqa: F811
    root: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    def trained(config: object, out: Path, *, quiet: bool, share: object) -> Path:
        name = {0: "a", 1: "b"}[config.seed] * 12  # type: ignore[attr-defined]
        folder = out / "toy-rows" / name
        if not folder.exists():
            made.append(name)
            make_run(folder, seed=config.seed)  # type: ignore[attr-defined]
        return folder

    monkeypatch.setattr("pipelines.train.train", trained)
    asked = decided(monkeypatch, promoted=True)
    requests = [resolve("toy/rows", data="simulated", preset=ROWS, seed=seed) for seed in (0, 1)]
    first = retrain.retrain(requests[0], root, quiet=True)
    assert (first["promoted"], first["reason"], first["reused_run"]) == (False, "the first version of its model", False)
    second = retrain.retrain(requests[1], root, quiet=True)
    assert (second["promoted"], second["champion"], second["before"]) == (True, "b" * 12, "a" * 12)
    again = retrain.retrain(requests[1], root, quiet=True)
    assert (again["reused_run"], again["reason"]) == (True, "it is the champion already")
    assert (made, len(asked)) == (["a" * 12, "b" * 12], 1)
    back = retrain.retrain(requests[0], root, quiet=True)  # the former champion challenges
    assert (back["before"], back["reused_run"], back["reused_decision"]) == ("b" * 12, True, False)
    assert [row["step"] for row in back["usage"]] == ["check", "train", "register", "judge"]


def test_data_that_fail_their_audit_are_not_trained_on(
    rows_task: str,  # noqa: F811
    root: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from domains.task import Audit

    monkeypatch.setattr(Line, "audit", lambda *_: [Audit("overlap", 3.0, False, "rows in two parts")])
    with pytest.raises(BadInput, match=r"not fit to train on: overlap 3.0 \(rows in two parts\)"):
        retrain.retrain(resolve("toy/rows", data="simulated", preset=ROWS), root, quiet=True)
    assert not (root / "toy-rows").exists()


def test_models_from_the_shell(root: Path, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    def answer(*argv: str) -> tuple[int, dict[str, object]]:
        code = run([*argv, "--runs", str(root), "--json"])
        return code, json.loads(capfd.readouterr().out)

    first, second = two(root)
    code, judged = answer("models", "challenge", "toy-rows@2", "--margin", "99")
    assert (code, judged["champion_run"], judged["challenger_run"]) == (0, first.name, second.name)
    assert answer("models", "challenge", "toy-rows@2", "--margin", "99")[1]["reused"] is True
    answer("models", "promote", "toy-rows@2")
    assert answer("models", "challenge", "toy-rows@2")[1]["reason"] == "it is the champion already"
    assert answer("models", "show", "toy-rows@champion")[1]["run"] == second.name
    assert answer("models", "rollback", "toy-rows")[1]["run"] == first.name
    rows = answer("models", "history", "toy-rows")[1]["history"]
    assert [row["run"] for row in rows] == [first.name, second.name, first.name]  # type: ignore[index,attr-defined]
    for command in ("challenge toy-rows@2", "history toy-rows", "show toy-rows@1", "rollback toy-rows"):
        assert run(["models", *command.split(), "--runs", str(root)]) == 0
        assert capfd.readouterr().out


def test_history_survives_a_lost_database(root: Path) -> None:  # noqa: F811
    first, second = two(root)
    promote("toy-rows@2", root, why="better")
    (root / registry.DATABASE).unlink()
    rollback("toy-rows", root)
    assert held_by("toy-rows@champion", root) == first
    assert json.loads((root / registry.HISTORY).read_text().splitlines()[-1])["why"].endswith(second.name)
    shutil.rmtree(second)


def in_tail(scale: float, tail: float, n: int = 2000) -> Evidence:
    """Errors scaled, but for the last tenth of the units, which are scaled otherwise."""
    noise = np.random.default_rng(0).normal(size=n)
    return TASK._evidence(noise * np.where(np.arange(n) < 0.9 * n, scale, tail))


@pytest.mark.parametrize(
    ("challenger", "worst", "promoted"), [(in_tail(0.2, 2.5), 0.1, False), (in_tail(0.2, 2.5), 0.0, True)]
)
def test_a_better_mean_bought_from_the_worst_served(challenger: Evidence, worst: float, promoted: bool) -> None:
    found = decide(TASK, in_tail(1.0, 1.3), challenger, Terms(worst=worst, guards=("bias",)))
    assert found.promote == promoted, found.reason
    assert ("of the worst 10 %" in found.reason) != promoted


def test_the_tail_is_the_mean_of_the_worst_units() -> None:
    old, new = errors(1.0), errors(0.8)
    found = tail_gain(TASK, old, new, "mse", share=0.1, level=0.95, draws=200, seed=0)
    each = [np.array([e.columns["se"][e.unit == u].mean() for u in e.units]) for e in (old, new)]
    expected = [np.sort(errors)[-10:].mean() for errors in each]
    assert found is not None
    assert found["value"] == pytest.approx(expected[0] - expected[1])
    assert found["low"] < found["value"] < found["high"]
    assert tail_gain(TASK, errors(1.0, n=40), errors(0.8, n=40), "mse", share=0.1, level=0.95, draws=10, seed=0) is None
