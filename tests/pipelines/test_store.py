"""Files are whole or not there; locks have one owner."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.store import (
    DiskFull,
    Lock,
    Ref,
    atomic_folder,
    atomic_path,
    finite,
    ref_of,
    write_bytes,
    write_json,
    write_text,
)
from shared_backbones.errors import BadInput


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "deep" / "a.txt") as aside:
        aside.write_text("new")
        assert aside.suffix == ".txt"
        assert not (tmp_path / "deep" / "a.txt").exists()
    assert (tmp_path / "deep" / "a.txt").read_text() == "new"
    assert names(tmp_path / "deep") == ["a.txt"]


def test_a_failure_leaves_what_stood_before(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")

    def half() -> None:
        with atomic_path(tmp_path / "a") as aside:
            aside.write_text("half")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        half()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_is_named_and_leaves_what_stood_before(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(DiskFull, match=r"cannot write .*/a: file too large\. Nothing half-written was left"):
            write_bytes(tmp_path / "a", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_bad_input_and_other_errors_are_not(tmp_path: Path, number: int) -> None:
    with pytest.raises(BadInput, match="make room or name another folder"), atomic_path(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(OSError, match="odd"), atomic_path(tmp_path / "a"):
        raise OSError(errno.EIO, "odd")
    with pytest.raises(DiskFull), atomic_folder(tmp_path / "b"):
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (lambda p: write_text(p, "x"), lambda p: Lock(p).try_acquire()):
        with pytest.raises(BadInput, match=r"cannot write .*/x: .*name a folder that can be written with --out"):
            write(tmp_path / "file" / "x")
    with pytest.raises(BadInput, match="permission denied"), atomic_path(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "denied")


def test_a_folder_appears_whole_and_never_over_another(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "run") as aside:
        (aside / "a").write_text("1")
        assert names(tmp_path) == [aside.name]
    assert names(tmp_path) == ["run"]
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "run") as aside:
        (aside / "a").write_text("2")
    assert (tmp_path / "run" / "a").read_text() == "1"
    assert names(tmp_path) == ["run"]


def test_json_is_strict(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a", {"x": float("nan")})
    assert names(tmp_path) == []
    write_json(tmp_path / "a", finite({"x": float("nan"), 1: [float("inf"), 2.0, (3, "s", None, True)]}))
    assert json.loads((tmp_path / "a").read_text()) == {"x": None, "1": [None, 2.0, [3, "s", None, True]]}


def test_a_reference_is_frozen_and_knows_its_content(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "content")
    ref = ref_of(tmp_path / "a", "metrics")
    assert Ref.model_validate_json(ref.model_dump_json()) == ref
    assert ref.open() == tmp_path / "a"
    with pytest.raises(ValidationError, match="frozen"):
        ref.uri = "elsewhere"  # type: ignore[misc]
    write_text(tmp_path / "a", "changed")
    with pytest.raises(BadInput, match="has changed"):
        ref.open()
    (tmp_path / "a").unlink()
    with pytest.raises(BadInput, match="is gone"):
        ref.open()


def test_a_lock_has_one_owner_at_a_time(tmp_path: Path) -> None:
    inside, most, told = [0], [0], []

    def work() -> None:
        with Lock(tmp_path / "lock", poll=0.001).held(told.append):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.01)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert told
    assert told[0]["pid"] == os.getpid()
    assert names(tmp_path) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from pipelines.store import Lock\n"
    code += "Lock(Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(600)"
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        assert not Lock(path).try_acquire()
        assert Lock(path).owner()["pid"] == other.pid  # type: ignore[index]
        other.send_signal(signal.SIGKILL)
    assert path.exists()
    with Lock(path).held():
        assert Lock(path).owner()["pid"] == os.getpid()  # type: ignore[index]
    assert not path.exists()


def test_a_pid_used_again_is_not_the_owner(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.try_acquire()
    owner = lock.owner()
    assert owner
    write_json(tmp_path / "lock", {**owner, "started": owner["started"] - 100})
    assert Lock(tmp_path / "lock").try_acquire()


def test_an_owner_out_of_sight_keeps_it_until_it_expires(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_json(path, {"host": "elsewhere", "pid": 1, "started": 0.0, "token": "x"})
    assert not Lock(path, expiry=60).try_acquire()
    os.utime(path, (time.time() - 61,) * 2)
    assert Lock(path, expiry=60).try_acquire()


def test_a_held_lock_is_renewed(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock", expiry=0.5)
    with lock.held():
        old = time.time() - 100
        os.utime(lock.path, (old, old))
        while lock.path.stat().st_mtime < old + 1:
            time.sleep(0.01)


def test_a_lock_that_was_taken_over_is_not_released_by_its_former_owner(tmp_path: Path) -> None:
    former, path = Lock(tmp_path / "lock"), tmp_path / "lock"
    assert former.try_acquire()
    write_json(path, {"host": "elsewhere", "pid": 1, "started": 0.0, "token": "another's"})
    former.release()
    assert path.exists()


def test_a_lock_file_that_cannot_be_read_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("{")
    assert Lock(tmp_path / "lock").try_acquire()
