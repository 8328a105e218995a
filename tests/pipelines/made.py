"""Finished runs without training: a toy task that reads files, and runs of it as small as they can be."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from domains.task import Manifest, Portable
from shared_backbones.errors import BadInput

from .toy import Line, LineData


class Rows(Line):
    """Predicts a line per row of an .npy file (rows, 4)."""

    name: ClassVar[str] = "toy/rows"
    summary: ClassVar[str] = "A value for each row of a file."
    suffixes: ClassVar[tuple[str, ...]] = (".npy",)

    def predict(self, model: Any, fitted: dict[str, Any], source: str, sink: Any) -> dict[str, Any]:
        try:
            x = np.load(source, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BadInput(f"{source}: no array in it ({error}); give an .npy file") from None
        if x.ndim != 2 or x.shape[1] != 4:
            raise BadInput(f"{source}: the model was trained on rows of 4 numbers, got shape {x.shape}")
        with sink.file("first.txt") as path:
            path.write_text(f"{len(x)} rows\n")
        time.sleep(float(os.environ.get("TOY_SLEEP", "0")))
        if x.max() > 1e20:
            raise ArithmeticError("a fault of the model's own")
        with sink.file("prediction.csv") as path, torch.no_grad():
            np.savetxt(path, model(torch.tensor(x).float()).numpy())
        return {"rows": len(x)}

    def portable(self, model: Any, fitted: dict[str, Any]) -> Portable:
        return Portable(model, (torch.randn(2, 4),), {"x": "(batch, 4), plain numbers"}, {"y": "(batch,)"})

    def open(self, source: str) -> LineData:
        data = super().open(source)
        return LineData(Manifest(source, data.manifest.sha256, "CC0", {"rows": len(data.y)}), data.x, data.y)


def make_run(
    folder: Path, *, task: str = "toy/rows", seed: int = 0, mse: float = 0.5, sets: tuple[str, ...] = ()
) -> Path:
    """A run directory as training leaves it, with an untrained model in it."""
    from pipelines.config import build_preset, build_task, resolve, to_yaml
    from pipelines.runs import save_model

    own = {"toy/rows": "rows.yaml", "toy/line": "toy.yaml"}
    preset = str(Path(__file__).with_name(own[task])) if task in own else None
    config = resolve(task, data="simulated", preset=preset, sets=sets, seed=seed)
    built, sentence = build_task(config), build_preset(config)
    data = built.open("simulated")
    split = built.split(data)
    fitted = built.fit(data, split)
    torch.manual_seed(seed)
    model = built.build(fitted, sentence)
    folder.mkdir(parents=True)
    save_model(folder, config, sentence, fitted, model, run=folder.name, data_sha256=data.manifest.sha256)
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "data.json").write_text(json.dumps(data.manifest.to_json()))
    metrics = {
        "task": task,
        "run": folder.name,
        "seed": seed,
        "preset": config.preset,
        "split": split.to_json(),
        "metrics": {"mse": {"value": mse, "low": mse - 0.1, "high": mse + 0.1}, "bias": {"value": None}},
        "baselines": {"mean": {"mse": 1.0, "bias": None}},
        "audits": [],
        "cost": {"parameters": 9, "train_seconds": 1.0},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "history.json").write_text(json.dumps([{"epoch": 0, "train_loss": None, "val_loss": 1.0, "best": True}]))
    return folder


@pytest.fixture
def rows_task(toy_task: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """The task ``toy/rows``, linked beside ``toy/line``."""
    site = tmp_path_factory.mktemp("rows")
    info = site / "rows-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rows\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cambium.tasks]\ntoy/rows = tests.pipelines.made:Rows\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{os.environ['PYTHONPATH']}")
    return "toy/rows"


def untrained_run(task: str, options: dict[str, Any], folder: Path) -> Path:
    """A run of a registered task on its simulator: initialised and calibrated, not trained."""
    from pipelines.config import build_preset, build_task, resolve
    from pipelines.runs import save_model

    config = resolve(task, data="simulated", sets=[f"{k}={json.dumps(v)}" for k, v in options.items()], seed=0)
    built, sentence = build_task(config), build_preset(config)
    data = built.open("simulated")
    split = built.split(data)
    fitted = json.loads(json.dumps(built.fit(data, split)))
    torch.manual_seed(0)
    model = built.build(fitted, sentence)
    built.initialise(model, data, split)
    built.calibrate(model, data, split, fitted)
    folder.mkdir(parents=True)
    save_model(folder, config, sentence, fitted, model, run=folder.name, data_sha256=data.manifest.sha256)
    return folder
