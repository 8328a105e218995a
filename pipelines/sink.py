"""Where a batch's outputs go: written aside, published whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from domains.public import sha256_of

if TYPE_CHECKING:
    from domains.journal import Share

STAGING = ".partial-"  # folders of outputs that are being written
SHELF = ".unfinished-"  # folders of what a killed run has finished of an input


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class FolderSink:
    """Implements :class:`domains.task.Sink`: files are written in a folder aside, on the same disk, then published.

    Nothing is seen in ``out / folder`` before every file of the input is whole and on disk. ``key``: what the outputs
    depend on; the shelf of another key is never read. ``fan_out`` and ``share``: of an input that several processes
    make, see :mod:`domains.journal`.
    """

    fan_out: Callable[[str], None] | None = None
    share: Share | None = None

    def __init__(self, out: Path, folder: str, key: str = "") -> None:
        self.out, self.folder, self.key = out, folder, key
        self.staging = out / f"{STAGING}{folder}"
        self.names: list[str] = []

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A path to write to. Raises ValueError for a name that would leave the folder or was given before."""
        if PurePath(name).name != name or name in ("", ".", "..") or name in self.names:
            raise ValueError(f"a sink takes plain file names, each once; got {name!r} after {self.names}")
        self.staging.mkdir(parents=True, exist_ok=True)
        path = self.staging / name
        try:
            yield path
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self.names.append(name)

    def shelf(self) -> Path:
        """A folder that outlives a killed run, for what a rerun need not make again; gone once all is published."""
        shelves = self.out / f"{SHELF}{self.folder}"
        own = shelves / (self.key or "any")
        for other in shelves.iterdir() if shelves.is_dir() else ():
            if other != own:
                shutil.rmtree(other)
        own.mkdir(parents=True, exist_ok=True)
        return own

    def publish(self) -> dict[str, str]:
        """Move every file into place, sidecars that a writer left beside them too; returns path -> sha256."""
        if not self.names:
            return {}
        digests = {}
        written = sorted(path for path in self.staging.iterdir() if path.is_file())
        for path in written:
            _fsync(path)
            digests[f"{self.folder}/{path.name}"] = sha256_of(path)
        place = self.out / self.folder
        place.mkdir(exist_ok=True)
        for path in written:
            path.replace(place / path.name)
        _fsync(place)
        shutil.rmtree(self.staging)
        self.clear()
        return digests

    def clear(self) -> None:
        """Throw the shelf away: the outputs are published, or will never be."""
        shutil.rmtree(self.out / f"{SHELF}{self.folder}", ignore_errors=True)

    def discard(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.staging, ignore_errors=True)
