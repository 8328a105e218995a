"""Where a file came from: which model made it, from which data, by which configuration and code.

Each input's outputs carry ``lineage.json``, so that they tell it wherever the folder is moved; the ledger knows when.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from domains.public import sha256_of
from shared_backbones.errors import BadInput

from . import ledger

CARD = "lineage.json"
SIDE = (CARD, "features.npy")  # beside the predictions, about them


def predictions(outputs: Iterable[str]) -> list[str]:
    """The outputs that a person asked for, without what tells about them."""
    return [name for name in outputs if name.rpartition("/")[2] not in SIDE]


def of_model(meta: Mapping[str, Any], directory: Path, sha256: str, code: str) -> dict[str, Any]:
    """Plain facts about the model that predicts. meta: ``model.json``; sha256: its digest; code: of what predicts."""
    before = meta.get("start")
    names = {"run": "run", "task": "task", "weights": "sha256", "data": "data_sha256"}
    begun = {"started_from": {k: before.get(name) for k, name in names.items()}} if before else {}
    return {
        "run": meta.get("run", directory.name),
        "task": meta["task"],
        "model": sha256,
        "weights": meta["weights_sha256"],
        "trained_on": {"source": meta["config"]["data"], "sha256": meta.get("data_sha256")},
        "trained_by": meta.get("code"),
        **begun,
        "preset": meta["config"]["preset"],
        "seed": meta["config"]["seed"],
        "code": code,
        "versions": dict(meta["versions"]),
    }


def _card(path: Path) -> dict[str, Any] | None:
    """What the card beside a file says about it, or None where there is none."""
    try:
        found = json.loads((path.parent / CARD).read_bytes())
        return found if isinstance(found, dict) and {"input", "model"} <= set(found) else None
    except (OSError, ValueError):
        return None


def _row(path: Path) -> tuple[ledger.Row, str] | None:
    """The newest ledger row that names a file among its outputs, and the checksum it had then."""
    out = path.parent.parent
    name = f"{path.parent.name}/{path.name}"
    found = [row for row in ledger.read(out / ledger.LEDGER).values() if name in row.outputs]
    return (found[-1], found[-1].outputs[name]) if found else None


def _run_folder(path: Path) -> Path | None:
    return next((folder for folder in path.parents if (folder / "model.json").is_file()), None)


def _of_run(path: Path, folder: Path) -> dict[str, Any]:
    from .predict import model_digest

    meta = json.loads((folder / "model.json").read_bytes())
    facts = of_model(meta, folder, model_digest(folder), str(meta.get("code")))
    del facts["code"]
    return {"file": str(path), "made_by": "training", **facts, "config": str(folder / "config.yaml")}


def lineage(file: Path) -> dict[str, Any]:
    """Where a file of a batch's output, or of a run's folder, came from: plain facts.

    ``intact``: whether it is still as the ledger has it, None where no ledger is near. Raises BadInput where the file
    is not there, or nothing tells about it.
    """
    path = Path(file).resolve()
    if not path.is_file():
        raise BadInput(f"no file {file}")
    card, found = _card(path), _row(path)
    if card is None and found is None:
        folder = _run_folder(path)
        if folder is None:
            raise BadInput(
                f"{file}: no {CARD} beside it and no ledger above it: Cambium did not make it, or it was moved"
            )
        return _of_run(path, folder)
    facts: dict[str, Any] = {"file": str(path), "made_by": "prediction", **(card or {})}
    facts["sha256"], facts["intact"] = sha256_of(path), None
    if found is not None:
        row, digest = found
        facts |= {"intact": facts["sha256"] == digest, "at": row.at, "input": row.input, "input_sha256": row.sha256}
        facts |= {"model": row.model, "run": row.run, "directory": row.directory}
        facts["config"] = str(Path(row.directory) / "config.yaml")
        facts["run_is_there"] = (Path(row.directory) / "model.json").is_file()
    return facts
