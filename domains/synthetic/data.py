"""Strings of tokens with questions in them, made or read from a file.

Shapes: n strings of L tokens. A label of -1 is no question.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from domains.task import Manifest
from shared_backbones.errors import BadInput

NONE = -1
KEYS = ("tokens", "labels", "mask", "vocab", "classes")


@dataclass(frozen=True)
class Strings:
    """Made by a generator: what is seen, what is asked, which tokens are real."""

    tokens: Int[np.ndarray, "n L"]
    labels: Int[np.ndarray, "n L"]
    vocab: int  # tokens are 0 .. vocab - 1
    classes: int  # labels are 0 .. classes - 1
    mask: Bool[np.ndarray, "n L"] | None = None  # None: all tokens are real
    guess: float | None = None  # accuracy of choosing among what the string itself offers


@dataclass(frozen=True)
class StringData:
    """Strings with their manifest: what a task opens."""

    manifest: Manifest
    strings: Strings


Make = Callable[[int, np.random.Generator], Strings]


def open_strings(source: str, count: int, make: Make) -> StringData:
    """``simulated`` or ``simulated:SEED``, or a file: an .npz of integer arrays ``tokens`` and ``labels`` (n, L), -1
    where nothing is asked, the numbers ``vocab`` and ``classes``, and if need be ``mask`` (n, L). Raises BadInput.
    """
    name, _, seed = source.partition(":")
    if name == "simulated":
        if seed and not seed.isdecimal():
            raise BadInput(f"{source}: the seed after the colon must be a whole number, such as simulated:1")
        strings, licence = make(count, np.random.default_rng(int(seed or 0))), "CC0: made here"
    else:
        strings, licence = read_strings(Path(source)), "not stated"
    digest = hashlib.sha256(strings.tokens.tobytes() + strings.labels.tobytes())
    digest.update(b"" if strings.mask is None else strings.mask.tobytes())
    facts = {
        "strings": len(strings.tokens),
        "tokens": strings.tokens.shape[1],
        "vocabulary": strings.vocab,
        "classes": strings.classes,
        "questions": int((strings.labels >= 0).sum()),
    }
    return StringData(Manifest(source, digest.hexdigest(), licence, facts), strings)


def read_strings(path: Path) -> Strings:
    """Strings of a file; see :func:`open_strings`. Raises BadInput that says what is wrong and where."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file; give an .npz of tokens and labels, or `simulated`")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {key: archive[key] for key in KEYS if key in archive}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: cannot be read as .npz ({error}); save it with numpy.savez") from None
    missing = [key for key in KEYS if key not in found and key != "mask"]
    if missing:
        raise BadInput(f"{path}: holds no {', '.join(missing)}; it needs tokens, labels, vocab and classes")
    tokens, labels = found["tokens"], found["labels"]
    if tokens.ndim != 2 or labels.shape != tokens.shape:
        raise BadInput(f"{path}: tokens and labels must be two (n, L) arrays, got {tokens.shape} and {labels.shape}")
    sizes = {key: _number(path, key, found[key]) for key in ("vocab", "classes")}
    _within(path, "tokens", tokens, 0, sizes["vocab"])
    _within(path, "labels", labels, NONE, sizes["classes"])
    mask = found.get("mask")
    if mask is not None and (mask.dtype != bool or mask.shape != tokens.shape):
        raise BadInput(f"{path}: mask must be True or False, {tokens.shape}; got {mask.dtype} {mask.shape}")
    if not (labels >= 0).any():
        raise BadInput(f"{path}: no label is 0 or more, so nothing is asked")
    return Strings(tokens.astype(np.int64), labels.astype(np.int64), **sizes, mask=mask)


def _number(path: Path, key: str, value: np.ndarray) -> int:
    if value.ndim or value.dtype.kind not in "iu" or value < 1:
        raise BadInput(f"{path}: {key} must be one whole number from 1 on, got {value!r}")
    return int(value)


def _within(path: Path, key: str, array: np.ndarray, low: int, end: int) -> None:
    if array.dtype.kind not in "iu":
        raise BadInput(f"{path}: {key} must be whole numbers, got {array.dtype}")
    wrong = (array < low) | (array >= end)
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise BadInput(f"{path}: {key}[{row}, {column}] is {array[row, column]}, allowed are {low} .. {end - 1}")
