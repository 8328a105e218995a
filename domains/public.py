"""Public data sets by name: found by checksum in ``$CAMBIUM_DATA``, or fetched when the user asks for it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared_backbones.errors import BadInput


@dataclass(frozen=True)
class PublicFile:
    """One file of a data set: its checksum, and where the original bytes are."""

    sha256: str
    url: str


@dataclass(frozen=True)
class PublicData:
    """A public data set: what it is, under which licence, and how the field scores it."""

    name: str
    domain: str
    files: Mapping[str, PublicFile]  # by file name
    licence: str
    source: str  # whom to cite
    protocol: str  # the standard split and metrics, in words
    task: str = ""  # the task that reads it
    folder: str = ""  # where its files are below the domain's folder; empty: its name

    @property
    def place(self) -> Path:
        """The folder of its files."""
        return data_home() / self.domain / (self.folder or self.name)


def data_home() -> Path:
    """``$CAMBIUM_DATA``, or the user's cache folder."""
    home = os.environ.get("CAMBIUM_DATA")
    if home:
        return Path(home)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "cambium"


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def locate(data: PublicData) -> dict[str, Path]:
    """File name -> path of a data set that is already on this machine, every checksum verified.

    Looks in ``<home>/<domain>/<folder>/``. Raises BadInput where a file is missing or differs: nothing is fetched here.
    """
    folder = data.place
    found = {}
    for name, file in data.files.items():
        path = folder / name
        if not path.is_file():
            raise BadInput(
                f"public data set {data.name!r}: {path} is not there. Fetch it with `cambium data get {data.name}`, "
                "or point CAMBIUM_DATA at a folder that holds it"
            )
        got = sha256_of(path)
        if got != file.sha256:
            raise BadInput(f"public data set {data.name!r}: {path} has sha256 {got}, expected {file.sha256}")
        found[name] = path
    return found


def fetch(data: PublicData) -> dict[str, Path]:
    """The same, fetching what is missing from its source (network) and checking it."""
    import pooch

    folder = data.place
    for name, file in data.files.items():
        if not (folder / name).is_file():
            pooch.retrieve(file.url, known_hash=f"sha256:{file.sha256}", fname=name, path=folder)
    return locate(data)
