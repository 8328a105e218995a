"""Options of a class: those of its constructor, and through ``**rest`` those of the class that it extends."""

from __future__ import annotations

from typing import Any

import pytest

from shared_backbones.errors import BadRequest
from shared_backbones.options import as_declared, check_options, options_of


class Plain:
    def __init__(self, dim: int, heads: int | None = None, axes: tuple[int, ...] = ()) -> None:
        self.heads, self.axes = heads, axes


class Longer(Plain):
    def __init__(self, dim: int, keep: int = 3, **rest: Any) -> None:
        super().__init__(dim, **rest)
        self.keep = keep


class Closed(Longer):
    def __init__(self, dim: int, heads: int = 2) -> None:
        super().__init__(dim, heads=heads)


def test_rest_stands_for_the_options_of_the_base() -> None:
    assert options_of(Longer) == {"keep": 3, "heads": None, "axes": ()}
    assert options_of(Closed) == {"heads": 2}
    check_options("x", Longer, {"heads": 4, "keep": 2})
    assert as_declared(Longer, {"axes": [0, 1]}) == {"axes": (0, 1)}


@pytest.mark.parametrize("wrong", [{"rest": 1}, {"heads": "two"}, {"keep": 1.5}])
def test_what_is_no_option_or_no_value_of_one_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        check_options("x", Longer, wrong)
