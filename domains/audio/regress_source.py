"""From a manifest to clips with numbers, and batches of them.

Shapes: n clips, D numbers of each, B clips of a batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int

from shared_backbones.errors import BadInput, unknown

from ..task import Batch, Manifest
from .clips import Clips, Read, clips_of, read_all, refuse_silence
from .items import ClipItems
from .manifests import Entry
from .noises import with_noises
from .regress_config import RegressOptions
from .simulate import RATE, simulated
from .source import SIMULATED, found_entries


@dataclass(frozen=True)
class Rated:
    """Clips, and what was measured or judged of each."""

    clips: Clips
    values: Float64[np.ndarray, "n D"]
    targets: tuple[str, ...]

    @property
    def manifest(self) -> Manifest:
        return self.clips.manifest


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def targets_of(entries: Sequence[Entry], asked: tuple[str, ...], source: str) -> tuple[str, ...]:
    """The columns with numbers. Raises BadInput where there are none, BadRequest for one that is not there."""
    columns = list(dict.fromkeys(name for e in entries for name in e.more))
    for name in asked:
        if name not in columns:
            raise unknown("column (targets)", name, columns)
    found = asked or tuple(c for c in columns if all(_number(e.more.get(c)) is not None for e in entries))
    if not found:
        raise BadInput(
            f"{source}: no column with a number in every row. Give a manifest (.csv, .jsonl) with path and columns "
            f"such as arousal and valence, or name them as targets; other columns here: {', '.join(columns) or 'none'}"
        )
    return tuple(found)


def open_rated(source: str, options: RegressOptions) -> Rated:
    """Checked recordings with their numbers. Raises BadInput, for a row without one by its number."""
    if source == SIMULATED:
        read, rate, licence = [Read(*row) for row in simulated(options.simulated)], RATE, "simulated, free of rights"
        targets = targets_of([r.entry for r in read], options.targets, source)
    else:
        entries, licence = found_entries(source, options)
        targets = targets_of(entries, options.targets, source)
        for entry in entries:
            for name in targets:
                if _number(entry.more.get(name)) is None:
                    raise BadInput(f"{entry.where}: {name} must be a number, got {entry.more.get(name)!r}")
        rate, read = read_all(entries, options, source)
        read = refuse_silence(read, options.silence, source)
    clips = with_noises(clips_of(read, rate, source, licence), options)
    values = np.array([[float(r.entry.more[name]) for name in targets] for r in read])
    said = hashlib.sha256(f"{clips.manifest.sha256}{targets}".encode() + values.tobytes()).hexdigest()
    ranges = {
        name: {"least": v.min(), "mean": v.mean(), "most": v.max()} for name, v in zip(targets, values.T, strict=True)
    }
    facts = {
        **clips.manifest.facts,
        "targets": {n: {k: round(float(x), 4) for k, x in r.items()} for n, r in ranges.items()},
    }
    return Rated(replace(clips, manifest=replace(clips.manifest, sha256=said, facts=facts)), values, targets)


@dataclass(frozen=True)
class RatedItems:
    """Clips of one part: "wave", "length" as of :class:`ClipItems`, "value" (B, D)."""

    clips: ClipItems
    values: Float64[np.ndarray, "n D"]  # of the whole corpus

    def __len__(self) -> int:
        return len(self.clips)

    def arrange(self, order: Int[np.ndarray, "n"], size: int, seed: Sequence[int]) -> Int[np.ndarray, "n"]:
        """As of :class:`ClipItems`."""
        return self.clips.arrange(order, size, seed)

    def batch(self, indices: Sequence[int]) -> Batch:
        waves = {k: v for k, v in self.clips.batch(indices).items() if k != "target"}
        rows = [int(self.clips.rows[i]) for i in indices]
        return {**waves, "value": torch.from_numpy(self.values[rows]).float()}

    def by_length(self, samples: int) -> Iterator[list[int]]:
        """As of :class:`ClipItems`."""
        return self.clips.by_length(samples)
