"""Batch prediction: one folder of outputs and one ledger row per input, safe to stop and to run again."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from domains.public import sha256_of
from shared_backbones.errors import BadInput, BadRequest, CambiumError

from . import engines, ledger, remote
from .inputs import input_digests, read_as_trained
from .ledger import LEDGER, Row
from .lineage import CARD, of_model
from .remote import fetched, is_remote, mirror, push
from .seal import SEAL, verify
from .sink import SHELF, STAGING, FolderSink
from .store import WRITING, DiskFull, disk_full_is_clear, write_json
from .usage import Usage, as_rows, measured

if TYPE_CHECKING:
    from .features import Sample

_FULL = 64 * 1024  # bytes; with less left, a failed write is a full disk's
_MODEL_FILES = ("model.json", "model.safetensors")


@dataclass(frozen=True)
class Summary:
    """What a batch came to. ``rows``: the newest row of every input asked for; ``reused`` were done before."""

    out: Path
    rows: tuple[Row, ...]
    reused: frozenset[str]
    drift: Mapping[str, Any] | None = None  # against the training data, where the run keeps a sample of it
    used: tuple[Usage, ...] = ()  # what each step took

    def count(self, state: ledger.State) -> int:
        return sum(row.state == state for row in self.rows)

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 3 some refused and the rest done."""
        return 1 if self.count("failed") else 3 if self.count("refused") else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "ledger": str(self.out / LEDGER),
            "done": self.count("done"),
            "reused": len(self.reused),
            "refused": [{"input": r.input, "reason": r.reason} for r in self.rows if r.state == "refused"],
            "failed": [{"input": r.input, "reason": r.reason} for r in self.rows if r.state == "failed"],
            "drift": None if self.drift is None else {k: self.drift[k] for k in ("alarm", "why", "rows")},
            "outputs": {r.input: [str(self.out / name) for name in r.outputs] for r in self.rows if r.state == "done"},
            "usage": as_rows(self.used),
        }


@lru_cache(maxsize=1)
def _loaded(model: Path, sha256: str) -> Any:
    """The run's model and its sample of the training data, once per worker.

    ``sha256`` keeps a replaced model from being served from the cache.
    """
    from .features import load_reference
    from .runs import load_run

    trained = load_run(model)
    trained.model.eval()
    if (model / SEAL).is_file():
        verify(model)
    return trained, load_reference(model)


@dataclass(frozen=True)
class _Job:
    source: str
    folder: str
    sha256: str | None  # of the input

    def key(self, model: str, origin: Mapping[str, Any]) -> str:
        """What the outputs depend on: the input, the model and the code. Of an unknown input: never twice the same."""
        seen = self.sha256 or str(time.time_ns())
        return hashlib.sha256(f"{seen} {model} {origin['code']}".encode()).hexdigest()[:16]


def _watched(trained: Any, reference: Any) -> AbstractContextManager[Sample]:
    """While it lasts, a sample of what the model sees of one input is taken, where there is one of the training."""
    from .features import AN_INPUT, watched

    unit, wide = (reference.unit, reference.inputs) if reference else (None, 0)
    inputs = getattr(trained.task, "drift_inputs", None) if wide else None
    return watched(trained.model, AN_INPUT, unit, inputs, wide)


def _make_share(number: int, *, name: str, of: int, job: _Job, source: str, model: Path, out: Path, key: str) -> Sample:
    """A share of one input's windows, put on its shelf by a process of its own; returns a sample of what it saw."""
    import numpy as np
    import torch

    from domains.journal import Share, Shared

    trained, reference = _loaded(model, key)
    sink = FolderSink(out, job.folder, key)
    sink.staging, sink.share = out / f"{STAGING}{job.folder}-{number}", Share(name, number, of)
    try:
        with torch.inference_mode(), _watched(trained, reference) as sample:
            sample.random = np.random.default_rng(1 + number)
            trained.task.predict(trained.model, trained.fitted, source, sink)
    except Shared:
        pass
    finally:
        sink.discard()
    return sample


def _fan_out(name: str, *, of: int, sample: Sample, **known: Any) -> None:
    """Shares of one input to ``of`` processes. What goes wrong there goes wrong here too, when it is made again."""
    for outcome in engines.map(partial(_make_share, name=name, of=of, **known), range(of), workers=of):
        if outcome.value is not None:
            sample.join(outcome.value)


def _predict_one(
    job: _Job, *, model: Path, sha256: str, out: Path, origin: Mapping[str, Any], split: int = 1
) -> tuple[dict[str, str], dict[str, Any]]:
    """Outputs and facts of one input; ``split``: how many processes may share it, where it is made in windows."""
    import torch

    from .features import keep_features

    trained, reference = _loaded(model, sha256)
    sink = FolderSink(out, job.folder, job.key(sha256, origin))
    try:
        with disk_full_is_clear(out / job.folder), torch.inference_mode():
            with _watched(trained, reference) as sample, fetched(job.source) as source:
                if split > 1:
                    shared = partial(_fan_out, of=split, sample=sample, job=job, source=source)
                    sink.fan_out = partial(shared, model=model, out=out, key=sink.key)
                with read_as_trained():
                    facts = trained.task.predict(trained.model, trained.fitted, source, sink)
            with sink.file(CARD) as path:
                path.write_text(json.dumps({"input": job.source, "input_sha256": job.sha256, **origin}, indent=2))
            if reference is not None and sample.kept is not None:
                keep_features(reference, sample.kept, sink)
            return sink.publish(), dict(facts)
    except (BadInput, BadRequest):
        sink.clear()
        raise
    except Exception as error:  # libraries hide a full disk behind errors of their own: ask while the torso stands
        if not isinstance(error, CambiumError) and shutil.disk_usage(out).free < _FULL:
            with disk_full_is_clear(out / job.folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
    finally:
        sink.discard()


def model_digest(run: Path) -> str:
    """sha256 over everything that a prediction depends on. Raises BadRequest where ``run`` holds no model."""
    digest = hashlib.sha256()
    for name in _MODEL_FILES:
        path = run / name
        if not path.is_file():
            raise BadRequest(
                f"{run} is not a finished run: it holds no {name}. Give the folder that `cambium train` printed "
                "(runs/DOMAIN-TASK/ID), or MODEL@champion"
            )
        digest.update(sha256_of(path).encode())
    return digest.hexdigest()


def find_model(model: str | Path, root: Path) -> Path:
    """The run directory that ``model`` names: a path, or NAME@alias / NAME@version of the registry below ``root``."""
    text = str(model)
    if "@" in text and not Path(text).exists():
        from .registry import resolve

        return resolve(text, root)
    path = Path(text)
    if not path.is_dir():
        raise BadRequest(f"no run directory {text}. Give the folder that `cambium train` printed, or MODEL@champion")
    return path


def expand(
    inputs: Sequence[str], out: Path, suffixes: Sequence[str] = (), whole: Callable[[Path], bool] = lambda folder: False
) -> list[str]:
    """Files that the inputs name, each once, in order: files, folders (one level), globs, URLs, data set names.

    In a folder or glob only files with one of ``suffixes`` count (any, when none are given), never hidden ones nor
    this batch's own outputs. A folder that is one input (``whole``, such as a series of slices) is not looked into. A
    single name that does not exist stays, to be refused by its reader with a reason.
    Raises BadRequest where a folder or glob holds nothing.
    """
    found: dict[str, None] = {}
    own = out.resolve()
    for text in inputs:
        if is_remote(text):
            there = remote.listing(text, suffixes)
            if there == []:
                raise BadRequest(f"{text}: no file there")
            found.update(dict.fromkeys([text] if there is None else there))
            continue
        path = Path(text)
        is_glob = not path.exists() and any(c in text for c in "*?[") and "://" not in text
        if (not path.is_dir() and not is_glob) or (path.is_dir() and whole(path)):
            found[str(path.resolve()) if path.exists() else text] = None
            continue
        matches = glob.glob(text, recursive=True) if is_glob else path.iterdir()  # noqa: PTH207 - it may be absolute
        files = _inputs_among([p for p in sorted(map(Path, matches)) if not p.name.startswith(".")], suffixes, whole)
        files = [file for file in files if own not in Path(file).parents]
        if not files:
            wanted = f" that ends in {', '.join(suffixes)}" if suffixes else ""
            raise BadRequest(f"{text}: no file{wanted} there")
        found.update(dict.fromkeys(files))
    if not found:
        raise BadRequest("no input given")
    return list(found)


def _inputs_among(paths: Sequence[Path], suffixes: Sequence[str], whole: Callable[[Path], bool]) -> list[str]:
    """Folders that are one input, and files that belong to none of those: ``**`` finds a folder and what is in it."""
    series = {p.resolve() for p in paths if p.is_dir() and whole(p)}
    found = []
    for p in paths:
        own = p.resolve()
        taken = p.is_file() and (not suffixes or p.name.lower().endswith(tuple(suffixes)))
        if own in series or (taken and series.isdisjoint(own.parents)):
            found.append(str(own))
    return found


def _still_good(row: Row | None, sha256: str | None, model: str, out: Path) -> bool:
    """Whether a finished row still describes what is on disk, for the same input bytes and the same model."""
    if row is None or row.state != "done" or sha256 is None or (row.sha256, row.model) != (sha256, model):
        return False
    return all((out / name).is_file() and sha256_of(out / name) == digest for name, digest in row.outputs.items())


def _folder_for(source: str, taken: set[str]) -> str:
    """A folder name after the input's stem that no other input has."""
    stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in PurePath(source).name.split(".")[0])[:80] or "input"
    name, n = stem, 2
    while name in taken or name == LEDGER:
        name, n = f"{stem}-{n}", n + 1
    return name


@dataclass
class _Batch:
    """The bookkeeping of one batch: what is done already, what is to do, what came of it."""

    out: Path
    model: str
    origin: Mapping[str, Any]  # of the outputs, see .lineage
    run: Path
    digests: dict[str, str | None]
    before: Mapping[str, Row]
    rows: dict[str, Row] = field(default_factory=dict)

    def plan(self) -> list[_Job]:
        taken = {row.folder for row in self.before.values()}
        jobs = []
        for source, digest in self.digests.items():
            row = self.before.get(source)
            if row is not None and _still_good(row, digest, self.model, self.out):
                self.rows[source] = row
                continue
            folder = row.folder if row else _folder_for(source, taken)
            taken.add(folder)
            jobs.append(_Job(source, folder, digest))
        return jobs

    def row(self, outcome: engines.Outcome[_Job, tuple[dict[str, str], dict[str, Any]]]) -> Row:
        outputs, facts = outcome.value or ({}, {})
        problem = outcome.problem
        return Row(
            input=outcome.item.source,
            state="done" if problem is None else "refused" if problem.kind == "refused" else "failed",
            folder=outcome.item.folder,
            model=self.model,
            sha256=self.digests[outcome.item.source],
            outputs=outputs,
            facts=facts,
            reason="" if problem is None else problem.message,
            seconds=round(outcome.seconds, 3),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            run=self.origin["run"],
            directory=str(self.run),
            data=self.origin["trained_on"]["sha256"] or "",
            code=self.origin["code"],
        )


def predict(
    model: str | Path,
    inputs: Sequence[str],
    out: Path | str,
    *,
    workers: int = 1,
    engine: str = "local",
    root: Path = Path("runs"),
    progress: Callable[[Row, int, int], None] | None = None,
    lone: bool = True,
) -> Summary:
    """Predict every input into ``out / <its own folder>``, one ledger row each; what is done already stays.

    ``out`` may be an address (``s3://bucket/folder``): see :mod:`.remote`.

    Where the run keeps a sample of its training data, ``drift.json`` says whether these inputs look like it.
    ``progress(row, finished, total)`` is called after each input. Raises BadInput where the only input is refused
    (then nothing is written; with ``lone`` False it becomes a row like any other),
    BadRequest where the request cannot be met or the disk is full.
    """
    from .drift import REPORT, batch_drift
    from .runs import code_version

    run, address = find_model(model, root), str(out) if is_remote(str(out)) else None
    out = Path(out) if address is None else mirror(address, root)
    used: list[Usage] = []
    steps = partial(measured, into=used, run=run.name)
    with steps("prepare"):
        sha256 = model_digest(run)
        trained, _ = _loaded(run.resolve(), sha256)  # a model that cannot be used is refused here, once
        task, origin = trained.task, of_model(trained.meta, run, sha256, code_version(trained.task.name))
        whole = getattr(task, "takes_folder", lambda folder: False)
        named = getattr(task, "companions", lambda source: ())
        sources = expand(inputs, out, tuple(getattr(task, "suffixes", ())), whole)
    function = partial(_predict_one, model=run.resolve(), sha256=sha256, out=out, origin=origin)
    with ledger.owned(out):
        with steps("plan"):
            for stale in out.glob(f"{STAGING}*"):  # a killed batch's; no other can be writing here
                shutil.rmtree(stale)
            for stale in out.glob(f"{WRITING}*"):
                stale.unlink(missing_ok=True)
            batch = _Batch(out, sha256, origin, run.resolve(), input_digests(sources, named), ledger.read(out / LEDGER))
            jobs = batch.plan()
            for shelf in out.glob(f"{SHELF}*"):  # of inputs that nobody asks for any more
                if shelf.name.removeprefix(SHELF) not in {job.folder for job in jobs}:
                    shutil.rmtree(shelf)
        reused = frozenset(batch.rows)
        if engine == "local" and len(jobs) == 1:
            function = partial(function, split=workers)
        with steps("predict"):
            for outcome in engines.map(function, jobs, workers=min(workers, max(1, len(jobs))), engine=engine):
                row = batch.row(outcome)
                if outcome.problem and outcome.problem.kind == "no space":  # the others would fare no better
                    raise DiskFull(outcome.problem.message)
                if row.state == "refused" and len(sources) == 1 and lone:
                    raise BadInput(row.reason)
                with disk_full_is_clear(out / LEDGER):
                    ledger.append(out / LEDGER, row)
                batch.rows[row.input] = row
                if progress is not None:
                    progress(row, len(batch.rows), len(sources))
        rows = tuple(batch.rows[s] for s in sources)
        with steps("drift"):
            found = batch_drift(run, [out / row.folder for row in rows if row.state == "done"])
            if found is not None:
                write_json(out / REPORT, found)
        if address is not None:
            with steps("upload"):
                push(out, address)
    return Summary(out, rows, reused, found, tuple(used))
