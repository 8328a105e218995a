"""``cambium overfit``: a few examples learned by heart, before an hour is spent on all of them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..console import DONE, FAILED, Answer, AsJson
from . import show
from .work import ConfigFile, PresetName, Seed, Sets, Source, TaskName


def overfit(
    task: TaskName,
    data: Source = None,
    preset: PresetName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seed: Seed = None,
    items: Annotated[int, typer.Option("--items", metavar="N", min=1, help="Training examples, in one batch.")] = 8,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Optimiser steps.")] = 200,
    as_json: AsJson = False,
) -> Answer:
    """Learn one batch by heart: exit code 1 where less than nine tenths of the loss is gone after it.

    Where it fails, training on everything cannot work: look at the data, the labels, the rate (--set train.lr=...).
    """
    from ..config import resolve
    from ..overfit import overfit as learn

    found = learn(resolve(task, data=data, preset=preset, file=config, sets=sets or (), seed=seed), items, steps)

    def text(console: Console) -> None:
        verdict = "learned by heart" if found["passed"] else "NOT learned by heart"
        said = f"{found['items']} examples {verdict}: loss {found['first_loss']:.4g} to {found['last_loss']:.4g}"
        console.print(Text(f"{said} in {found['steps']} steps", style="bold"))
        show.pairs(console, found["metrics"])

    return Answer(found, text, DONE if found["passed"] else FAILED)
