"""What an input is: a digest over its bytes and those of the files that belong to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from domains.public import sha256_of
from shared_backbones.errors import BadInput

from . import remote
from .remote import is_remote


@contextmanager
def read_as_trained() -> Iterator[None]:
    """Readers advise options of training; where a finished run reads a file, the refusal says whose these are."""
    try:
        yield
    except BadInput as error:
        if "--set " not in str(error):
            raise
        raise BadInput(f"{error} (a run reads as it was trained to: --set is for `cambium train`)") from error


def _sidecars(path: Path, beside: Sequence[Path]) -> list[Path]:
    """A file and what formats keep beside it: the same stem with another ending or none, or its name and more."""
    return [p for p in beside if p.stem == path.stem or p.name == path.stem or p.name.startswith(f"{path.name}.")]


def input_digests(
    sources: Sequence[str], companions: Callable[[str], Iterable[Path]] = lambda source: ()
) -> dict[str, str | None]:
    """Source -> sha256 over its file and the file's sidecars, or of its name where it names data; None for a URL.

    companions: further files that a source names, such as the scenes of a list; their bytes count too.
    """
    listing: dict[Path, dict[str, list[Path]]] = {}
    found: dict[str, str | None] = dict.fromkeys(sources)
    for source in sources:
        path = Path(source)
        if path.is_dir():  # one input of many files
            parts = [f"{p.name}:{sha256_of(p)}\n" for p in sorted(path.iterdir()) if p.is_file()]
            found[source] = hashlib.sha256("".join(parts).encode()).hexdigest()
            continue
        if not path.is_file():
            if is_remote(source):
                found[source] = remote.digest(source)
            elif "://" not in source:  # a name stands for the same content as long as the code is the same
                found[source] = hashlib.sha256(f"name:{source}".encode()).hexdigest()
            continue
        if path.parent not in listing:  # once per folder: a batch may name very many files of one
            beside = listing[path.parent] = {}
            for p in sorted(path.parent.iterdir()):
                beside.setdefault(p.name.split(".")[0], []).append(p)
        candidates = listing[path.parent].get(path.name.split(".")[0], [])
        digest = hashlib.sha256()
        for p in _sidecars(path, candidates):
            if p.is_file():
                digest.update(f"{p.name}:{sha256_of(p)}\n".encode())
        for p in companions(source):
            digest.update(f"{p}:{sha256_of(p)}\n".encode())
        found[source] = digest.hexdigest()
    return found
