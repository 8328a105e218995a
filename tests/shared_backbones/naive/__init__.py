"""One reference per mixer, written from its paper's equation in float64: loops over tokens, no cleverness.

A reference is ``f(mixer, x, layout) -> y``: it reads the weights of the mixer and computes the output token by token,
in torch so that gradients can be compared too. What it returns at masked tokens does not matter.

To add one: write it in the module of its family here and name it in that module's ``REFERENCES``. Options beyond the
defaults that must agree as well stand in ``VARIANTS``; the modules are gathered below.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from torch import Tensor

from shared_backbones.layout import Layout
from shared_backbones.mixers.base import Mixer

Reference = Callable[[Any, Tensor, Layout], Tensor]

_MODULES = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]

NAIVE: dict[str, Reference] = {}
VARIANTS: dict[str, list[dict[str, Any]]] = {}
for _module in _MODULES:
    for _name, _reference in getattr(_module, "REFERENCES", {}).items():
        assert _name not in NAIVE, f"two references for {_name}"
        NAIVE[_name] = _reference
    VARIANTS.update(getattr(_module, "VARIANTS", {}))

__all__ = ["NAIVE", "VARIANTS", "Mixer", "Reference"]
