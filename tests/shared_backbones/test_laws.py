"""Every registered mixer keeps every law; every kind of broken mixer is found out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shared_backbones.checks import LAWS, check_law
from shared_backbones.mixers import MIXERS
from tests.shared_backbones.naive import VARIANTS

EVERY = [
    (name, options, law)
    for name in MIXERS
    for options in [{}, *(o for o in VARIANTS.get(name, []) if o)]
    for law in LAWS
    if law != "export"  # test_export_law.py
]


@pytest.mark.parametrize(("name", "options", "law"), EVERY, ids=[f"{n}-{o or 'defaults'}-{law}" for n, o, law in EVERY])
def test_mixer_keeps_the_law(name: str, options: dict[str, Any], law: str) -> None:
    check_law(law, name, **options)


def needed(law: str) -> Iterator[str]:
    """Mixers to which a law has something to say."""
    yield from (name for name in ("attention", "linear", "message", "pooling") if check_law(law, name))


@pytest.mark.parametrize("law", [law for law in LAWS if law != "export"])
def test_no_law_is_silent_for_all(law: str) -> None:
    assert next(needed(law), None)
