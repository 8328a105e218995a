"""Values as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def short(value: float | int | None, digits: int = 4) -> str:
    """A number for people: at most ``digits`` significant digits, thousands with commas, a dash for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"  # noqa: RUF001
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** max(digits, 5) or abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}" if abs(value) < 1e-4 or abs(value) >= 1e9 else f"{value:,.0f}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def words(name: str) -> str:
    """``window_ridge`` -> "window ridge"."""
    return str(name).replace("_", " ")


def plain(value: Any) -> str:
    """A JSON value for people: lists and mappings in a line, long ones cut."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, (int, float)):
        return str(value) if isinstance(value, int) and abs(value) < 10000 else short(value, 6)
    if isinstance(value, Mapping):
        return "; ".join(f"{words(k)}: {plain(v)}" for k, v in list(value.items())[:24]) + (
            " …" if len(value) > 24 else ""
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(v) for v in value[:16]) + (f" … ({len(value)} in all)" if len(value) > 16 else "")
    return str(value)


def duration(seconds: float | None) -> str:
    """Seconds in the unit that people would use."""
    if seconds is None or not math.isfinite(seconds):
        return "–"  # noqa: RUF001
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
