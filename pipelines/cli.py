"""``cambium``: the command line. Start-up imports typer, rich and pydantic only; each command imports its own room."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from shared_backbones.errors import CambiumError

from .commands import catalogue, jobs, models, overfit, report, work
from .commands.backbones import backbones
from .console import BAD, DONE, FAILED, Answer, keep_traceback, only_answer_on_stdout, write_json_line
from .events import WISH, json_lines, tell

app = typer.Typer(
    name="cambium",
    help="From raw scientific files to a defended score and a nightly batch job. "
    "DOMAIN/TASK is such as timeseries/forecast; SRC is a path, a URL, a public data set's name, or `simulated`.",
    epilog="Exit codes: 0 done, 1 failed, 2 bad request or bad input, 3 a batch finished with some inputs refused.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
work.register(app)
app.command()(overfit.overfit)
jobs.register(app)
app.add_typer(backbones, name="backbones")
app.add_typer(catalogue.data, name="data")
app.add_typer(models.app, name="models")
app.add_typer(report.app, name="report")

# typer brings click along under changing names, but its own error is always a usage error of click's
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]


def _version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        print(f"cambium {metadata.version('cambium')}")
        raise typer.Exit


def _log(asked: str | None) -> None:
    if asked is not None:
        os.environ[WISH] = asked  # children look there too
    json_lines()  # refuses another word


@app.callback()
def _everywhere(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
    log: Annotated[str | None, typer.Option("--log", callback=_log, help="json: events as lines on stderr.")] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Options that stand before the command."""


def _usage(error: Any) -> str:
    command = getattr(getattr(error, "ctx", None), "command_path", "cambium")
    return f"{error.format_message()} See `{command} --help`"


def _attempt(argv: list[str], debug: bool) -> tuple[int, str | None, Any]:
    """(exit code, message, what the command returned)."""
    try:
        result = app(args=argv, prog_name="cambium", standalone_mode=False)
        return (result if isinstance(result, int) else DONE), None, result
    except CambiumError as error:
        return BAD, str(error), None
    except _ClickError as error:
        return BAD, _usage(error), None
    except typer.Exit as error:
        return error.exit_code, None, None
    except (typer.Abort, KeyboardInterrupt):
        return 130, "stopped", None
    except BrokenPipeError:
        return FAILED, None, None
    except Exception as error:
        if debug:
            raise
        log = keep_traceback(argv)
        where = f" (traceback: {log})" if log else ""
        return FAILED, f"{type(error).__name__}: {error}{where}", None


def _complain(kind: str, message: str) -> None:
    if os.environ.get(WISH) == "json":
        tell(kind, message)
    else:
        print(f"{kind}: {message}", file=sys.stderr)


def run(argv: Sequence[str]) -> int:
    """Run one command line; returns its exit code. An answer goes to stdout, everything else to stderr."""
    debug, as_json = "--debug" in argv, "--json" in argv and argv[:1] != ["flow"]
    arguments = [a for a in argv if a != "--debug"]
    with only_answer_on_stdout(as_json) as stdout:
        code, message, result = _attempt(arguments, debug)
        if isinstance(result, Answer):
            code = result.code
        if message is not None:
            kind = {BAD: "error", 130: "stopped"}.get(code, "failed")
            _complain(kind, message)
        if as_json and (message is not None or isinstance(result, Answer)):
            values = result.values if isinstance(result, Answer) else {"error": message}
            write_json_line(stdout, {**values, "exit": code})
        elif isinstance(result, Answer):
            result.show(Console(width=None if sys.stdout.isatty() else 140))
    return code


def main() -> None:
    """Entry point of the console script."""
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `cambium data list | head`
        code = DONE
        sys.stderr.close()
    sys.exit(code)


if __name__ == "__main__":
    main()
