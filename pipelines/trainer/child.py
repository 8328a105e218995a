"""What the training process does, from a request in a staging directory to all that a finished run holds."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from domains.task import Audit, Evidence, Split
from shared_backbones import runtime

from ..config import RunConfig, TrainConfig, build_preset, from_yaml, to_yaml
from ..evaluate import evidences, score
from ..features import keep_reference, reference_items
from ..ingest import ingest
from ..rivals import FOLDER
from ..runs import Trained, code_version, save_model
from ..store import atomic_path, finite, write_json, write_text
from ..tables import FOLDER as TABLES
from ..tables import save_tables
from ..train import CHECKPOINT, STAGING, begun
from ..usage import Usage, as_rows, measured
from . import loop, plan, start
from .checkpoint import Position
from .display import Share, shown
from .spread import make_fabric

log = logging.getLogger("cambium.train")
REQUEST = "config.yaml"


class LeakError(RuntimeError):
    """A statistic saw the test part: the score would not be honest, so there is none."""


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def fit_statistics(task: Any, data: Any, split: Split, audit: bool = True) -> dict[str, Any]:
    """``task.fit``, held to its promise by fitting again on data whose test part is absurd. Raises LeakError."""
    fitted = _canonical(task.fit(data, split))
    if audit and _canonical(task.fit(task.poison(data, split), split)) != fitted:
        raise LeakError(f"{task.name}: fit() gives other statistics when the test part is replaced; it must not see it")
    return json.loads(fitted)  # as it will be read back: lists for tuples, strings for keys


def initialise(task: Any, model: nn.Module, data: Any, split: Split) -> float:
    """``task.initialise``, held to the same promise; returns its seconds, which belong to the cost of training."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    task.initialise(model, task.poison(data, split), split)
    poisoned = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(before)
    start = time.perf_counter()
    task.initialise(model, data, split)
    seconds = time.perf_counter() - start
    for name, value in model.state_dict().items():
        if not torch.equal(value.nan_to_num(), poisoned[name].nan_to_num()):
            raise LeakError(f"{task.name}: initialise() sets {name} from the test part")
    return seconds


POISON = Audit(
    "statistics_without_test",
    "identical",
    True,
    "Preprocessing statistics and initial weights are the same, bit for bit, when the test part is absurd values.",
)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "figure"


def save_figures(folder: Path, figures: Mapping[str, Any], sounds: Mapping[str, bytes] | None = None) -> None:
    """Titles and pictures as PNG, and short sounds as WAV; ``figures.json`` keeps the titles in order."""
    index = []
    for number, (title, figure) in enumerate(figures.items(), 1):
        name = f"{number:02d}-{_slug(title)}.png"
        with atomic_path(folder / name) as aside:
            figure.savefig(aside, dpi=120, bbox_inches="tight", format="png")
        index.append({"title": title, "file": name})
    for number, (title, content) in enumerate((sounds or {}).items(), 1 + len(index)):
        name = f"{number:02d}-{_slug(title)}.wav"
        with atomic_path(folder / name) as aside:
            aside.write_bytes(content)
        index.append({"title": title, "file": name})
    write_json(folder / "figures.json", index)


def _training(position: Position, train: TrainConfig) -> dict[str, Any]:
    last = position.history[-1]
    return {
        "epochs": last["epoch"],
        "steps": last["step"],
        "best_epoch": position.best_epoch,
        "best_val_loss": position.best_loss,
        "stopped_early": last["epoch"] < train.epochs,
    }


def _scored(trained: Trained, data: Any, split: Split) -> tuple[Mapping[str, Evidence], dict[str, Any]]:
    """Calibrate; what there is to score, and the content of ``metrics.json``."""
    config, task, model = trained.config, trained.task, trained.model
    plan.seed_all(config.seed, 4)
    task.calibrate(model, data, split, trained.fitted)
    keep = trained.directory.parent / FOLDER
    scored: Mapping[str, Evidence] = evidences(trained, data, split, seed=config.seed, keep=keep)
    log.info("scored the test part: %d independent units", len(scored["model"].units), extra={"event": "scored"})
    begun_with = trained.meta.get("start")
    audits = [*task.audit(data, split), POISON]
    audits += [] if begun_with is None else [start.audit(begun_with, data.manifest, split)]
    return scored, score(trained, data, split, scored=scored, audits=audits)


def finish(
    staging: Path, trained: Trained, data: Any, split: Split, position: Position, settings: Any, used: list[Usage]
) -> None:
    """Calibrate, score, picture and write everything but the checkpoint; may be done again from the start."""
    config, task, model = trained.config, trained.task, trained.model.eval()
    run = trained.meta["run"]
    with measured("score", used, run=run):
        scored, metrics = _scored(trained, data, split)
    begun_with = trained.meta.get("start")
    metrics["cost"]["train_seconds"] = position.seconds
    metrics["training"] = finite(_training(position, config.train)) | ({"start": begun_with} if begun_with else {})
    metrics["runtime"] = settings
    facts = {"data_sha256": data.manifest.sha256, "split": split.digest, "train_seconds": position.seconds}
    facts |= {"code": code_version(config.task), **({"start": begun_with} if begun_with else {})}
    save_model(staging, config, trained.preset, trained.fitted, model, run=run, **facts)
    write_json(staging / "data.json", finite({**data.manifest.to_json(), "split": split.to_json()}))
    write_json(staging / "history.json", finite(position.history))
    with measured("picture", used, run=run):
        plan.seed_all(config.seed, 6)
        reference = reference_items(task, data, split, trained.fitted)
        keep_reference(staging, task, model, reference, config.train.batch_size)
        plan.seed_all(config.seed, 5)
        with torch.no_grad():
            figures = task.figures(model, data, split, trained.fitted, scored)
            heard = getattr(task, "sounds", None)  # an optional method of a task: title -> a short WAV file
            sounds = heard(model, data, split, trained.fitted, scored) if heard else {}
            listed = getattr(task, "tables", None)  # likewise: title -> rows of a table
            tables = listed(model, data, split, trained.fitted, scored) if listed else {}
        save_figures(staging / "figures", figures, sounds)
        save_tables(staging / TABLES, tables)
    metrics["usage"] = as_rows(used)
    write_json(staging / "metrics.json", metrics)
    from ..card import write_card
    from ..report import write_report

    write_report(staging)
    write_card(staging)


def run(staging: Path, quiet: bool, share: Share | None = None) -> None:
    """Train what the staging directory asks for, from where it stands, and leave the finished run in it.

    ``share`` is told now and then which share of the training is done.
    """
    config = from_yaml((staging / REQUEST).read_text(), str(staging / REQUEST))
    settings = runtime.configure(config.train.threads, config.train.precision)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    fabric = make_fabric(config.train)
    fabric.launch()
    settings |= {"accelerator": fabric.device.type, "devices": fabric.world_size, "seed": config.seed}
    for leftover in staging.rglob(".writing-*") if fabric.is_global_zero else ():
        leftover.unlink(missing_ok=True)  # of a process that was killed while writing
    log_file = staging / "log.txt" if fabric.is_global_zero else None
    name = staging.name.removeprefix(STAGING)
    with shown(log_file, config.train.epochs, quiet, share, run=name) as tick:
        _run(staging, config, fabric, settings, tick)


def _run(staging: Path, config: RunConfig, fabric: Fabric, settings: dict[str, Any], tick: loop.Tick) -> None:
    resuming, name = begun(staging), staging.name.removeprefix(STAGING)
    used: list[Usage] = []
    who: dict[str, Any] = {"run": name} | ({"rank": fabric.global_rank} if fabric.world_size > 1 else {})
    with measured("prepare", used, **who):
        task, data, split = ingest(config)
        log.info("%s on %s: %s", task.name, data.manifest.source, split.protocol, extra={"event": "data"})
        fitted = fit_statistics(task, data, split, audit=not resuming)
        preset = build_preset(config)
        plan.seed_all(config.seed)
        model = task.build(fitted, preset)
        spent = 0.0 if resuming else initialise(task, model, data, split)
        begun_with = start.take(model, config.train)
    job = loop.Job(
        task=task,
        train_items=task.items(data, split, fitted, "train"),
        val_items=task.items(data, split, fitted, "val"),
        train=config.train,
        seed=config.seed,
        path=staging / CHECKPOINT,
        fabric=fabric,
        tick=tick,
        spent=spent,
    )
    with measured("train", used, **who):
        position = loop.fit(job, model)
    if config.train.recompute or config.train.strategy == "fsdp":  # a module as others know it, with the same weights
        model = task.build(fitted, preset).to(fabric.device)
        model.load_state_dict(position.best)
    if fabric.world_size > 1:
        torch.distributed.destroy_process_group()  # the first device scores alone; the others are done
    if fabric.global_rank == 0:
        trained = Trained(staging, config, task, preset, fitted, model, {"run": name, "start": begun_with})
        write_text(staging / REQUEST, to_yaml(config))
        finish(staging, trained, data, split, position, settings, used)
