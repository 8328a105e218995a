"""Several scenes of one sensor, or a folder of images, to learn restoring from; each is dealt out whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shared_backbones.errors import BadInput, unknown

from ...public import locate
from ...task import PARTS, Part
from ..data import Member, Scene, luma_of, members, mosaic, open_scene
from ..data.mosaic import Mosaic
from ..datasets import SET5
from ..source import digest_of, grouped
from .config import RestoreOptions

IMAGE_FILES = (".png", ".jpg", ".jpeg", ".bmp")  # of 8 bits: 0..255 is their range, and results are rounded to it
_ROLES = {"image": ("images", "image", "clean", "hr", "cubes")}
Place = tuple[slice, slice]  # rows and columns of a member on the lattice


@dataclass(frozen=True)
class Collection:
    """Scenes below one another on one lattice. ``units``: the scene that each member is cut of, or itself; ``given``:
    its part (0, 1, 2) where the data say so."""

    whole: Mosaic
    names: tuple[str, ...]
    units: tuple[int, ...]
    given: tuple[int, ...] | None
    images: bool  # of 8 bits
    digest: str

    @property
    def places(self) -> list[Place]:
        return [self.whole.place(i) for i in range(len(self.names))]


def collect(source: str, options: RestoreOptions) -> Collection:
    """A folder of scenes or images, a CSV list with the column ``image`` (perhaps part, scene), or ``set5``.

    Raises BadInput where it holds none, or not of one kind.
    """
    found = _found(source)
    luma = options.luma or source == SET5.name
    openers = [partial(opened, m.files["image"], options, luma) for m in found]
    units, given = grouped(Path(source), found)
    kinds = {m.files["image"].suffix.lower() in IMAGE_FILES for m in found}
    if len(kinds) > 1:
        raise BadInput(f"{source}: holds 8-bit images ({', '.join(IMAGE_FILES)}) and scenes; train on one kind")
    return Collection(
        mosaic(source, openers, 1),
        tuple(m.name for m in found),
        tuple(units),
        None if given is None else tuple(given),
        kinds == {True},
        digest_of(found),
    )


def opened(path: Path, options: RestoreOptions, luma: bool) -> Scene:
    """A scene as the options ask for it."""
    scene = open_scene(path, variable=options.variable, wavelengths=options.wavelengths)
    return luma_of(scene) if luma else scene


def _found(source: str) -> list[Member]:
    if source == SET5.name:
        return [Member(Path(name).stem, {"image": path}) for name, path in sorted(locate(SET5).items())]
    path = Path(source)
    if path.is_dir() and not any((path / name).is_dir() for name in _ROLES["image"]):
        plain = [p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith(".")]
        ignored = {".txt", ".md", ".csv", ".json", ".hdr", ".xml", ".aux"}
        files = [p for p in plain if p.suffix.lower() not in ignored]
        stems = [p.stem.lower() for p in files]
        if files and not any(s.endswith(tuple(f"_{n}" for n in _ROLES["image"])) for s in stems):
            if len(set(stems)) < len(stems):
                twice = next(s for s in stems if stems.count(s) > 1)
                raise BadInput(f"{source}: two files are called {twice}; give each a name of its own")
            return _parted(path, [Member(p.stem, {"image": p}) for p in files])
    return members(path, _ROLES, ("image",))


def _parted(folder: Path, found: list[Member]) -> list[Member]:
    from ..data.folders import with_parts

    return with_parts(folder, found)


def deal(c: Collection, options: RestoreOptions) -> Mapping[Part, list[int]]:
    """Members of every part: as the data say, else those that ``test`` names and another to validate, else by lot.

    Raises BadInput where a part would be empty.
    """
    if c.given is not None:
        parts: dict[Part, list[int]] = {p: [i for i, g in enumerate(c.given) if g == k] for k, p in enumerate(PARTS)}
        lacking = [p for p in PARTS if not parts[p]]
        if lacking:
            raise BadInput(f"{c.whole.where}: its table of parts names nothing for {lacking[0]}")
        return parts
    for name in options.test:
        if name not in c.names:
            raise unknown("scene for test", name, c.names)
    units = list(dict.fromkeys(c.units))
    if len(units) < 3:
        raise BadInput(
            f"{c.whole.where}: {len(units)} scenes; at least 3 are needed to train, validate and test on whole ones"
        )
    order = [int(u) for u in np.random.default_rng(options.draw).permutation(units)]
    val, test = (max(1, round(f * len(units))) for f in options.fractions[1:])
    held: Sequence[Any] = order[len(order) - test :]
    if options.test:
        held = [u for i, u in enumerate(c.units) if c.names[i] in options.test]
    free = [u for u in order if u not in set(held)]
    if len(free) < 2:
        raise BadInput(f"{c.whole.where}: {len(free)} scenes are left to train and validate; at least 2 are needed")
    val = min(val, len(free) - 1)
    of = {**dict.fromkeys(free[val:], "train"), **dict.fromkeys(free[:val], "val"), **dict.fromkeys(held, "test")}
    return {p: [i for i, u in enumerate(c.units) if of[u] == p] for p in PARTS}
