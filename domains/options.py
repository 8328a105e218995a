"""The ``model:`` options of a preset as a task understands them, checked in one way for all tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from shared_backbones.errors import BadRequest, unknown

M = TypeVar("M", bound=BaseModel)


def model_options(kind: type[M], given: Mapping[str, Any], whose: str) -> M:
    """``given`` as ``kind``; raises BadRequest naming the option, what is allowed and what was got.

    whose: the task in words, such as "timeseries/forecast".
    """
    for name in given:
        if name not in kind.model_fields:
            raise unknown(f"model option of {whose}", name, kind.model_fields)
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadRequest(f"model.{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from None
