"""Tests mirror the rooms; `typecheck` checks shapes and types while they run."""

from . import typecheck as typecheck
