"""`hyperspectral/classify` over seeds: ``python -m tests.benchmarks.few_pixels [--seeds 10] [--settings 5 10 blocks]``.

Every seed has a split of its own. "5" and "10": so many random training pixels per class, which leaks, and the audits
say so; "blocks": whole blocks with a buffer; "blocks5": five training pixels per class out of these blocks. The
trainer's own loop, one process; no pictures and no report are made. A table is printed for each setting, and all
figures are kept as JSON with ``--json FILE``. ``--start RUN`` starts every training from a run ("{seed}" stands for the
seed) beside one from scratch.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import RunConfig, build_preset, resolve
from pipelines.ingest import ingest
from pipelines.trainer import loop, plan, start
from pipelines.trainer.child import fit_statistics
from pipelines.trainer.spread import make_fabric
from shared_backbones import runtime

SETTINGS: dict[str, list[str]] = {
    "5": ["split.allow_leak=true", "split.per_class=5"],
    "10": ["split.allow_leak=true", "split.per_class=10"],
    "blocks": [],
    "blocks5": ["split.per_class=5"],
}
METRICS = ("oa", "aa", "kappa")


def trained(config: RunConfig, with_baselines: bool) -> dict[str, Any]:
    """One training as the trainer does it; metrics of the model and the baselines on the test part, and the audits."""
    config = start.pinned(config, Path("runs"))
    runtime.configure(config.train.threads, config.train.precision)
    begun = time.process_time()
    task, data, split = ingest(config)
    fitted = fit_statistics(task, data, split)
    plan.seed_all(config.seed)
    model = task.build(fitted, build_preset(config))
    task.initialise(model, data, split)
    start.take(model, config.train)
    with tempfile.TemporaryDirectory() as folder:
        job = loop.Job(
            task=task,
            train_items=task.items(data, split, fitted, "train"),
            val_items=task.items(data, split, fitted, "val"),
            train=config.train,
            seed=config.seed,
            path=Path(folder) / "checkpoint",
            fabric=make_fabric(config.train),
            tick=lambda *_, **__: None,
            spent=0.0,
        )
        loop.fit(job, model)
    plan.seed_all(config.seed, 4)
    task.calibrate(model, data, split, fitted)
    found = {"model": task.metrics(task.evidence(model, data, split, fitted, "test"))}
    seconds = time.process_time() - begun
    if with_baselines:
        found |= {n: task.metrics(e) for n, e in task.baselines(data, split, fitted).items()}
    audits = {a.name: a.value for a in task.audit(data, split)} if with_baselines else {}
    return {"seconds": seconds, "scores": found, "audits": audits}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and deviation over seeds, in per cent."""
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    lines = [f"{'':20}" + "".join(f"{m:>16}" for m in METRICS)]
    for name in names:
        cells = []
        for metric in METRICS:
            values = 100 * np.array([row["scores"][name][metric] for row in rows if name in row["scores"]])
            cells.append(f"{values.mean():10.2f} ± {values.std(ddof=min(1, len(values) - 1)):4.2f}")
        lines.append(f"{name:20}" + "".join(f"{c:>16}" for c in cells))
    for name in rows[0]["audits"]:
        values = np.array([float(row["audits"][name]) for row in rows if row["audits"]])
        lines.append(f"audit {name}: {values.mean():.3f} ({values.min():.3f} to {values.max():.3f})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="salinas_a")
    parser.add_argument("--preset", default="scene_mixer")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["5", "10", "blocks"])
    parser.add_argument("--start", help="a run of hyperspectral/pretrain; {seed} stands for the seed")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    logging.disable(logging.INFO)
    kept: dict[str, list[dict[str, Any]]] = {}
    for setting in asked.settings:
        kept[setting] = []
        for seed in range(asked.seeds):
            sets = [*SETTINGS[setting], f"split.seed={seed}", "train.threads=1", *asked.sets]
            known = {"data": asked.data, "preset": asked.preset, "seed": seed}
            row = trained(resolve("hyperspectral/classify", sets=sets, **known), True)
            if asked.start:
                sets.append(f"train.start={asked.start.replace('{seed}', str(seed))}")
                again = trained(resolve("hyperspectral/classify", sets=sets, **known), False)
                row["scores"]["model, pretrained"] = again["scores"]["model"]
            kept[setting].append(row)
            if asked.json:
                asked.json.write_text(json.dumps(kept, indent=1))
            done = {n: round(100 * s["oa"], 2) for n, s in row["scores"].items()}
            print(f"{setting}, seed {seed}: {row['seconds']:.0f} s {done}", flush=True)
        print(f"\n{asked.data}, {setting}: {asked.seeds} seeds, per cent\n{table(kept[setting])}\n", flush=True)


if __name__ == "__main__":
    main()
