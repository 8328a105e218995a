"""Files that are whole or not there: references by content, atomic writes, locks with owner and expiry."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict

from domains.public import sha256_of
from shared_backbones.errors import BadInput

WRITING, LOCKS = ".writing-", ".lock-"
Kind = Literal["data", "model", "metrics", "report", "predictions", "run", "request"]
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


class Ref(BaseModel):
    """A file by place and content: the only thing that crosses a step's boundary."""

    model_config = ConfigDict(frozen=True)

    uri: str
    sha256: str
    kind: Kind

    def open(self) -> Path:
        """The path, after its content was checked. Raises BadInput where it is gone or has changed."""
        path = Path(self.uri)
        if not path.is_file():
            raise BadInput(f"{self.kind} {path} is gone; run the step that made it again")
        got = sha256_of(path)
        if got != self.sha256:
            raise BadInput(f"{self.kind} {path} has changed: sha256 {got}, expected {self.sha256}")
        return path


def ref_of(path: Path, kind: Kind) -> Ref:
    """A reference to a file as it is now."""
    return Ref(uri=str(path.resolve()), sha256=sha256_of(path), kind=kind)


class DiskFull(BadInput):
    """There was no room to write; what stood before still stands."""


@contextmanager
def disk_full_is_clear(path: Path) -> Iterator[None]:
    """Turns the operating system's "no space" and "not allowed" into a sentence: DiskFull and BadInput."""
    try:
        yield
    except OSError as error:
        what = f"cannot write {path}: {os.strerror(error.errno or 0).lower()}. Nothing half-written was left; "
        if error.errno in _FULL:
            again = "make room or name another folder with --out, then run the same command again"
            raise DiskFull(what + again) from None
        if error.errno in _REFUSED:
            raise BadInput(what + "name a folder that can be written with --out") from None
        raise


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)  # the new name is on disk too, not only the content
    finally:
        os.close(fd)


def _host() -> str:
    return "".join(c if c.isalnum() else "_" for c in socket.gethostname())


def _aside() -> str:
    """Prefix of what is being written: it names its writer, so that another can tell whether that one still lives."""
    return f"{WRITING}{_host()}-{os.getpid()}-"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path aside to write to: moved to ``path`` when the block ends well, removed when it does not.

    It keeps the ending of the name, by which writers choose a format.
    """
    with disk_full_is_clear(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=_aside(), suffix="-" + path.name)
        os.close(fd)
        aside = Path(name)
        try:
            yield aside
            with aside.open("rb+") as f:
                os.fsync(f.fileno())
            aside.chmod(0o644)  # mkstemp's files are for the owner alone
            aside.replace(path)
            _sync_folder(path.parent)
        finally:
            with suppress(FileNotFoundError):
                aside.unlink()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Atomic. Raises DiskFull, leaving what stood before."""
    with atomic_path(path) as aside:
        aside.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Atomic, UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Atomic and strict: a NaN is an error, see :func:`finite`."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The same plain value with NaN and infinities as None, since JSON has no word for them."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder aside to fill: moved to ``path`` whole when the block ends well, removed when it does not.

    Raises FileExistsError where ``path`` exists by then.
    """
    with disk_full_is_clear(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=_aside()))
        try:
            yield aside
            aside.chmod(0o755)
            move_folder(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def move_folder(aside: Path, path: Path) -> None:
    """Rename a folder into place. Raises FileExistsError where something stands there, which is left alone."""
    if path.exists():
        raise FileExistsError(path)
    aside.rename(path)
    _sync_folder(path.parent)


def _me() -> dict[str, Any]:
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def _alive(owner: Mapping[str, Any]) -> bool | None:
    """Whether the owning process lives; None where it is on another host, out of sight."""
    if owner["host"] != socket.gethostname():
        return None
    try:
        # a pid is used again some day, but not with the same start time
        return abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 1
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """The folder itself is locked by the kernel while a lock file in it is looked at and replaced."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class Lock:
    """A lock file that names its owner (host, process, start time).

    It is taken over when the owner is dead, or, where that cannot be seen from here, when the owner has not
    renewed it for ``expiry`` seconds. While held, a thread renews it. Two threads of one process exclude each
    other as two processes do.
    """

    def __init__(self, path: Path, *, expiry: float = 600.0, poll: float = 0.2) -> None:
        self.path, self.expiry, self.poll = path, expiry, poll
        self._token = ""
        self._done = threading.Event()

    def owner(self) -> dict[str, Any] | None:
        """Who holds it, or None. A lock file that cannot be read counts as nobody's."""
        try:
            owner = json.loads(self.path.read_text())
            return owner if {"host", "pid", "started", "token"} <= set(owner) else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _stale(self, owner: Mapping[str, Any]) -> bool:
        alive = _alive(owner)
        if alive is None:
            return time.time() - self.path.stat().st_mtime > self.expiry
        return not alive

    def try_acquire(self) -> bool:
        """Take it if it is free or stale."""
        with disk_full_is_clear(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(self.path.parent):
            owner = self.owner()
            if owner is not None and not self._stale(owner):
                return False
            self._token = os.urandom(8).hex()
            write_json(self.path, {**_me(), "token": self._token})
        self._done.clear()
        threading.Thread(target=self._renew, daemon=True).start()
        return True

    def _renew(self) -> None:
        while not self._done.wait(self.expiry / 10):
            with suppress(OSError):
                os.utime(self.path)

    def acquire(self, waiting: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Wait for it; ``waiting`` is told once who holds it."""
        told = False
        while not self.try_acquire():
            owner = self.owner()
            if waiting and owner and not told:
                waiting(owner)
                told = True
            time.sleep(self.poll)

    def release(self) -> None:
        """Give it back; nothing happens where it is another's by now."""
        self._done.set()
        with _one_at_a_time(self.path.parent):
            owner = self.owner()
            if owner is not None and owner["token"] == self._token:
                self.path.unlink(missing_ok=True)

    @contextmanager
    def held(self, waiting: Callable[[dict[str, Any]], None] | None = None) -> Iterator[None]:
        """Hold it for a block."""
        self.acquire(waiting)
        try:
            yield
        finally:
            self.release()


def sweep_leftovers(*folders: Path) -> None:
    """Remove what killed processes of this machine left directly in ``folders``: half-written files, locks."""
    for folder in folders:
        for path in folder.glob(f"{WRITING}{_host()}-*"):
            pid = path.name.removeprefix(f"{WRITING}{_host()}-").partition("-")[0]
            if pid.isdigit() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        for path in folder.glob(f"{LOCKS}*"):
            lock = Lock(path)
            if path.is_file() and lock.try_acquire():
                lock.release()
