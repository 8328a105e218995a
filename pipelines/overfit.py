"""Whether a model can learn a few examples by heart: where it cannot, data, labels, loss or model are at fault.

Training has failed silently more often than loudly; this takes seconds and is worth doing before an hour of training.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from torch import nn

from domains.task import Split
from shared_backbones import runtime
from shared_backbones.errors import BadInput

from .config import RunConfig, build_preset
from .ingest import ingest
from .store import finite
from .trainer import plan

SHARE = 0.1  # of the first loss that must be left at most
SETTLE = 10  # passes in training mode before, from which running statistics are known


def overfit(config: RunConfig, items: int = 8, steps: int = 200) -> dict[str, Any]:
    """Train on the first ``items`` training examples alone, without augmentation or dropout, and say what came of it.

    The examples are taken as validation takes them, the model is in evaluation mode, and the rate is constant. Where
    the task's examples are its rows, its metrics on them are given too. Nothing is written. Raises BadInput.
    """
    runtime.configure(config.train.threads, "32")
    task, data, split = ingest(config)
    fitted = json.loads(json.dumps(task.fit(data, split)))
    preset = build_preset(config)
    plan.seed_all(config.seed)
    model: nn.Module = task.build(fitted, preset)
    task.initialise(model, data, split)
    few = Split("training examples learned by heart", {**split.parts, "val": split.parts["train"][:items]})
    examples = task.items(data, few, fitted, "val")
    if not len(examples):
        raise BadInput(f"{config.data}: the training part holds no examples")
    indices = list(range(min(items, len(examples))))
    plan.seed_all(config.seed, 1)
    batch = examples.batch(indices)
    _settle(task, model, batch)
    losses = _learn(task, model.eval(), batch, steps, config)
    first, last = losses[0], losses[-1]
    passed = math.isfinite(last) and last <= first - (1 - SHARE) * abs(first)
    found = {
        "task": task.name, "preset": config.preset, "data": config.data, "seed": config.seed, "items": len(indices),
        "steps": steps, "lr": config.train.lr, "first_loss": first, "last_loss": last, "passed": passed,
        "metrics": _metrics(task, model, data, split, fitted, len(indices), len(examples), items),
        "losses": losses[:: max(1, steps // 10)],
    }  # fmt: skip
    return finite(found)


def _settle(task: Any, model: nn.Module, batch: Any) -> None:
    """Running statistics of norms over the batch, which evaluation mode reads."""
    model.train()
    with torch.no_grad():
        for _ in range(SETTLE):
            task.loss(model, batch)


def _learn(task: Any, model: nn.Module, batch: Any, steps: int, config: RunConfig) -> list[float]:
    """The loss before each step, and after the last."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.train.lr, weight_decay=0.0)
    losses = []
    for step in range(steps + 1):
        plan.seed_all(config.seed, 2)  # a loss that draws numbers draws the same ones every time
        loss, _ = task.loss(model, batch)
        losses.append(float(loss.detach()))
        if step == steps or not math.isfinite(losses[-1]):
            break
        for group in optimizer.param_groups:
            group["lr"] = config.train.lr * min(1.0, (step + 1) / max(1, steps // 20))
        optimizer.zero_grad()
        loss.backward()
        if config.train.clip is not None:
            torch.nn.utils.clip_grad_norm_(trained, config.train.clip)
        optimizer.step()
    return losses


def _metrics(
    task: Any, model: nn.Module, data: Any, split: Split, fitted: Any, n: int, examples: int, items: int
) -> dict[str, float]:
    """The task's own metrics on what was learned, where an example is a row of the split."""
    rows = split.parts["train"][:items]
    if examples != len(rows) or n != len(rows) or len(task.items(data, split, fitted, "train")) == 1:
        return {}
    with torch.no_grad():
        heart = Split("learned by heart", {**split.parts, "test": np.asarray(rows)})
        return dict(task.metrics(task.evidence(model.eval(), data, heart, fitted, "test")))
