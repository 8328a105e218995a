"""The training loop in this process: exact to resume from any step, weighted by elements, honest in what it keeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric import Fabric

from pipelines.config import TrainConfig
from pipelines.runs import preset_from_dict, preset_to_dict
from pipelines.trainer import checkpoint, loop, plan
from pipelines.trainer.child import LeakError, fit_statistics, initialise
from shared_backbones.errors import BadInput
from shared_backbones.presets import load_preset

from .toy import Line, LineConfig

PRESET = load_preset(str(Path(__file__).with_name("toy.yaml")))


class Killed(Exception):  # noqa: N818
    pass


def job(path: Path, *, seed: int = 0, tick: Any = None, task: Any = None, **settings: Any) -> loop.Job:
    task = task or Line(LineConfig(rows=60))
    data = task.open("simulated")
    split = task.split(data)
    train = TrainConfig(**{"epochs": 3, "batch_size": 8, "lr": 3e-3, "checkpoint_every": 2, **settings})
    parts = [task.items(data, split, {}, part) for part in ("train", "val")]
    fabric = Fabric(accelerator="cpu", devices=1)
    return loop.Job(task, parts[0], parts[1], train, seed, path / "last.pt", fabric, tick or (lambda p, s: None))


def model(seed: int = 0, dropout: float = 0.1) -> torch.nn.Module:
    plan.seed_all(seed)
    return Line(LineConfig(dropout=dropout)).build({"mean": 0.0}, PRESET)


def killed_after(step: int) -> Any:
    seen = iter(range(1, 10_000))

    def tick(position: checkpoint.Position, steps: int) -> None:
        if next(seen) == step:
            raise Killed

    return tick


def clockless(position: checkpoint.Position) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in position.history]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_killed_after_any_step_it_ends_with_the_same_weights(tmp_path: Path, accumulate: int) -> None:
    whole = model()
    expected = loop.fit(job(tmp_path / "whole", accumulate=accumulate), whole)
    steps = 3 * math.ceil(5 / accumulate)  # 36 rows: 4 batches of 8 and one of 4
    for step in range(1, steps + 1):
        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            loop.fit(job(folder, tick=killed_after(step), accumulate=accumulate), model())
        again = model(seed=99)  # its own initial values must not matter
        position = loop.fit(job(folder, accumulate=accumulate), again)
        assert clockless(position) == clockless(expected)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), (step, name)


def test_the_random_state_matters_to_that_test(tmp_path: Path) -> None:
    """With another seed the result differs, so equality above is not for want of randomness."""
    a, b = model(), model()
    loop.fit(job(tmp_path / "a"), a)
    loop.fit(job(tmp_path / "b", seed=1), b)
    assert not torch.equal(a.skip.weight, b.skip.weight)


def test_a_damaged_checkpoint_only_costs_time(tmp_path: Path) -> None:
    a, b = model(), model()
    loop.fit(job(tmp_path / "a"), a)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "last.pt").write_bytes((tmp_path / "a" / "last.pt").read_bytes()[:500])
    loop.fit(job(tmp_path / "b"), b)
    assert torch.equal(a.skip.weight, b.skip.weight)


def test_a_checkpoint_holds_nothing_that_executes(tmp_path: Path) -> None:
    torch.save({"format": 1, "position": Path}, tmp_path / "last.pt")  # a class is more than weights_only allows
    assert checkpoint.load(tmp_path / "last.pt") is None


@given(n=st.integers(1, 60), size=st.integers(1, 20), accumulate=st.integers(1, 4), world=st.integers(1, 4))
def test_every_example_is_seen_once_an_epoch_by_one_device(n: int, size: int, accumulate: int, world: int) -> None:
    train = TrainConfig(batch_size=size, accumulate=accumulate)
    order = plan.permutation(n, seed=3, epoch=2)
    seen: list[int] = []
    takes = []
    for rank in range(world):
        parts = [
            p for s in range(plan.steps_per_epoch(n, train)) for p in plan.micro_batches(order, s, train, rank, world)
        ]
        takes.append(len(parts))
        seen += [i for indices, counts in parts if counts for i in indices.tolist()]
        assert all(len(indices) for indices, _ in parts)
    assert sorted(seen) == list(range(n))
    assert len(set(takes)) == 1  # every device takes every step


def test_epochs_have_different_orders_and_the_same_one_twice() -> None:
    assert plan.permutation(50, 0, 1).tolist() == plan.permutation(50, 0, 1).tolist()
    assert plan.permutation(50, 0, 1).tolist() != plan.permutation(50, 0, 2).tolist()
    assert plan.permutation(50, 0, 1).tolist() != plan.permutation(50, 1, 1).tolist()


def test_the_rate_rises_and_falls() -> None:
    train = TrainConfig(lr=1.0, warmup=0.1)
    rates = [plan.rate(step, 100, train) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert np.argmax(rates) in (9, 10)
    assert (np.diff(rates[10:]) < 0).all()
    assert 0 < rates[-1] < 1e-3
    flat = TrainConfig(lr=1.0, warmup=0.0, schedule="constant")
    assert {plan.rate(step, 100, flat) for step in range(100)} == {1.0}


@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_validation_does_not_depend_on_the_batch_size(tmp_path: Path, size: int) -> None:
    one = job(tmp_path, batch_size=size)
    objective = loop.Objective(one.task, model(), "32")
    with torch.no_grad():
        objective.eval()
        batch = one.val_items.batch(range(len(one.val_items)))
        expected = (objective.model(batch["x"]).double() - batch["y"].double()).square().mean()
    assert loop.validate(one, objective) == pytest.approx(float(expected), rel=1e-6)


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    """Also where the last is smaller: 36 rows are 8+8, 8+8, 4 or 16, 16, 4."""
    a, b = model(dropout=0), model(dropout=0)
    loop.fit(job(tmp_path / "a", batch_size=8, accumulate=2, epochs=1), a)
    loop.fit(job(tmp_path / "b", batch_size=16, epochs=1), b)
    assert a.skip.weight.detach().numpy() == pytest.approx(b.skip.weight.detach().numpy(), abs=1e-6)


def test_untrained_weights_are_kept_when_training_spoils_them(tmp_path: Path) -> None:
    a, before = model(), model().state_dict()
    position = loop.fit(job(tmp_path, lr=10.0, warmup=0.0, clip=None, schedule="constant"), a)
    assert position.best_epoch == 0
    assert all(torch.equal(value, before[name]) for name, value in a.state_dict().items())


def test_it_stops_when_validation_no_longer_gets_better(tmp_path: Path) -> None:
    position = loop.fit(job(tmp_path, epochs=50, patience=2, lr=10.0, warmup=0.0, schedule="constant"), model())
    assert position.history[-1]["epoch"] == position.best_epoch + 2 < 50
    assert min(row["val_loss"] for row in position.history) == position.best_loss


def test_no_epochs_scores_the_model_as_it_was_initialised(tmp_path: Path) -> None:
    a, before = model(), model().state_dict()
    position = loop.fit(job(tmp_path, epochs=0), a)
    assert [row["epoch"] for row in position.history] == [0]
    assert all(torch.equal(value, before[name]) for name, value in a.state_dict().items())


def test_a_model_with_nothing_to_train_is_scored_as_it_is(tmp_path: Path) -> None:
    a = model().requires_grad_(False)
    position = loop.fit(job(tmp_path), a)
    assert [row["epoch"] for row in position.history] == [0]


def test_initial_values_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    a = model()
    torch.nn.init.constant_(a.skip.weight, float("nan"))
    with pytest.raises(loop.DivergedError, match="validation loss is nan before any training"):
        loop.fit(job(tmp_path), a)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """With plain steps of the gradient a clip of 1e-3 moves the weights by at most the rate times that."""
    a, before = model(), model().state_dict()
    one = job(tmp_path, clip=1e-3, epochs=1, batch_size=36)
    objective = loop.Objective(one.task, a, "32")
    wrapped = one.fabric.setup_module(objective)
    loop._step(one, wrapped, torch.optim.SGD(a.parameters(), lr=1.0), np.arange(36), checkpoint.Position())
    moved = sum(float((p.detach() - before[name]).square().sum()) for name, p in a.named_parameters()) ** 0.5
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_bf16_trains(tmp_path: Path) -> None:
    position = loop.fit(job(tmp_path, precision="bf16-mixed", epochs=5, lr=0.03), model())
    assert position.best_loss < position.history[0]["val_loss"]


def test_decay_spares_vectors() -> None:
    optimizer = loop.adamw(model(), TrainConfig(weight_decay=0.5))
    for group in optimizer.param_groups:
        assert group["params"]
        assert all((p.ndim >= 2) == (group["weight_decay"] == 0.5) for p in group["params"])


def test_a_loss_that_is_no_number_names_the_remedy(tmp_path: Path) -> None:
    task = Line(LineConfig(rows=60))

    def loss(model: torch.nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return model(batch["x"]).mean() * float("nan" if model.training else 1), torch.tensor(8.0)

    task.loss = loss  # type: ignore[method-assign]
    with pytest.raises(
        loop.DivergedError, match=r"epoch 1, step 1; try a lower learning rate, such as --set train.lr="
    ):
        loop.fit(job(tmp_path, task=task), model())


def test_a_part_without_examples_is_refused(tmp_path: Path) -> None:
    one = job(tmp_path)
    empty = type(one.val_items)("val", torch.zeros(0, 4), torch.zeros(0))
    with pytest.raises(BadInput, match="validation part holds no examples"):
        loop.fit(loop.Job(one.task, one.train_items, empty, one.train, 0, one.path, one.fabric), model())


@pytest.mark.parametrize("leak", ["no", "fit", "initialise"])
def test_a_task_that_looks_at_the_test_part_is_caught(leak: str) -> None:
    task = Line(LineConfig(leak=leak))
    data = task.open("simulated")
    split = task.split(data)

    def prepare() -> None:
        fit_statistics(task, data, split)
        initialise(task, model(), data, split)

    if leak == "no":
        prepare()
    else:
        with pytest.raises(LeakError, match=rf"{leak}\(\).*test part"):
            prepare()


def test_a_sentence_survives_as_plain_data() -> None:
    assert preset_from_dict(preset_to_dict(PRESET)) == PRESET
