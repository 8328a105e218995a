"""What a process runs under: threads, allocator, precision. Set once at an entry point, never at import."""

from __future__ import annotations

import ctypes
import platform
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from .errors import BadRequest, unknown

PRECISIONS = ("32", "bf16-mixed")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_LARGEST = 32 * 2**20  # bytes; glibc refuses a higher threshold
_KEEP = 512 * 2**20  # bytes of free memory that stay with the process


def keep_memory() -> str:
    """Ask glibc to reuse big buffers instead of mapping fresh pages for each, and say what came of it.

    Every tensor above 128 kB is otherwise mapped, faulted in page by page and unmapped again on each operation.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return "default"
    libc = ctypes.CDLL(None)
    done = libc.mallopt(_MMAP_THRESHOLD, _LARGEST) and libc.mallopt(_TRIM_THRESHOLD, _KEEP)
    return f"glibc, buffers up to {_LARGEST // 2**20} MB reused" if done else "default"


def configure(threads: int | None = None, precision: str = "32", allocator: bool = True) -> dict[str, Any]:
    """Set threads, allocator and precision; return what to record with every result.

    ``threads``: of torch and of the pools of every other numerical library that is loaded; None leaves them.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if threads is not None:
        if threads < 1:
            raise BadRequest(f"threads must be at least 1, got {threads}")
        threadpool_limits(threads)  # not as a context: it holds until the process ends
        torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    return {
        "threads": torch.get_num_threads(),
        "precision": precision,
        "allocator": keep_memory() if allocator else "default",
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }


def autocast(precision: str, device: str = "cpu") -> AbstractContextManager[Any]:
    """The context in which a model of this precision is called."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    return nullcontext() if precision == "32" else torch.autocast(device, dtype=torch.bfloat16)
