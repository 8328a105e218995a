"""``python -m flows``: what ``cambium flow`` runs, in a process of its own because Prefect wants its settings first."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipelines.console import BAD, DONE, FAILED, Answer, AsJson, keep_traceback, only_answer_on_stdout, write_json_line
from shared_backbones.errors import CambiumError

from . import FLOWS, deploy, run_flow, serve
from .server import die_with

Root = Annotated[Path, typer.Option("--runs", help="Where the runs and Prefect's home are.", metavar="DIR")]
File = Annotated[Path | None, typer.Option("--file", help="Another prefect.yaml.", metavar="FILE")]

app = typer.Typer(
    name="cambium flow",
    help="The pipelines under Prefect, with retries, cached training and artifacts. No server is needed: each command "
    "brings its own on the loopback address and takes it away again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
run = typer.Typer(help="Run a flow here and now.", no_args_is_help=True)
app.add_typer(run, name="run")


@run.command("train")
def run_train(
    task: Annotated[str, typer.Argument(metavar="DOMAIN/TASK", help="Such as timeseries/forecast.")],
    data: Annotated[str | None, typer.Option(metavar="SRC", help="Path, URL, public name or `simulated`.")] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="See `cambium backbones`.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Options as YAML.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="An option; may repeat.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of everything random.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where runs are kept.")] = Path("runs"),
    evaluate_on: Annotated[str | None, typer.Option(metavar="SRC", help="Score the run on this instead.")] = None,
    as_json: AsJson = False,
) -> Answer:
    """Train a task, publish its scores beside the baselines, and link the report."""
    result = run_flow(
        "train",
        out,
        task=task,
        data=data,
        preset=preset,
        config=None if config is None else str(config),
        sets=sets,
        seed=seed,
        out=str(out),
        evaluate_on=evaluate_on,
    )

    def text(console: Console) -> None:
        from pipelines.commands import show
        from pipelines.findings import Run

        if evaluate_on is not None:
            show.scores(console, result)
        show.run(console, Run(Path(result["directory"])), result)

    return Answer(result, text)


@run.command("predict")
def run_predict(
    model: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or id, or MODEL@champion.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders, globs, URLs.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Outputs and the ledger.")],
    workers: Annotated[int, typer.Option(metavar="N", help="Processes.")] = 1,
    engine: Annotated[str, typer.Option(metavar="NAME", help="Where they run: local.")] = "local",
    root: Root = Path("runs"),
    as_json: AsJson = False,
) -> Answer:
    """Use a model on new files; what the ledger knows as done stays."""
    result = run_flow(
        "predict", root, model=model, inputs=inputs, out=str(out), workers=workers, engine=engine, root=str(root)
    )
    return Answer(result, lambda _: _show_batch(result), result["exit_code"])


def _show_batch(result: dict[str, Any]) -> None:
    print(f"{result['done']} done ({result['reused']} before), {len(result['refused'])} refused")
    for row in result["refused"]:
        print(f"  {row['input']}: {row['reason']}")
    print(f"ledger: {result['ledger']}")


@run.command("job")
def run_job(
    name: Annotated[str, typer.Argument(metavar="FLOW", help="retrain, batch_predict, backfill, sweep, cleanup.")],
    given: Annotated[list[str] | None, typer.Argument(metavar="NAME=VALUE...", help="Its parameters, as YAML.")] = None,
    root: Root = Path("runs"),
    as_json: AsJson = False,
) -> Answer:
    """Run one of the other flows with its parameters by name, such as `job cleanup days=30`."""
    from pipelines.config import parse_set

    options = {path[0]: value for path, value in map(parse_set, given or ())}
    result = run_flow(name, root, **options)
    return Answer(result, lambda _: _show_job(name, result), result.get("exit_code", 0))


def _show_job(name: str, result: dict[str, Any]) -> None:
    print(f"{name}: {result.get('said') or result.get('reason')}")


@app.command("list")
def list_flows(as_json: AsJson = False) -> Answer:
    """Names of the flows."""
    return Answer({"flows": sorted(FLOWS)}, lambda _: print("\n".join(sorted(FLOWS))))


@app.command("serve")
def serve_deployments(
    root: Root = Path("runs"),
    file: File = None,
    port: Annotated[int | None, typer.Option(metavar="N", help="Of the API; a free one by default.")] = None,
    ui: Annotated[bool, typer.Option("--ui", help="Offer Prefect's pages on the same port.")] = False,
) -> int:
    """Register the deployments of prefect.yaml and work on their runs until Ctrl-C."""
    return serve(root, file, port=port, ui=ui)


@app.command("deploy")
def register_deployments(
    root: Root = Path("runs"),
    file: File = None,
    api: Annotated[str | None, typer.Option(metavar="URL", help="A Prefect server that runs already.")] = None,
    as_json: AsJson = False,
) -> Answer:
    """Register the deployments of prefect.yaml, here or in a server of your own."""
    names = deploy(root, file, api=api)
    return Answer({"deployments": names}, lambda _: print("\n".join(names)))


_ClickError: type[Exception] = typer.BadParameter.__mro__[2]  # typer brings click along under changing names


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt  # a SIGTERM ends the server in order, as Ctrl-C does


def _attempt(argv: list[str]) -> tuple[int, str | None, Any]:
    """(exit code, message, what the command returned)."""
    try:
        result = app(args=argv, prog_name="cambium flow", standalone_mode=False)
        return (result if isinstance(result, int) else DONE), None, result
    except CambiumError as error:
        return BAD, str(error), None
    except _ClickError as error:
        return BAD, error.format_message(), None  # type: ignore[attr-defined]
    except typer.Exit as error:
        return error.exit_code, None, None
    except (typer.Abort, KeyboardInterrupt):
        return 130, "stopped", None
    except Exception as error:
        log = keep_traceback(["flow", *argv])
        return FAILED, f"{type(error).__name__}: {error} (traceback: {log})", None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line: 0 done, 1 failed, 2 bad request or input, 3 some inputs refused, 130 stopped."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    with only_answer_on_stdout(as_json) as stdout:
        code, message, result = _attempt(arguments)
        if isinstance(result, Answer):
            code = result.code
        message = "stopped" if code == 130 else message  # typer turns Ctrl-C into a code of its own
        if message is not None:
            print(f"{ {BAD: 'error', 130: 'stopped'}.get(code, 'failed') }: {message}", file=sys.stderr)
        if as_json and (message is not None or isinstance(result, Answer)):
            values = result.values if isinstance(result, Answer) else {"error": message}
            write_json_line(stdout, {**values, "exit": code})
        elif isinstance(result, Answer):
            result.show(Console(soft_wrap=False))
    return code


if __name__ == "__main__":
    if "CAMBIUM_FLOW_OWNER" in os.environ:  # started by ``cambium flow``
        die_with(int(os.environ.pop("CAMBIUM_FLOW_OWNER")))
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
