"""Training runs as a process of its own, which the command line, a flow and a scheduler share.

``train`` finds the finished run, waits for another process that is at it, resumes what was left unfinished, or starts.
``python -m pipelines.train STAGING`` is the process. It writes in a staging directory beside the run's place; the
finished directory is moved there whole.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

STAGING = ".staging-"
CHECKPOINT = "checkpoints/last.pt"  # in the staging directory; of sharded training the index beside it, last.json
ERRORS = "cambium_error"
PROGRESS = "cambium_progress"  # the other thing that the training process says on its stdout
Share = Callable[[float], None]  # is told which share of the training is done, 0 to 1


class TrainingError(RuntimeError):
    """Training failed for no fault of the request; what was done so far is kept."""


class TrainerKilledError(TrainingError):
    """The training process was ended from outside (a signal, out of memory): trying again may help."""


def check_devices(settings: Any) -> None:
    """Raise BadRequest where this machine has not what a :class:`pipelines.config.TrainConfig` asks for."""
    import torch

    from shared_backbones.errors import BadRequest

    there = torch.cuda.device_count() if settings.accelerator != "cpu" else 0
    if settings.accelerator == "gpu" and not there:
        raise BadRequest(
            "option 'train.accelerator' is 'gpu', and no CUDA device is there; allowed here: 'cpu', 'auto'"
        )
    nodes = torchrun_nodes()
    if settings.devices % nodes:
        raise BadRequest(f"option 'train.devices' is {settings.devices}, which {nodes} nodes cannot share evenly")
    if there and settings.devices // nodes > there:
        raise BadRequest(f"option 'train.devices' is {settings.devices}, and {there} CUDA devices are there")
    if settings.strategy != "auto" and settings.devices == 1:
        raise BadRequest(
            f"option 'train.strategy' is {settings.strategy!r}, and 'train.devices' is 1; it takes 2 or more"
        )
    if nodes > 1 and settings.ablation:
        raise BadRequest("option 'train.ablation' is not for several nodes: train with --set model.mixer=identity")


def torchrun_nodes() -> int:
    """Nodes that ``torchrun`` made known; 1 without it."""
    return int(os.environ.get("GROUP_WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def follows() -> bool:
    """Whether this is another process of one ``torchrun`` than the first, which alone writes."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("RANK", 0)) > 0


def finished(folder: Path) -> bool:
    """Whether a run directory is there; it was moved there whole."""
    return (folder / "metrics.json").is_file() and (folder / "model.safetensors").is_file()


def begun(staging: Path) -> bool:
    """Whether a staging directory holds a checkpoint to go on from."""
    return any((staging / CHECKPOINT).with_suffix(suffix).is_file() for suffix in (".pt", ".json"))


def train(config: Any, out: Path = Path("runs"), *, quiet: bool = False, share: Share | None = None) -> Path:
    """The finished run directory ``out/<domain>-<task>/<run id>`` of a :class:`pipelines.config.RunConfig`.

    The same request finds its finished run; while another process trains it, this one waits. ``share`` is told about
    once a second how much of the training is done. Raises BadInput and
    BadRequest before anything is written where the request or the data are at fault, TrainingError where training
    failed or was killed: then the same request resumes it.
    """
    from .config import build_preset
    from .events import tell
    from .ingest import ingest
    from .runs import run_key
    from .store import Lock, sweep_leftovers
    from .trainer.start import pinned

    check_devices(config.train)
    config = pinned(config, Path(out))
    build_preset(config)
    _, data, _ = ingest(config)
    run = run_key(config, data.manifest)
    del data  # the trainer opens its own
    out = Path(out)
    final = out / config.task.replace("/", "-") / run
    if follows():
        return _follow(config, final)

    sweep_leftovers(out, final.parent)

    def waiting(owner: dict[str, Any]) -> None:
        said = f"run {run} is being trained by process {owner['pid']} on {owner['host']}; waiting for it"
        tell("waiting", said, quiet=quiet, run=run)

    if finished(final):
        tell("found", f"run {run} is finished already: {final}", quiet=quiet, run=run)
    else:
        fresh = [folder for folder in (final.parent, out) if not folder.exists()]
        try:
            with Lock(final.parent / f".lock-{run}").held(waiting):
                if finished(final):
                    tell("found", f"run {run} was finished meanwhile: {final}", quiet=quiet, run=run)
                else:
                    _train(config, final, quiet, share)
        except BaseException:
            for folder in fresh:  # only what this request made, and only when nothing is in it
                with suppress(OSError):
                    folder.rmdir()
            raise
    if config.train.ablation:
        add_ablation(config, final, out, quiet)
    return final


def _follow(config: Any, final: Path) -> Path:
    """Take part in the training that the first process of ``torchrun`` leads in the same folder, until it is whole."""
    request = final.with_name(STAGING + final.name) / "config.yaml"
    while not request.is_file() and not finished(final):
        time.sleep(0.2)
    if not finished(final):
        _launch(config.train, request.parent, quiet=True)
    while not finished(final):
        time.sleep(0.2)
    return final


def _train(config: Any, final: Path, quiet: bool, share: Share | None) -> None:
    """Train in the staging directory, under the run's lock, and move it into place."""
    from shared_backbones.errors import CambiumError

    from .config import to_yaml
    from .events import tell
    from .store import move_folder, write_text

    staging = final.with_name(STAGING + final.name)
    if begun(staging):
        tell("resuming", f"resuming the unfinished run {final.name}", quiet=quiet, run=final.name)
    try:
        write_text(staging / "config.yaml", to_yaml(config))
        _launch(config.train, staging, quiet, share)
    except CambiumError:
        if not begun(staging):  # nothing is left of a request that could not be met
            shutil.rmtree(staging, ignore_errors=True)
        raise
    if final.exists():
        shutil.rmtree(final)  # a run that somebody has taken files from: see ``finished``
    move_folder(staging, final)


def _heard(said: IO[str], share: Share | None) -> list[str]:
    """What the training process said on its stdout, without its progress, which ``share`` is told as it comes."""
    rest = []
    for line in said:
        with suppress(ValueError, KeyError, TypeError):
            done = float(json.loads(line)[PROGRESS])
            if share is not None:
                share(done)
            continue
        rest.append(line)
    return rest


def _launch(settings: Any, staging: Path, quiet: bool, share: Share | None = None) -> None:
    """Run the training process to its end. What it shows goes to our stderr, its verdict comes back on its stdout."""
    from .events import tell

    command = [sys.executable, "-m", "pipelines.train", str(staging), *(["--quiet"] if quiet else [])]
    environment = os.environ | {
        "MPLBACKEND": "Agg",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it CUDA's matrix products differ from run to run
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
    }
    threads = settings.threads or (max(1, (os.cpu_count() or 1) // settings.devices) if settings.devices > 1 else None)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            verdict = _heard(process.stdout, share)
            process.wait()
        except BaseException:  # Ctrl-C, or a flow that was cancelled
            process.terminate()
            tell("stopped", "stopped; the same command goes on from the last checkpoint", quiet=quiet)
            raise
    if process.returncode:
        _raise(process.returncode, verdict, staging)


def _raise(code: int, verdict: Sequence[str], staging: Path) -> NoReturn:
    from shared_backbones.errors import BadInput, BadRequest

    for line in verdict:
        with suppress(ValueError):
            kind, message = json.loads(line)[ERRORS]
            raise {"BadInput": BadInput, "BadRequest": BadRequest}.get(kind, TrainingError)(message)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    error = TrainerKilledError if code < 0 else TrainingError
    raise error(f"the training process {how}; the same command goes on from the last checkpoint ({staging})")


def add_ablation(config: Any, final: Path, out: Path, quiet: bool) -> None:
    """Put the score of the same preset with every mixer replaced by ``identity`` beside the run's own.

    The ablation is a run of its own, found again like any other.
    """
    from .card import write_card
    from .events import tell
    from .report import write_report
    from .store import write_json

    metrics = json.loads((final / "metrics.json").read_bytes())
    if "ablation" in metrics or config.model.get("mixer") == "identity":
        return
    plain = config.train.model_copy(update={"ablation": False})
    bare = config.model_copy(update={"train": plain, "model": {**config.model, "mixer": "identity"}})
    tell("ablation", "the ablation: the same preset without mixing", quiet=quiet, run=final.name)
    other = json.loads((train(bare, out, quiet=quiet) / "metrics.json").read_bytes())
    metrics["ablation"] = {"mixer": "identity", **{key: other[key] for key in ("run", "metrics", "cost")}}
    write_json(final / "metrics.json", metrics)
    write_report(final)
    write_card(final)


# ------------------------------------------------------------------------------------------ the training process


def die_with_parent() -> None:
    """Linux: be killed when the parent dies, so that nobody writes beside the process that takes over its lock."""
    if sys.platform == "linux":
        parent = os.getppid()
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None, use_errno=True).prctl(set_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGKILL)


def _devices(staging: Path) -> int:
    from .config import from_yaml

    return from_yaml((staging / "config.yaml").read_text()).train.devices


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the training process: exit 0 done, 1 failed, 2 bad request or input, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    quiet = "--quiet" in arguments
    staging = Path(arguments[0]).resolve()
    die_with_parent()
    if "TORCHELASTIC_RUN_ID" not in os.environ and (devices := _devices(staging)) > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
        os.execv(sys.executable, [sys.executable, *torchrun, "-m", "pipelines.train", *arguments])
    verdict = os.dup(1)
    os.dup2(2, 1)  # whatever prints, stdout carries the verdict alone
    try:
        return _guarded(staging, quiet, verdict)
    finally:
        os.close(verdict)


def _guarded(staging: Path, quiet: bool, verdict: int) -> int:
    from shared_backbones.errors import BadInput, BadRequest

    def say(values: dict[str, Any]) -> None:
        os.write(verdict, (json.dumps(values) + "\n").encode())

    def tell(kind: str, error: BaseException) -> None:
        say({ERRORS: [kind, str(error)]})

    try:
        from .trainer.child import run

        run(staging, quiet, lambda done: say({PROGRESS: round(done, 4)}))
    except KeyboardInterrupt:
        return 130
    except (BadInput, BadRequest) as error:
        tell("BadInput" if isinstance(error, BadInput) else "BadRequest", error)
        return 2
    except Exception as error:
        import traceback

        with suppress(OSError), (staging / "log.txt").open("a") as log:
            traceback.print_exc(file=log)
        traceback.print_exc()
        tell("TrainingError", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
