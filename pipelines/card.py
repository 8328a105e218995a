"""The model card: what a run is, on what it was trained, how good it is and what it costs, as Markdown in its folder.

It says what the report says, in the form that registries show: MLflow keeps it as the description of the run.
"""

from __future__ import annotations

from pathlib import Path

from .findings import Run
from .report import environment, view
from .store import write_text

CARD = "MODEL_CARD.md"


def write_card(run_dir: Path) -> Path:
    """Write the card into a run's folder. Raises BadInput where it is not a finished run."""
    run = Run(run_dir)
    template = environment().overlay(autoescape=False).get_template("card.md")
    path = run.folder / CARD
    write_text(path, template.render(v=view(run), code=run.model.get("code", "")))
    return path
