"""Versions and aliases of models: which run is which version, and which one is champion.

Run directories are the truth and this is their index: a database that is gone or broken is built again from them.
Which version held an alias, and when, stands in ``promotions.jsonl``, since MLflow keeps no history of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared_backbones.errors import BadRequest, unknown

from .history import HISTORY as HISTORY
from .history import append
from .history import rows as rows_of
from .seal import seal, verify
from .store import Lock, disk_full_is_clear
from .tracking import ARTEFACTS, RUN_TAG, check, client_of, close, model_name, tags_of, track
from .tracking import DATABASE as DATABASE
from .tracking import RegistryError as RegistryError

CHAMPION = "champion"


@contextmanager
def _opened(root: Path) -> Iterator[Any]:
    """The client, for one process at a time, over a database that knows every finished run below ``root``."""
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    with Lock(root / ".lock-registry").held(), disk_full_is_clear(root / DATABASE):
        check(root / DATABASE)
        if not (root / DATABASE).is_file():
            _make(root)
        client = client_of(root)
        try:
            yield client
        finally:
            close(client)


def _make(root: Path) -> None:
    """A database that knows every finished run below ``root``."""
    if "mlflow" in sys.modules:  # it remembers which addresses have their tables, and would not make them again
        command = [sys.executable, "-c", f"from {__name__} import rebuild; import sys; rebuild(sys.argv[1])", str(root)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    else:
        rebuild(root)


def _finished(root: Path) -> list[Path]:
    """Finished run directories below ``root``, oldest first."""
    found = [path.parent for path in root.glob("*/*/metrics.json") if not path.parent.name.startswith(".")]
    return sorted(found, key=lambda folder: ((folder / "metrics.json").stat().st_mtime, folder.name))


def rebuild(root: str | Path) -> None:
    """Enter every finished run below ``root``, and its aliases as the history has them."""
    root = Path(root).resolve()
    shutil.rmtree(root / ARTEFACTS, ignore_errors=True)  # of runs by numbers that the lost database gave
    client = client_of(root)
    client.search_experiments(max_results=1)  # makes the tables, were there no run
    for folder in _finished(root):
        _record(client, folder)
    for row in rows_of(root):  # aliases by run, since versions may be counted anew
        version = _version_of_run(client, row["model"], row["run"])
        if version is not None:
            client.set_registered_model_alias(row["model"], row["alias"], version.version)


def _version_of_run(client: Any, name: str, run: str) -> Any:
    found = [v for v in client.search_model_versions(f"name = '{name}'") if v.tags.get(RUN_TAG) == run]
    return min(found, key=lambda v: int(v.version)) if found else None


def _record(client: Any, folder: Path) -> Any:
    """The model version of a run directory, tracked and registered if it is not yet."""
    from mlflow.exceptions import MlflowException

    metrics = json.loads((folder / "metrics.json").read_bytes())
    name = model_name(metrics["task"])
    tracked = track(client, folder, metrics)
    version = _version_of_run(client, name, metrics["run"])
    if version is not None:
        return version
    try:
        client.create_registered_model(name, tags={"cambium.task": metrics["task"]})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(name, folder.as_uri(), tracked, tags=tags_of(folder, metrics))


def _aliases(client: Any, name: str) -> dict[str, int]:
    return {alias: int(version) for alias, version in client.get_registered_model(name).aliases.items()}


def _answer(client: Any, version: Any) -> dict[str, Any]:
    number = int(version.version)
    aliases = [alias for alias, held in _aliases(client, version.name).items() if held == number]
    return {"model": version.name, "version": number, "aliases": sorted(aliases)}


def _give(client: Any, root: Path, version: Any, alias: str, why: str) -> None:
    """Move an alias: seal the model, then into the history, which a rebuild goes by, then in MLflow."""
    seal(_folder(root, version))
    run = version.tags[RUN_TAG]
    before = _aliases(client, version.name).get(alias)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    row = {"at": at, "model": version.name, "alias": alias, "version": int(version.version), "run": run}
    append(root, {**row, "previous": before, "why": why})
    client.set_registered_model_alias(version.name, alias, version.version)


def record(folder: Path, root: Path) -> dict[str, Any]:
    """Track and register a finished run: ``{"model", "version", "aliases"}``. The first version becomes champion.

    The same run twice gives the same version. Raises RegistryError where the database was put aside.
    """
    with _opened(root) as client:
        version = _record(client, Path(folder).resolve())
        if CHAMPION not in _aliases(client, version.name):
            _give(client, root, version, CHAMPION, "the first version of its model")
        return _answer(client, version)


def _find(client: Any, text: str) -> Any:
    """The version that ``MODEL@alias``, ``MODEL@3`` or a run's id names. Raises BadRequest."""
    name, at, which = text.partition("@")
    names = [model.name for model in client.search_registered_models()]
    if not at:
        every = [v for n in names for v in client.search_model_versions(f"name = '{n}'")]
        found = [v for v in every if v.tags.get(RUN_TAG) == Path(text).name]
        if not found:
            raise BadRequest(f"no registered model {text!r}: give MODEL@VERSION, or the folder of a registered run")
        return found[0]
    if name not in names:
        raise unknown("model", name, names) if names else BadRequest(f"no model {name!r}: nothing is registered yet")
    versions = {v.version: v for v in client.search_model_versions(f"name = '{name}'")}
    aliases = _aliases(client, name)
    number = aliases.get(which) if which in aliases else int(which) if which.isdigit() else None
    for version, found in versions.items():
        if int(version) == number:
            return found
    raise unknown(f"version of {name!r}", which, [*aliases, *(str(v) for v in versions)])


def _known(root: Path) -> None:
    if not (root / DATABASE).is_file() and not _finished(root):
        raise BadRequest(f"no registry in {root}: `cambium train` registers what it trains; name the place with --runs")


def _folder(root: Path, version: Any) -> Path:
    """Where a version's run is, or where the runs were moved. Raises BadRequest where it is gone."""
    run, place = version.tags[RUN_TAG], version.tags["cambium.directory"]
    for folder in (Path(place), root / version.name / run):
        if (folder / "model.json").is_file():
            return folder
    what = f"{version.name}@{version.version} is run {run}"
    raise BadRequest(f"{what}, whose folder is gone: train again, or promote another version")


def resolve(text: str, root: Path) -> Path:
    """The run directory of ``MODEL@champion`` or ``MODEL@3``. Raises BadRequest where there is none.

    One that holds an alias is verified against its seal: BadInput where it has changed since it was promoted.
    """
    _known(root)
    with _opened(root) as client:
        version = _find(client, text)
        folder = _folder(root, version)
        if _answer(client, version)["aliases"]:  # one without was never promoted
            verify(folder)
    return folder


def champion_of(name: str, root: Path) -> Path | None:
    """The run directory of a model's champion, or None while it has none or its folder is gone."""
    if name not in {row["model"] for row in rows_of(root)}:
        return None
    try:
        return resolve(f"{name}@{CHAMPION}", root)
    except BadRequest:
        return None


def promote(
    text: str, root: Path, alias: str = CHAMPION, *, why: str = "asked for", instead_of: str | None = None
) -> dict[str, Any]:
    """Give the version that ``text`` names an alias; nothing happens where it has it.

    ``instead_of``: the run that must hold the alias now, for a decision made against that one. Raises BadRequest where
    another has it meanwhile, or where there is no such version.
    """
    _known(root)
    if not alias.isidentifier():
        raise BadRequest(f"an alias is a plain word such as champion, got {alias!r}")
    with _opened(root) as client:
        version = _find(client, text)
        before = _aliases(client, version.name).get(alias)
        if instead_of is not None and before is not None:
            held = client.get_model_version(version.name, str(before)).tags[RUN_TAG]
            if held != instead_of:
                raise BadRequest(
                    f"{version.name}@{alias} is run {held} by now, not {instead_of}: compare with that one"
                )
        if before != int(version.version):
            _give(client, root, version, alias, why)
        else:
            seal(_folder(root, version))  # with a key that was set since
        return {**_answer(client, version), "run": version.tags[RUN_TAG], "alias": alias, "previous": before}


def history(name: str, root: Path) -> list[dict[str, Any]]:
    """Who held which alias of a model from when on, and why, oldest first. Raises BadRequest for an unknown model."""
    rows = rows_of(root)
    if name not in {row["model"] for row in rows}:
        raise unknown("model", name, sorted({row["model"] for row in rows}))
    return [row for row in rows if row["model"] == name]


def rollback(name: str, root: Path, alias: str = CHAMPION) -> dict[str, Any]:
    """Give an alias back to the run that held it before the present one. Raises BadRequest where none did."""
    held = [row["run"] for row in history(name, root) if row["alias"] == alias]
    before = [run for run in held if run != held[-1]] if held else []
    if not before:
        raise BadRequest(f"{name}@{alias} was never another run: there is nothing to go back to")
    return promote(before[-1], root, alias, why=f"rolled back from run {held[-1]}", instead_of=held[-1])


def versions(root: Path) -> list[dict[str, Any]]:
    """Every registered version, newest first within its model."""
    if not (root / DATABASE).is_file() and not _finished(root):
        return []
    rows = []
    with _opened(root) as client:
        for model in client.search_registered_models():
            found = client.search_model_versions(f"name = '{model.name}'")
            for v in sorted(found, key=lambda v: -int(v.version)):
                folder = Path(v.tags["cambium.directory"])
                rows.append({**_answer(client, v), "run": v.tags[RUN_TAG], "preset": v.tags["cambium.preset"]})
                rows[-1] |= {"score": _score(folder), "directory": str(folder)}
    return rows


def _score(folder: Path) -> str:
    from .findings import Run
    from .wording import short

    if not (folder / "metrics.json").is_file():
        return "its folder is gone"
    run = Run(folder)
    name, _ = run.headline
    return f"{name} {short(run.scores[name].value)}"
