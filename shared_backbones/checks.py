"""Hold a mixer to the laws of its contract, be it registered here or a user's own.

from shared_backbones.checks import check_mixer
check_mixer(MyMixer)            # or a registered name, with options: check_mixer("window", shift=3)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .cases import LawError, cases
from .laws import LAWS
from .mixers.base import Mixer


def check_law(law: str, mixer: str | type[Mixer], **options: Any) -> dict[str, str]:
    """Hold a mixer to one law in every case that its facts allow: case -> what was measured.

    Raises LawError naming the law, the case and the numbers.
    """
    found: dict[str, str] = {}
    for case in cases(mixer, **options):
        try:
            said = LAWS[law](case)
        except LawError as error:
            raise LawError(f"{case} breaks the law {law!r}: {error}") from error
        except Exception as error:
            raise LawError(f"{case} breaks the law {law!r}: {type(error).__name__}: {error}") from error
        if said:
            found[str(case)] = said
    return found


def check_mixer(
    mixer: str | type[Mixer], laws: Iterable[str] | None = None, **options: Any
) -> dict[str, dict[str, str]]:
    """Hold a registered mixer or a user's own class to all laws (or some): law -> case -> what was measured.

    ``options`` are the mixer's own. Raises one LawError that lists every broken law.
    """
    found, broken = {}, []
    for law in LAWS if laws is None else laws:
        try:
            found[law] = check_law(law, mixer, **options)
        except LawError as error:
            broken.append(str(error))
    if broken:
        raise LawError("\n".join(broken))
    return found


__all__ = ["LAWS", "LawError", "check_law", "check_mixer"]
