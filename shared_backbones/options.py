"""Options of a class as its constructor states them: names, defaults and plain types."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from .errors import BadRequest, unknown


def constructors(cls: type) -> list[Any]:
    """The constructor of ``cls``, and those of its bases as long as each hands ``**rest`` on to the next."""
    found = []
    for base in cls.__mro__:
        if "__init__" in vars(base):
            found.append(vars(base)["__init__"])
            if all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(found[-1]).parameters.values()):
                break
    return found


def options_of(cls: type) -> dict[str, Any]:
    """The options that a mixer or channel class takes after ``dim``, with their defaults.

    ``**rest`` in a constructor stands for the options of the class that it extends.
    """
    options: dict[str, Any] = {}
    for init in constructors(cls):
        own = [p for p in list(inspect.signature(init).parameters.values())[2:] if p.kind is not p.VAR_KEYWORD]
        options |= {p.name: p.default for p in own if p.name not in options}
    return options


def hints_of(cls: type) -> dict[str, Any]:
    """The annotated types of :func:`options_of`."""
    hints: dict[str, Any] = {}
    for init in constructors(cls):
        hints = typing.get_type_hints(init) | hints
    return hints


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value may stand for an annotated type; annotations beyond the plain ones accept anything."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return isinstance(value, (tuple, list)) and all(_fits(v, inner) for v in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return value is None if hint is type(None) else isinstance(value, hint)
    return True


def check_options(what: str, cls: type, options: Mapping[str, Any]) -> None:
    """Raise BadRequest for an option that ``cls`` does not take, or whose value has another type than it states."""
    allowed, hints = options_of(cls), hints_of(cls)
    for option, value in options.items():
        if option not in allowed:
            raise unknown(f"option of {what}", option, allowed)
        hint = hints.get(option, Any)
        if not _fits(value, hint):
            wanted = getattr(hint, "__name__", None) if typing.get_origin(hint) is None else str(hint)
            raise BadRequest(f"option {option!r} of {what} must be {wanted}, got {value!r}")


def as_declared(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with YAML's lists as tuples, where ``cls`` takes a tuple."""
    hints = hints_of(cls)

    def takes_tuple(hint: Any) -> bool:
        parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        return any(typing.get_origin(part) is tuple for part in parts)

    return {k: tuple(v) if isinstance(v, list) and takes_tuple(hints.get(k)) else v for k, v in options.items()}
