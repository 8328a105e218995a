"""Segmentation presets beside each other for equal training time: ``python -m tests.benchmarks.segment --data NAME``.

Every preset gets the same CPU seconds of training in each fold (this process's own time on one thread, so that a busy
machine disturbs little), a rate that warms up and falls with the share of the time spent, and no choice of an epoch.
Rows are printed as JSON, one per fold and preset, then means over folds. ``--part val`` is for choosing settings.
The preset ``monai-segresnet`` is that network of MONAI's; ``medical_unet+identity`` has all its mixers replaced.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from domains.medical.plan import Plan
from domains.medical.segment import Segment
from shared_backbones.presets import adjust, load_preset

MEASURES = ("dice", "v_rand", "nsd", "hd95", "assd")


class Wrapped(nn.Module):
    """Another package's network with what prediction asks of a segmenter."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network, self.classes = network, classes
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def train(task: Segment, model: nn.Module, items: Any, seconds: float, lr: float) -> dict[str, float]:
    """Steps until so many CPU seconds have gone into drawing and learning."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    start, steps = time.process_time(), 0
    model.train()
    while (spent := time.process_time() - start) < seconds:
        share = spent / seconds
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (steps + 1) / 5) * 0.5 * (1 + math.cos(math.pi * share))
        loss, _ = task.loss(model, items.batch([0]))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        steps += 1
    return {"steps": steps, "seconds": round(time.process_time() - start, 1)}


def made(name: str, task: Segment, fitted: dict[str, Any]) -> nn.Module:
    if name == "monai-segresnet":
        from monai.networks.nets import SegResNet

        plan = Plan.from_json(fitted["plan"])
        classes = len(fitted["values"])
        network = SegResNet(
            spatial_dims=plan.dimensions, init_filters=8, in_channels=fitted["channels"], out_channels=classes
        )
        return Wrapped(network, classes)
    base, _, mixer = name.partition("+")
    preset = load_preset(base)
    preset = adjust(preset, mixer=mixer) if mixer else preset
    return task.build(fitted, preset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="isbi2012_membrane")
    parser.add_argument("--presets", nargs="+", default=["medical_unet", "plain_unet", "light_unet"])
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--part", default="test", choices=["test", "val"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patch", type=int, nargs="+", default=[128, 128])
    parser.add_argument(
        "--batch", type=int, default=2, help="patches of a step: small, so that slow nets take some too"
    )
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--baselines", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []

    def say(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)

    for fold in args.folds:
        options = {"split": {"fold": fold}, "patch": args.patch, "batch": args.batch, "overlap": args.overlap}
        task = Segment(Segment.Config.model_validate(options))
        data = task.open(args.data)
        split = task.split(data)
        fitted = json.loads(json.dumps(task.fit(data, split)))
        for name in args.presets:
            torch.manual_seed(args.seed)
            model = made(name, task, fitted)
            items = task.items(data, split, fitted, "train")
            items.batch([0])  # what is prepared once is not training
            spent = train(task, model, items, args.seconds, args.lr)
            segmenter: Any = model
            evidence = scored(task, segmenter, data, split, fitted, args.part)
            found = {m: round(v, 4) for m, v in task.metrics(evidence).items() if m in MEASURES}
            size = sum(p.numel() for p in model.parameters())
            say({"preset": name, "fold": fold, "parameters": size, **spent, **found})
        if args.baselines:
            for name, evidence in task.baselines(data, split, fitted).items():
                found = {m: round(v, 4) for m, v in task.metrics(evidence).items() if m in MEASURES}
                say({"preset": name, "fold": fold, **found})
    for name in dict.fromkeys(row["preset"] for row in rows):
        own = [row for row in rows if row["preset"] == name]
        means = {m: f"{np.mean([r[m] for r in own]):.4f} +- {np.std([r[m] for r in own]):.4f}" for m in MEASURES}
        print(f"{name}: {len(own)} folds, {means}")


def scored(task: Segment, model: Any, data: Any, split: Any, fitted: Any, part: str) -> Any:
    from domains.medical.segment_predicting import blend_of
    from domains.medical.segment_windows import segment

    plan = Plan.from_json(fitted["plan"])
    blend = blend_of(task.config)
    return task._scored(data, split, part, lambda g: segment(model, g.image, g.spacing, plan, blend).labels)


if __name__ == "__main__":
    main()
