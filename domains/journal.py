"""Finished slabs of a long job, kept aside: a job that was killed half-way goes on where it stopped.

Slabs are replayed into the writer in the order in which they were made, so the file comes out byte for byte as if
nothing had happened. What is kept costs the output's size, uncompressed, until the output is published.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from .task import Sink
from .tiling import Slices

Write: TypeAlias = Callable[[Slices, Tensor], None]

PLAN = "plan.json"


class Journal:
    """Slabs (K, rows, ...) along axis 0 in ``folder``, each with the notes that were made on the way to it."""

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        """``plan``: what decides where slabs begin. Slabs that were made under another plan are thrown away."""
        self.folder, self.kept, text = folder, 0, json.dumps(plan, sort_keys=True)
        known = folder / PLAN
        if not known.is_file() or known.read_text() != text:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _aside(known, lambda path: path.write_text(text))

    def replay(self, write: Write, notes: list[str]) -> int:
        """Give every whole slab, from the first on, to ``write``; returns how many rows of axis 0 are done."""
        done, self.kept = 0, 0
        for path in sorted(self.folder.glob("*.npy")):
            try:
                slab = np.load(path, allow_pickle=False)
                said = json.loads(path.with_suffix(".json").read_text())
            except (OSError, ValueError, EOFError):
                break
            if said["start"] != done:
                break
            rest = [slice(0, n) for n in slab.shape[2:]]
            write((slice(done, done + slab.shape[1]), *rest), torch.from_numpy(slab))
            notes += said["notes"]
            done += slab.shape[1]
            self.kept += 1
        return done

    def add(self, start: int, slab: Shaped[Tensor, "K rows *rest"], notes: list[str]) -> None:
        """Keep a slab that begins at row ``start``, and the notes since the one before."""
        path = self.folder / f"{self.kept:08d}.npy"
        said = json.dumps({"start": start, "notes": notes})
        _aside(path.with_suffix(".json"), lambda to: to.write_text(said))  # first: a slab without it does not count
        _aside(path, lambda to: _save(to, slab))
        self.kept += 1


def _save(path: Path, slab: Tensor) -> None:
    with path.open("wb") as file:
        np.save(file, slab.numpy(), allow_pickle=False)


def _aside(path: Path, fill: Callable[[Path], object]) -> None:
    to = path.with_name(f"{path.name}.part")
    fill(to)
    to.replace(path)


def resume(sink: Sink, name: str, plan: Mapping[str, Any], write: Write, notes: list[str]) -> tuple[Write, int]:
    """``write`` that also keeps what it is given, and how many rows an earlier, killed run has written into it.

    Just ``write`` and 0 where the sink keeps nothing (``shelf`` missing). ``name``: of this stream among the input's.
    """
    shelf = getattr(sink, "shelf", None)
    if shelf is None:
        return write, 0
    journal = Journal(shelf() / name, plan)
    done = journal.replay(write, notes)
    told = len(notes)

    def both(at: Slices, slab: Tensor) -> None:
        nonlocal told
        write(at, slab)
        journal.add(at[0].start, slab, notes[told:])
        told = len(notes)

    return both, done
