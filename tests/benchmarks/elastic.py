"""Widths cut out of one training beside the same widths trained alone: ``python -m tests.benchmarks.elastic``.

`audio/classify` on FSDD with preset ``audio_elastic``, one speaker left out. First the whole network alone for
``--first`` epochs (or ``--run RUN``, such a run), then all widths together for ``--then`` epochs; each width alone for
as many epochs in all. Trained by the trainer's own loop, scored on the whole test part, without baselines and reports.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from domains.task import Part
from pipelines.config import RunConfig, build_preset, build_task, resolve
from pipelines.runs import load_run
from pipelines.trainer import loop, plan
from pipelines.trainer.spread import make_fabric
from shared_backbones.runtime import configure


class Bench:
    """The data, and what is trained on it."""

    def __init__(self, data: str, common: list[str], seed: int, preset: str = "audio_elastic") -> None:
        self.common = [*common, "train.threads=1"]
        self.source, self.seed, self.preset = data, seed, preset
        config = self.request([])
        self.task = build_task(config)
        self.data = self.task.open(data)
        self.split = self.task.split(self.data)
        self.fitted = self.task.fit(self.data, self.split)

    def request(self, sets: list[str]) -> RunConfig:
        """A request as a user would write it."""
        return resolve(
            "audio/classify", data=self.source, preset=self.preset, sets=[*self.common, *sets], seed=self.seed
        )

    def build(self, sets: list[str], start: Mapping[str, Tensor] | None = None) -> Any:
        """A model, perhaps with another's weights, cut to its width."""
        plan.seed_all(self.seed)
        model = self.task.build(self.fitted, build_preset(self.request(sets)))
        if start is not None:
            model.load_state_dict(model.adopt(start))
        return model

    def train(self, model: nn.Module, epochs: int | None = None) -> dict[str, Tensor]:
        """Its weights of the best epoch by validation, of so many epochs or of the preset's."""
        train = self.request([] if epochs is None else [f"train.epochs={epochs}"]).train
        with TemporaryDirectory() as folder:
            items = [self.task.items(self.data, self.split, self.fitted, part) for part in ("train", "val")]
            job = loop.Job(self.task, items[0], items[1], train, self.seed, Path(folder) / "c", make_fabric(train))
            loop.fit(job, model)
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

    def scores(self, model: nn.Module, part: Part) -> dict[str, float]:
        """Of a whole part."""
        self.task.calibrate(model, self.data, self.split, self.fitted)
        with torch.no_grad():
            return self.task.metrics(self.task.evidence(model.eval(), self.data, self.split, self.fitted, part))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fsdd")
    parser.add_argument("--speaker", default="theo")
    parser.add_argument("--widths", type=float, nargs="+", default=[0.5, 0.75, 1.0])
    parser.add_argument("--first", type=int, default=2)
    parser.add_argument("--then", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--alone", action=argparse.BooleanOptionalAction, default=True, help="train each width by itself too"
    )
    parser.add_argument("--run", type=Path, help="a run of the first stage, in place of training it")
    args = parser.parse_args()
    configure(1)
    bench = Bench(args.data, [f"split.test=[{args.speaker}]", f"train.batch_size={args.batch}"], args.seed)
    narrow = [w for w in args.widths if w < 1]

    def said(what: str, model: nn.Module, since: float) -> None:
        size, took = sum(p.numel() for p in model.parameters()), time.process_time() - since
        val, test = bench.scores(model, "val"), bench.scores(model, "test")
        print(
            f"{what}: accuracy {100 * test['accuracy']:.1f} %, log loss {test['nll']:.3f} (validation "
            f"{100 * val['accuracy']:.1f} %, {val['nll']:.3f}), {size} parameters, {took:.0f} CPU s", flush=True
        )  # fmt: skip

    since = time.process_time()
    if args.run is None:
        first = bench.build(["model.widths=[]"])
        state = bench.train(first, args.first)
    else:
        first = load_run(args.run).model
        state = dict(first.state_dict())
    said(f"whole alone, {args.first} epochs", first, since)
    since = time.process_time()
    whole = bench.build([f"model.widths={narrow}"], state)
    state = bench.train(whole, args.then)
    said(f"all widths, {args.then} more: whole", whole, since)
    for width in narrow:
        said(f"  cut out at {width:g}", bench.build([f"model.width={width}"], state), time.process_time())
    for width in args.widths if args.alone else []:
        since = time.process_time()
        alone = bench.build([f"model.width={width}", "model.widths=[]"])
        bench.train(alone, args.first + args.then)
        said(f"{width:g} alone, {args.first + args.then} epochs", alone, since)


if __name__ == "__main__":
    main()
