"""Errors that say what, where, what is allowed and what was got."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CambiumError(Exception):
    """Base of every error that a user can cause and mend; the command line exits with 2 on it."""


class BadRequest(CambiumError):  # noqa: N818 - the sentence reads "raise BadRequest"
    """The request cannot be met: an unknown name, an impossible option, two options that exclude each other."""


class BadInput(CambiumError):  # noqa: N818
    """The data cannot be used: says which file, which place in it, what was got and what to do."""


def unknown(kind: str, got: str, allowed: Iterable[str]) -> BadRequest:
    """An error for an unknown name that suggests the nearest allowed ones."""
    names = sorted(allowed)
    near = difflib.get_close_matches(got, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return BadRequest(f"unknown {kind} {got!r}{hint} (allowed: {', '.join(names)})")
