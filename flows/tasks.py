"""Prefect tasks: thin skins over pipelines. Only :class:`pipelines.store.Ref` and plain words cross their boundary.

Training is cached by the content of its inputs and the version of the code that decides a result. The other steps
are not: they are quick, or keep their own account (the ledger of a batch knows every input and every output).
Import this module only after :mod:`flows.server` has set the environment.
"""

from __future__ import annotations

import errno
import hashlib
import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import INPUTS, NO_CACHE, CacheKeyFnPolicy
from prefect.tasks import exponential_backoff

from domains.public import sha256_of
from pipelines.store import Kind, Ref, ref_of, write_text
from shared_backbones.errors import BadInput, CambiumError

from .artifacts import of_inputs, progress, show_batch, show_scores, show_usage

RETRIES = 3
_OURS_TO_MEND = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


def infrastructure(error: object) -> bool:
    """Whether trying again may help: a lost connection or disk, a killed worker. Never a user's or our own mistake."""
    from pipelines.train import TrainerKilledError

    if isinstance(error, (CambiumError, *_OURS_TO_MEND)) or getattr(error, "errno", None) in (
        errno.ENOSPC,
        errno.EDQUOT,
    ):
        return False
    return isinstance(error, OSError | BrokenProcessPool | TrainerKilledError)


def _worth_a_retry(task: Any, run: Any, state: Any) -> bool:
    return infrastructure(state.data)


# --- references


def keep(folder: Path, text: str, kind: Kind, suffix: str = ".json") -> Ref:
    """A small text as a file that is named by its content."""
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()}{suffix}"
    if not path.is_file():
        write_text(path, text)
    return ref_of(path, kind)


def run_ref(run: Path) -> Ref:
    """A reference to a finished run: its directory, and a digest of its model.

    Raises BadRequest where it holds no model, BadInput where the weights are not those that training wrote.
    """
    from pipelines.predict import model_digest

    ref = Ref(uri=str(run.resolve()), sha256=model_digest(run), kind="run")
    weights = run / "model.safetensors"
    if sha256_of(weights) != json.loads((run / "model.json").read_bytes()).get("weights_sha256"):
        raise BadInput(f"{weights} has changed since training: remove the folder {run} and start the flow again")
    return ref


def holds(ref: Ref) -> bool:
    """Whether what a reference names is still there with the same content."""
    path = Path(ref.uri)
    if ref.kind == "run":
        try:
            return run_ref(path) == ref
        except CambiumError:
            return False
    return path.is_file() and sha256_of(path) == ref.sha256


def fresh(step: Any, *args: Any) -> tuple[Ref, bool]:
    """(result, reused) of a cached task; it is run again where the artefact of an earlier run is gone or changed."""
    state = step(*args, return_state=True)
    ref: Ref = state.result()
    reused = state.name == "Cached"
    if reused and not holds(ref):
        get_run_logger().warning("%s %s is gone or has changed since it was made: making it again", ref.kind, ref.uri)
        return step.with_options(refresh_cache=True)(*args), False
    if reused:
        get_run_logger().info("reused %s %s, made earlier from the same inputs by the same code", ref.kind, ref.uri)
    return ref, reused


# --- steps


def _quick(**options: Any) -> Any:
    """Settings of a step that runs every time."""
    return task(
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(2),
        retry_jitter_factor=0.5,
        retry_condition_fn=_worth_a_retry,
        cache_policy=NO_CACHE,
        persist_result=False,
        result_serializer="json",  # of what is kept about a failure
        **options,
    )


@_quick()
def ingest(config: Ref) -> Ref:
    """Open and check the data that a configuration names; what comes back names its content."""
    from pipelines.config import from_yaml
    from pipelines.ingest import ingest

    _, data, _ = ingest(from_yaml(config.open().read_text(), config.uri))
    return Ref(uri=data.manifest.source, sha256=data.manifest.sha256, kind="data")


@task(
    retries=RETRIES,
    retry_delay_seconds=exponential_backoff(10),
    retry_jitter_factor=0.5,
    retry_condition_fn=_worth_a_retry,
    # INPUTS alone would give two steps with equal inputs one result
    cache_policy=INPUTS + CacheKeyFnPolicy(cache_key_fn=lambda context, inputs: context.task.task_key),
    persist_result=True,
    result_serializer="json",
)
def fit(config: Ref, data: Ref, code: str, out: str) -> Ref:
    """Train, or find the finished run. ``data`` and ``code`` are what the result depends on besides ``config``."""
    from pipelines.config import from_yaml
    from pipelines.train import train

    request = from_yaml(config.open().read_text(), config.uri)
    with progress(f"train-{request.task}", f"training of {request.task}") as share:
        return run_ref(train(request, Path(out), share=share))


@_quick()
def evaluate(run: Ref, source: str | None, folder: str) -> Ref:
    """The run's scores: its own, or those on another source, written to ``folder``."""
    if source is None:
        return ref_of(Path(run.uri) / "metrics.json", "metrics")
    from pipelines.evaluate import evaluate

    return keep(Path(folder), json.dumps(evaluate(Path(run.uri), source), indent=2), "metrics")


@_quick()
def report(run: Ref) -> Ref:
    """The run's page; written again where it is missing."""
    from pipelines.report import write_report

    path = Path(run.uri) / "report.html"
    return ref_of(path if path.is_file() else write_report(Path(run.uri)), "report")


@_quick()
def register(run: Ref, out: str) -> dict[str, Any]:
    """Track and register the run: model, version, aliases. The same run twice gives the same version."""
    from pipelines.registry import record

    return record(Path(run.uri), Path(out))


@_quick()
def predict(run: Ref, request: Ref, folder: str) -> Ref:
    """Predict the inputs of a request (see ``flows.predict``); returns the summary, kept in ``folder``."""
    from pipelines.predict import predict

    if not holds(run):
        raise CambiumError(f"the run {run.uri} was replaced while the flow was at it; start the flow again")
    asked = json.loads(request.open().read_text())
    options = {"workers": asked["workers"], "engine": asked["engine"]}
    with progress(f"predict-{Path(run.uri).name}", f"inputs predicted by {run.uri}") as share:
        summary = predict(run.uri, asked["inputs"], Path(asked["out"]), progress=of_inputs(share), **options)
    return keep(Path(folder), json.dumps({**summary.to_json(), "exit_code": summary.exit_code}), "predictions")


@_quick()
def publish_scores(run: Ref, metrics: Ref, page: Ref, reused: bool, used: list[dict[str, Any]]) -> None:
    """Artifacts of a training flow: scores beside the baselines, a picture, the report, and what each step took."""
    show_scores(run, metrics, page, reused)
    show_usage(used, run.uri.rsplit("/", 1)[-1])


@_quick()
def publish_batch(summary: Ref) -> None:
    """Artifacts of a prediction flow: how many, which inputs were refused and why, and what each step took."""
    show_batch(summary)
