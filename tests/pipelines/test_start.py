"""Starting from another run: what is taken and what stays, which request it is, rates that fall towards the stem."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from domains.task import Manifest, Split
from pipelines.config import RunConfig, TrainConfig, resolve
from pipelines.lineage import lineage
from pipelines.runs import load_run, run_key
from pipelines.train import train
from pipelines.trainer import loop, plan, start
from shared_backbones.backbone import Tokens, build_backbone
from shared_backbones.errors import BadRequest
from shared_backbones.norms import BatchNorm
from shared_backbones.presets import load_preset

from .made import make_run
from .test_loop import Killed, job, killed_after, model
from .toy import Line, LineConfig

QUICK = ["train.epochs=0", "figures=false", "train.threads=1"]
MANIFEST = Manifest("x", "0" * 64)
PRESET = Path(__file__).with_name("toy.yaml")


def request_(*sets: str, seed: int = 1) -> RunConfig:
    return resolve("toy/line", sets=[*QUICK, *sets], seed=seed)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run to start from."""
    from .conftest import link_toy

    with pytest.MonkeyPatch.context() as patch:
        link_toy(tmp_path_factory.mktemp("site"), patch)
        yield make_run(tmp_path_factory.mktemp("runs") / "first", task="toy/line")


def taken(folder: Path, here: nn.Module, **more: Any) -> Any:
    return start.take(here, TrainConfig(start=str(folder), **more))


def test_a_run_starts_from_another_and_says_what_it_took(source: Path, toy_task: str, tmp_path: Path) -> None:
    run = train(request_(f"train.start={source}"), tmp_path, quiet=True)
    before, after = load_run(source), load_run(run)
    names = [name for name, _ in before.model.named_parameters()]
    assert all(torch.equal(before.model.get_parameter(n), after.model.get_parameter(n)) for n in names)
    facts = json.loads((run / "metrics.json").read_bytes())["training"]["start"]
    assert facts == after.meta["start"]
    assert (facts["taken"], facts["of"], facts["left"]) == (len(names), len(names), {})
    assert (
        f"started from run {before.meta['run']} (toy/line): {len(names)} of {len(names)}"
        in (run / "log.txt").read_text()
    )
    assert after.config.train.start_sha256 == before.meta["weights_sha256"]
    assert train(after.config, tmp_path, quiet=True) == run  # as config.yaml has it
    assert "start" not in before.meta
    begun = lineage(run / "metrics.json")["started_from"]
    assert (begun["run"], begun["weights"]) == (before.meta["run"], before.meta["weights_sha256"])
    assert "started_from" not in lineage(source / "metrics.json")


def test_statistics_of_the_new_task_stay_and_running_ones_are_taken() -> None:
    class Net(nn.Module):
        def __init__(self, mean: float) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor([mean]))
            self.shared, self.plain = BatchNorm(2), nn.BatchNorm1d(2)
            self.shared.variance.fill_(mean)
            self.plain.running_var.fill_(mean)
            self.temperature = nn.Parameter(torch.tensor(mean), requires_grad=False)

    found = dict(start._startable(Net(3.0)))
    assert set(found) == {
        "shared.weight", "shared.bias", "shared.mean", "shared.variance", "plain.weight", "plain.bias", "temperature",
        "plain.running_mean", "plain.running_var", "plain.num_batches_tracked",
    }  # fmt: skip


def test_what_does_not_fit_is_named_and_nothing_at_all_is_refused(source: Path, toy_task: str) -> None:
    plan.seed_all(5)
    wider = Line(LineConfig()).build({"mean": 7.0}, load_preset(str(PRESET)))
    wider.head, wider.extra = nn.Linear(8, 3), nn.Linear(1, 1)
    own = wider.head.weight.clone()
    facts = taken(source, wider)
    assert set(facts["left"]) == {"head.weight", "head.bias", "extra.weight", "extra.bias"}
    assert facts["left"]["head.weight"] == "has shape [1, 8] there and [3, 8] here"
    assert facts["of"] - facts["taken"] == 4
    assert torch.equal(wider.head.weight, own)
    assert float(wider.mean) == 7.0
    assert torch.equal(wider.embed.weight, load_run(source).model.embed.weight)
    with pytest.raises(BadRequest, match=r"no parameter of run .*toy/line.*nope.weight not in that run"):
        taken(source, nn.ModuleDict({"nope": nn.Linear(2, 2)}))
    assert start.take(nn.Linear(1, 1), TrainConfig()) is None


def test_a_replaced_run_is_another_request_and_is_noticed_when_training_starts(
    source: Path, toy_task: str, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(source, copy)
    first = start.pinned(request_(f"train.start={source}"), tmp_path)
    same = start.pinned(request_(f"train.start={copy}"), tmp_path)
    assert run_key(first, MANIFEST) == run_key(same, MANIFEST)  # the same weights elsewhere
    assert run_key(first, MANIFEST) != run_key(request_(), MANIFEST)
    with pytest.raises(ValueError, match="no digest"):
        run_key(request_(f"train.start={source}"), MANIFEST)
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BadRequest, match="changed since training"):
        start.pinned(request_(f"train.start={copy}"), tmp_path)
    shutil.rmtree(copy)
    make_run(copy, task="toy/line", seed=9)
    assert run_key(start.pinned(request_(f"train.start={copy}"), tmp_path), MANIFEST) != run_key(same, MANIFEST)
    with pytest.raises(BadRequest, match="the run was replaced"):
        start.pinned(same, tmp_path)
    with pytest.raises(BadRequest, match="the run was replaced"):
        start.take(model(), same.train)


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["train.start=runs/none"], "option 'train.start': no run directory runs/none"),
        (["train.start=toy-line@champion"], "option 'train.start': no registry"),
        (["train.start=."], "not a finished run"),
        (["train.start_sha256=abc"], "names no run"),
    ],
)
def test_a_start_that_is_not_there_is_refused(sets: list[str], says: str, toy_task: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=says):
        train(request_(*sets), tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(BadRequest, match="layer_decay"):
        request_("train.layer_decay=0")


def test_the_report_is_told_whether_the_start_saw_the_test_part() -> None:
    split = Split("p", {})
    facts = {"data_sha256": MANIFEST.sha256, "split": split.digest}
    assert start.audit(facts, MANIFEST, split).passed is True
    assert start.audit({**facts, "split": "other"}, MANIFEST, split).passed is False
    assert start.audit({**facts, "data_sha256": "other"}, MANIFEST, split).passed is None


# ------------------------------------------------------------------------------------------------- layer-wise decay


def test_rates_fall_by_the_factor_per_block_away_from_the_head() -> None:
    pyramid = build_backbone(load_preset("medical_unet").backbone, Tokens(rank=2))
    columnar = build_backbone(load_preset("medical_mixer").backbone, Tokens(rank=2))
    net = nn.ModuleDict({"stem": nn.Linear(2, 2), "backbone": columnar, "head": nn.Linear(2, 2)})
    found, head = start.depths(net)
    blocks = sum(len(stage.layers) for stage in columnar.spec.stages)
    assert head == blocks + 1
    assert found["stem.weight"] == 0
    assert found["head.bias"] == head
    number = 0
    for s, stage in enumerate(columnar.stages):
        merges = {d for n, d in found.items() if n.startswith(f"backbone.merges.{s}.")}
        assert merges <= {number + 1}
        for b, _ in enumerate(stage.blocks):
            number += 1
            assert {d for n, d in found.items() if n.startswith(f"backbone.stages.{s}.blocks.{b}.")} == {number}
    assert start.factors(net, 0.5)["stem.bias"] == 0.5**head
    assert start.factors(net, 0.5)["head.bias"] == 1.0
    assert set(start.factors(net, 1.0).values()) == {1.0}
    deep, last = start.depths(pyramid)
    assert all(1 <= d <= last for d in deep.values())
    assert (
        deep["expands.0." + next(n for n, _ in pyramid.expands[0].named_parameters())] > deep["encoder.norm.weight"] - 1
    )
    with pytest.raises(BadRequest, match="no blocks"):
        start.depths(nn.Linear(2, 2))


def test_every_parameter_is_in_one_group_with_its_decay() -> None:
    net = model()
    rows = start.groups(net, TrainConfig(layer_decay=0.5, weight_decay=0.1))
    assert sum(len(row["params"]) for row in rows) == len(list(net.parameters()))
    assert {row["factor"] for row in rows} == {1.0, 0.5, 0.25}
    assert all((p.ndim >= 2) == (row["weight_decay"] > 0) for row in rows for p in row["params"])
    assert len(start.groups(net, TrainConfig())) == 2
    net.requires_grad_(False)
    assert [row["params"] for row in start.groups(net, TrainConfig())] == [[]]


def test_one_step_of_adam_moves_each_layer_by_its_own_rate(tmp_path: Path) -> None:
    """Adam's first step is the rate times the sign of the gradient, so the factor can be read off the weights."""
    task = Line(LineConfig(rows=60))
    settings = {"epochs": 1, "batch_size": 64, "warmup": 0.0, "schedule": "constant", "clip": None, "weight_decay": 0.0}
    net, step = model(), {}
    before = {n: p.detach().clone() for n, p in net.named_parameters()}

    def tick(position: Any, steps: int) -> None:
        step.update({n: float((p.detach() - before[n]).abs().max()) for n, p in net.named_parameters()})

    loop.fit(job(tmp_path, tick=tick, task=task, layer_decay=0.5, lr=1e-3, **settings), net)
    assert step["skip.weight"] == pytest.approx(1e-3, rel=1e-2)
    assert step["embed.weight"] == pytest.approx(0.25e-3, rel=1e-2)
    assert max(v for n, v in step.items() if "blocks.0" in n) == pytest.approx(0.5e-3, rel=1e-2)


def test_it_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole, again = model(), model(seed=3)
    loop.fit(job(tmp_path / "whole", layer_decay=0.6), whole)
    with pytest.raises(Killed):
        loop.fit(job(tmp_path / "part", layer_decay=0.6, tick=killed_after(7)), model())
    loop.fit(job(tmp_path / "part", layer_decay=0.6), again)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    plain = model()
    loop.fit(job(tmp_path / "plain"), plain)
    assert not torch.equal(plain.embed.weight, whole.embed.weight)
