"""Inputs and outputs elsewhere, by address: ``s3://``, ``gs://``, ``abfs://`` and all else that fsspec knows.

An input is fetched whole, with its sidecars, to a folder of the worker's own. Outputs are made in a mirror folder here
and then put, the ledger last: where it names an output, that output is there. Credentials come from the environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from shared_backbones.errors import BadInput, BadRequest

from . import ledger

MIRRORS = ".mirrors"
BESIDE = (ledger.LEDGER, "drift.json", "alerts.jsonl")  # put after the outputs, the ledger first of them


def is_remote(text: str) -> bool:
    """Whether a text is an address. Web pages are read by the tasks themselves."""
    return "://" in text and not text.startswith(("http://", "https://"))


def opened(url: str) -> tuple[Any, str]:
    """The file system of an address and the path in it. Raises BadRequest where its package is missing or unknown."""
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise BadRequest(f"{url}: {error}. Try pip install 'cambium[cloud]'") from None
    fs.invalidate_cache()  # another process may have written meanwhile
    return fs, path


def listing(url: str, suffixes: Sequence[str] = ()) -> list[str] | None:
    """Addresses that a folder or glob names, in order, as :func:`pipelines.predict.expand` picks; None for one file."""
    fs, path = opened(url)
    scheme = url.partition("://")[0]
    if any(c in path for c in "*?["):
        found = fs.glob(path)
    elif url.endswith("/") or fs.isdir(path):
        entries = fs.ls(path, detail=True) if fs.exists(path) else []
        found = [entry["name"] for entry in entries if entry["type"] == "file"]
    else:
        return None
    names = [p for p in sorted(found) if not PurePosixPath(p).name.startswith(".")]
    return [f"{scheme}://{p}" for p in names if not suffixes or p.lower().endswith(tuple(suffixes))]


def digest(url: str) -> str | None:
    """What changes when the content behind an address does (an etag, a time and size); None where nobody knows."""
    fs, path = opened(url)
    try:
        facts = fs.info(path)
    except (FileNotFoundError, PermissionError):
        return None
    known = facts.get("ETag") or facts.get("etag") or facts.get("md5Hash") or facts.get("content_md5")
    known = known or facts.get("mtime") or facts.get("created")
    return None if known is None else hashlib.sha256(f"{url}:{known}:{facts.get('size')}".encode()).hexdigest()


@contextmanager
def fetched(source: str) -> Iterator[str]:
    """A path on this machine for an input: its own, or that of a copy which goes with the block.

    Raises BadInput where an address cannot be read; whatever a reader says of the copy is said of the address.
    """
    if not is_remote(source):
        yield source
        return
    fs, path = opened(source)
    name = PurePosixPath(path).name
    with TemporaryDirectory(prefix="cambium-") as folder:
        local = Path(folder) / name
        try:
            beside = [e["name"] for e in fs.ls(str(PurePosixPath(path).parent), detail=True) if e["type"] == "file"]
            stem = name.split(".")[0]
            for other in [p for p in beside if PurePosixPath(p).name.split(".")[0] == stem] or [path]:
                fs.get_file(other, str(local.with_name(PurePosixPath(other).name)))
            if not local.is_file():
                raise FileNotFoundError("there is no such object")
        except (FileNotFoundError, PermissionError) as error:
            raise BadInput(f"{source} cannot be read: {type(error).__name__}: {error}") from None
        try:
            yield str(local)
        except BadInput as error:
            raise type(error)(str(error).replace(str(local), source)) from None


def mirror(url: str, root: Path) -> Path:
    """The folder here in which outputs for an address are made."""
    return root.resolve() / MIRRORS / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


def push(local: Path, url: str) -> int:
    """Put what a mirror's ledger has as done and the address has not; returns how many files were put.

    Outputs first, each whole, then the ledger: a put that is cut short is repaired by the next.
    """
    fs, base = opened(url)
    base = base.rstrip("/")
    there = {str(p).removeprefix(f"{base}/") for p in fs.find(base)} if fs.exists(base) else set()
    known: dict[str, ledger.Row] = {}
    with TemporaryDirectory(prefix="cambium-") as folder:
        if ledger.LEDGER in there:
            fs.get_file(f"{base}/{ledger.LEDGER}", f"{folder}/{ledger.LEDGER}")
            known = ledger.read(Path(folder) / ledger.LEDGER)
    count, rows = 0, ledger.read(local / ledger.LEDGER)
    for row in rows.values():
        before = known.get(row.input)
        same = before is not None and dict(before.outputs) == dict(row.outputs)
        for name in row.outputs if row.state == "done" else ():
            if not (same and name in there) and (local / name).is_file():
                fs.makedirs(f"{base}/{PurePosixPath(name).parent}", exist_ok=True)
                fs.put_file(str(local / name), f"{base}/{name}")
                count += 1
    for name in BESIDE if count or known != rows else ():
        if (local / name).is_file():
            fs.put_file(str(local / name), f"{base}/{name}")
    return count
