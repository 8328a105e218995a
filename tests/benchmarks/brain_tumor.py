"""`medical/classify` on brain_tumor_mri253: five folds of whole groups, each case tested once, beside the baselines.

    python -m tests.benchmarks.brain_tumor --seeds 5 --size 48 --once medical_mixer:identity,medical_vit

Every fold is trained, its epoch chosen and its calibration fitted on its own training and validation parts. Figures are
of the 253 cases together; intervals are bootstraps over groups (copies and near copies). ``NAME isotonic`` is the same
network with isotonic calibration in place of the temperature. Presets of ``--once`` have one seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domains.medical.classify import Classify
from domains.medical.classify_baselines import all_baselines
from domains.medical.classify_figures import corruption_scores
from domains.task import Evidence
from shared_backbones.presets import adjust, load_preset

METRICS = (
    "auroc", "accuracy", "f1_macro", "brier", "brier_before", "ece", "ece_before", "nll", "nll_before", "sensitivity",
    "specificity",
)  # fmt: skip


def trained(task: Classify, data: Any, split: Any, fitted: Any, preset: Any, seed: int, epochs: int) -> Any:
    """AdamW with a one-cycle rate; the epoch with the least validation loss is kept."""
    torch.manual_seed(seed)
    model = task.build(fitted, preset)
    task.initialise(model, data, split)
    items, val = task.items(data, split, fitted, "train"), task.items(data, split, fitted, "val")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * -(-len(items) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    best, kept = float("inf"), model.state_dict()
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(items)).split(32):
            optimizer.zero_grad()
            task.loss(model, items.batch(rows.tolist()))[0].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            loss = float(task.loss(model, val.batch(range(len(val))))[0])
        if loss < best:
            best, kept = loss, {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(kept)
    return model


def calibrated(task: Classify, model: Any, data: Any, split: Any, fitted: Any) -> dict[str, Evidence]:
    """The test part by isotonic calibration, then by the temperature alone, which the model keeps."""
    task.calibrate(model, data, split, fitted)
    found = {" isotonic": task.evidence(model, data, split, fitted, "test")}
    model.curves = None
    task.calibrate(model, data, split, fitted)
    return found | {"": task.evidence(model, data, split, fitted, "test")}


def joined(parts: Sequence[Evidence]) -> Evidence:
    """The evidence of several folds as one."""
    columns = {name: np.concatenate([p.columns[name] for p in parts]) for name in parts[0].columns}
    return Evidence(np.concatenate([p.unit for p in parts]), columns)


def interval(task: Classify, evidence: Evidence, metric: str, draws: int = 1000) -> tuple[float, float, float]:
    """Value and 95 % interval over groups."""
    random, n = np.random.default_rng(0), len(evidence.units)
    values = []
    for _ in range(draws):
        weight = np.bincount(random.integers(0, n, n), minlength=n).astype(np.float64)
        values.append(task.metrics(evidence.reweighted(weight))[metric])
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return task.metrics(evidence)[metric], float(low), float(high)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--seeds", type=int, default=1)
    asked.add_argument("--size", type=int, default=96)
    asked.add_argument("--epochs", type=int, default=60)
    asked.add_argument("--cnn-epochs", type=int, default=30)
    asked.add_argument("--cnn-seeds", type=int, default=99, help="of how many seeds the ResNet-18 is trained too")
    asked.add_argument("--presets", default="medical_mixer", help="PRESET or PRESET:MIXER, by commas")
    asked.add_argument("--once", default="", help="the same, with the first seed only")
    asked.add_argument("--out", type=Path, default=Path("brain_tumor.json"))
    given = asked.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    data = None
    for seed in range(given.seeds):
        parts: dict[str, list[Evidence]] = {}
        for fold in range(5):
            options = {"size": given.size, "cnn_epochs": given.cnn_epochs, "calibration": "isotonic"}
            options["split"] = {"protocol": "folds", "fold": fold}
            task = Classify(Classify.Config.model_validate(options))
            data = data or task.open("brain_tumor_mri253")
            split = task.split(data)
            fitted = task.fit(data, split)
            for name in ",".join([given.presets, "" if seed else given.once]).strip(",").split(","):
                base, _, mixer = name.partition(":")
                start = time.process_time()
                preset = adjust(load_preset(base), **({"mixer": mixer} if mixer else {}))
                model = trained(task, data, split, fitted, preset, seed, given.epochs)
                for suffix, evidence in calibrated(task, model, data, split, fitted).items():
                    parts.setdefault(name + suffix, []).append(evidence)
                found[f"{name} parameters"] = sum(p.numel() for p in model.parameters())
                found.setdefault(f"{name} cpu_s", []).append(round(time.process_time() - start, 1))
                if name == given.presets.split(",")[0] and not seed:
                    rows = corruption_scores(task, model, data, split.parts["test"])
                    found.setdefault("corruptions", []).append(rows)
            if not seed or (given.cnn_epochs and seed < given.cnn_seeds):
                torch.manual_seed(seed)
                for name, evidence in all_baselines(data, split, fitted, task.config).items():
                    parts.setdefault(name, []).append(evidence)
            said = {name: round(task.metrics(e[-1])["auroc"], 4) for name, e in parts.items()}
            print(f"seed {seed} fold {fold}: AUROC {said}", flush=True)
        for name, evidence in parts.items():
            whole = joined(evidence)
            each = {m: task.metrics(whole)[m] for m in METRICS}
            each["auroc_folds"] = [task.metrics(e)["auroc"] for e in evidence]
            each["auroc_interval"] = interval(task, whole, "auroc")
            each["accuracy_interval"] = interval(task, whole, "accuracy")
            found.setdefault(name, []).append(each)
            print(name, {k: np.round(v, 4) for k, v in each.items()}, flush=True)
        given.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
