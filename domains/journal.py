"""Finished slabs of a long job, kept aside: a job that was killed half-way goes on where it stopped.

Slabs are replayed into the writer in the order in which they were made, so the file comes out byte for byte as if
nothing had happened. What is kept costs the output's size, uncompressed, until the output is published.

Several processes can fill one shelf: each makes a share of the rows of windows, and one replays them all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from .task import Sink
from .tiling import Extent, Plan, Slices, Tile, plan, stream

Write: TypeAlias = Callable[[Slices, Tensor], None]

PLAN = "plan.json"
FEWEST = 4  # rows of windows: below that other processes would start later than this one ends


@dataclass(frozen=True)
class Share:
    """What one of ``of`` processes makes of the stream ``name``: every of-th row of windows, the first one excepted."""

    name: str
    number: int
    of: int

    def rows(self, count: int) -> range:
        return range(1 + self.number, count, self.of)


class Shared(Exception):  # noqa: N818 - nothing is wrong
    """A process's share is on the shelf, and there is no more for it to do."""


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

    def place(self, number: int) -> Path:
        """Where slab ``number`` is kept, from the first on."""
        return self.folder / f"{number:08d}.npy"

    def add(
        self, start: int, slab: Shaped[Tensor, "K rows *rest"], notes: list[str], number: int | None = None
    ) -> None:
        """Keep a slab that begins at row ``start``, the next one or slab ``number``; and the notes that it gave."""
        path = self.place(self.kept if number is None else number)
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


@dataclass(frozen=True)
class Windows:
    """How a lattice is read and made: see :func:`domains.tiling.stream`."""

    read: Callable[[Slices], Tensor]
    apply: Callable[[Tensor], Tensor]
    on_error: Callable[[Tile, Exception], Tensor] | None
    shape: tuple[int, ...]
    tile: Extent
    stride: Extent | None = None
    halo: Extent = 0
    blend: str = "constant"

    @property
    def plan(self) -> Plan:
        return plan(self.shape, self.tile, self.stride, self.halo)

    def stream(self, write: Write, *, done: int = 0, only: Collection[int] | None = None) -> None:
        stream(
            self.read, self.apply, write,
            shape=self.shape, tile=self.tile, stride=self.stride, halo=self.halo, blend=self.blend,
            on_error=self.on_error, done=done, only=only,
        )  # fmt: skip


def stream_kept(
    windows: Windows, write: Write, sink: Sink, name: str, about: Mapping[str, Any], notes: list[str]
) -> None:
    """Windows to ``write``; what a killed run has finished is written again, not made again.

    Finished slabs are kept where the sink has a ``shelf``. Where it can also ``fan_out``, other processes make the
    rows of windows while this one waits, but for the first; where it has a ``share``, this is one of those.

    name: of this stream among the input's. about: what decides what the slabs hold. notes: filled on the way.
    """
    shelf, share = getattr(sink, "shelf", None), getattr(sink, "share", None)
    if shelf is None:
        windows.stream(write)
        return
    if share is not None and share.name != name:
        return
    rows, journal = windows.plan.axes[0], Journal(shelf() / name, about)
    number_of, told = {span.start: i for i, span in enumerate(rows)}, len(notes)

    def keep(at: Slices, slab: Tensor, number: int | None = None) -> None:
        nonlocal told
        journal.add(at[0].start, slab, notes[told:], number)
        told = len(notes)

    if share is not None:
        mine = [i for i in share.rows(len(rows)) if not journal.place(i).is_file()]
        windows.stream(lambda at, slab: keep(at, slab, number_of[at[0].start]), only=mine)
        raise Shared
    fan_out = getattr(sink, "fan_out", None)
    if fan_out is not None and len(rows) >= FEWEST and not windows.plan.overlapping:
        if not journal.place(0).is_file():
            noted = len(notes)
            windows.stream(lambda at, slab: keep(at, slab, 0), only=[0])
            del notes[noted:]  # they come again with what is replayed
        fan_out(name)
    done = journal.replay(write, notes)
    told = len(notes)

    def both(at: Slices, slab: Tensor) -> None:
        write(at, slab)
        keep(at, slab)

    windows.stream(both, done=done)
