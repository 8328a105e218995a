"""The loop: AdamW, a schedule, validation after every epoch, the best epoch kept, checkpoints as it goes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from domains.task import Batch, Items
from shared_backbones.errors import BadInput

from ..config import TrainConfig
from . import plan
from .checkpoint import Position
from .spread import Spread, recompute, spread
from .start import groups

log = logging.getLogger("cambium.train")
Tick = Callable[[Position, int], None]  # after every optimiser step: where training is, and steps in an epoch


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


class Objective(nn.Module):
    """A task's loss as a module's forward, so that data-parallel wrappers see every use of the model."""

    def __init__(self, task: Any, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.task, self.model, self.bf16 = task, model, precision == "bf16-mixed"

    def forward(self, batch: Batch, watch: bool = False) -> tuple[Tensor, Tensor]:
        """(mean loss, number of elements); the batch itself keeps its precision, only products are cast.

        ``watch``: the mean that the task watches (an optional method of a task, like ``loss``) in place of the loss.
        """
        device = next(iter(batch.values())).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            loss, weight = (self.task.watch if watch else self.task.loss)(self.model, batch)
        return loss.float(), weight


@dataclass(frozen=True)
class Job:
    """What the loop works on."""

    task: Any
    train_items: Items
    val_items: Items
    train: TrainConfig
    seed: int
    path: Path  # of the checkpoint
    fabric: Fabric
    tick: Tick = lambda position, steps: None
    spent: float = 0.0  # seconds of training before the loop: closed-form initial values

    @property
    def spread(self) -> Spread:
        """How the devices share the work."""
        return spread(self.fabric, self.train)

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch."""
        return plan.steps_per_epoch(len(self.train_items), self.train)


def adamw(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """With parameter groups of a weight decay and a factor of the rate each: see :func:`start.groups`.

    One fused pass over the weights, but for sharded ones: a third of the time of the loop over them on a CPU.
    """
    return torch.optim.AdamW(groups(model, train), lr=train.lr, fused=train.strategy != "fsdp")


def _on(device: torch.device, batch: Batch) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _snapshot(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


@torch.no_grad()
def validate(job: Job, objective: Objective, watch: bool = False) -> float:
    """Loss over the whole validation part, weighted by elements, so it does not depend on the batch size.

    ``watch``: what the task watches in place of the loss.
    """
    objective.eval()
    fabric, size, n = job.fabric, job.train.batch_size, len(job.val_items)
    total = torch.zeros(2, dtype=torch.float64, device=fabric.device)
    plan.seed_all(job.seed, 1)  # a loss that draws numbers draws the same ones every time
    count = plan.batches(n, size)
    for first in range(0, count, fabric.world_size):  # as many calls on every device: shards are gathered in each
        b = first + fabric.global_rank
        mine, counts = (b, True) if b < count else (0, False)
        batch = job.val_items.batch(range(mine * size, min(n, (mine + 1) * size)))
        loss, weight = objective(_on(fabric.device, batch), watch)
        total += torch.stack([loss * weight, weight]).double() * counts
    total = fabric.all_reduce(total, reduce_op="sum")  # type: ignore[assignment]
    objective.train()
    return float(total[0] / total[1])


def _step(
    job: Job, wrapped: nn.Module, optimizer: torch.optim.Optimizer, order: np.ndarray, position: Position
) -> Tensor:
    """One optimiser step; returns (sum of losses over elements, elements) of all devices.

    The gradient is that of the mean over all elements of all parts, however they are shared out.
    """
    fabric = job.fabric
    rank, world = fabric.global_rank, fabric.world_size
    parts = list(plan.micro_batches(order, position.step, job.train, rank, world))
    seen = torch.zeros(2, dtype=torch.float64, device=fabric.device)
    for i, (indices, counts) in enumerate(parts):
        batch = _on(fabric.device, job.train_items.batch(indices.tolist()))
        with job.spread.apart(wrapped, on=world > 1 and i + 1 < len(parts)):
            loss, weight = wrapped(batch)
            weight = weight * float(counts)
            (loss * weight).backward()
        seen += torch.stack([loss.detach() * weight, weight]).double()
    seen = fabric.all_reduce(seen, reduce_op="sum") if world > 1 else seen  # type: ignore[assignment]
    parameters = [p for p in wrapped.parameters() if p.grad is not None]
    scale = (world / seen[1].clamp_min(1e-12)).float()  # data-parallel averages gradients over devices
    if parameters:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], scale)
    if job.train.clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, job.train.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return seen


class _Clock:
    """Seconds spent training, before this process and in it."""

    def __init__(self, before: float) -> None:
        self.before, self.start = before, time.perf_counter()

    def __call__(self) -> float:
        return self.before + time.perf_counter() - self.start


def _end_of_epoch(job: Job, objective: Objective, position: Position) -> None:
    """Validate, keep the weights if they are the best so far, decide whether to go on."""
    loss = validate(job, objective)
    if not math.isfinite(loss) and not position.best:
        raise DivergedError(f"the validation loss is {loss} before any training: look for values that are no numbers")
    seen = position.loss_weight > 0
    better = loss < position.best_loss
    if better:
        position.best_loss, position.best_epoch = loss, position.epoch
        position.best = _snapshot(job.spread.weights(objective.model))
    position.stale = 0 if better else position.stale + 1
    row = {
        "epoch": position.epoch,
        "step": position.epoch * job.steps,
        "train_loss": position.loss_sum / position.loss_weight if seen else None,
        "val_loss": loss,
        "best": better,
        "seconds": position.seconds,
    }
    if hasattr(job.task, "watch"):
        row["watched"] = validate(job, objective, watch=True)
    position.history.append(row)
    patience = job.train.patience
    position.finished = position.epoch >= job.train.epochs or (patience is not None and position.stale >= patience)
    position.step, position.loss_sum, position.loss_weight = 0, 0.0, 0.0
    shown = "untrained" if row["train_loss"] is None else f"train {row['train_loss']:.5g}"
    text = f"epoch {position.epoch}/{job.train.epochs}  {shown}  val {loss:.5g}{'  best' if better else ''}"
    log.info("%s", text, extra={"event": "epoch", "fields": row})


def _epoch(
    job: Job, wrapped: nn.Module, optimizer: torch.optim.Optimizer, position: Position, keep: Callable[[], None]
) -> None:
    """What is left of the epoch under way."""
    drawn = plan.permutation(len(job.train_items), job.seed, position.epoch)
    order = plan.arranged(job.train_items, drawn, job.train.batch_size, job.seed, position.epoch)
    total = job.steps * job.train.epochs
    while position.step < job.steps:
        done = position.epoch * job.steps + position.step
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * plan.rate(done, total, job.train)
        plan.seed_all(job.seed, 0, done, job.fabric.global_rank)
        loss_sum, weight = _step(job, wrapped, optimizer, order, position).tolist()
        if not math.isfinite(loss_sum):
            raise DivergedError(
                f"the loss became {loss_sum} in epoch {position.epoch + 1}, step {position.step + 1}; "
                f"try a lower learning rate, such as --set train.lr={job.train.lr / 10:g}"
            )
        position.step += 1
        position.loss_sum += loss_sum
        position.loss_weight += weight
        job.tick(position, job.steps)
        if position.step % job.train.checkpoint_every == 0 and position.step < job.steps:
            keep()


def fit(job: Job, model: nn.Module) -> Position:
    """Train ``model`` from its checkpoint, or from the start; it ends with the best epoch's weights.

    The state before any training is a candidate too: an initial value that training only spoils is kept.
    """
    for name, items in (("training", job.train_items), ("validation", job.val_items)):
        if not len(items):
            raise BadInput(f"the {name} part holds no examples; use more data or another split")
    found = job.spread.found(job.path)
    position = Position(seconds=job.spent) if found is None else found[0]
    objective = Objective(job.task, model, job.train.precision)
    if found is not None:
        model.load_state_dict(found[1])
    objective.to(job.fabric.device)
    if job.train.recompute:
        recompute(model)
    trains = job.train.epochs > 0 and any(p.requires_grad for p in model.parameters())
    wrapped = job.spread.wrap(objective) if trains else objective
    optimizer = adamw(model, job.train)
    if found is not None and trains:
        job.spread.restore_optimizer(model, optimizer, found[2])
        at = f"epoch {position.epoch + 1}, step {position.step} of {job.steps}"
        log.info("resumed at %s", "the end of training" if position.finished else at, extra={"event": "resumed"})
    clock = _Clock(position.seconds)

    def keep() -> None:
        position.seconds = clock()
        job.spread.keep(job.path, position, model, optimizer)

    if not position.history:
        _end_of_epoch(job, objective, position)
        position.finished |= not trains
        keep()
    wrapped.train()
    while not position.finished:
        _epoch(job, wrapped, optimizer, position, keep)
        position.epoch += 1
        position.seconds = clock()
        _end_of_epoch(job, objective, position)
        keep()
    job.spread.restore(model, position.best)
    return position
