"""Where a batch's outputs go: written aside, published whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from domains.public import sha256_of

STAGING = ".partial-"  # folders of outputs that are being written


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class FolderSink:
    """Implements :class:`domains.task.Sink`: files are written in a folder aside, on the same disk, then published.

    Nothing is seen in ``out / folder`` before every file of the input is whole and on disk.
    """

    def __init__(self, out: Path, folder: str) -> None:
        self.out, self.folder = out, folder
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
        return digests

    def discard(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.staging, ignore_errors=True)
