"""Public pure-torch forms of the recurrences, loaded from where they lie: nothing of them is part of Cambium.

A folder ``refs`` may hold, each left out with a reason where it is absent:

    fla/<op>/naive.py    fla/ops/<op>/naive.py of github.com/fla-org/flash-linear-attention
                         for <op> in delta_rule, gated_delta_rule, simple_gla
    mambapy/pscan.py     of the package mambapy: pip download mambapy --no-deps, and unzip
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

Form = Callable[..., Tensor]


def module(path: Path) -> ModuleType:
    """A single file as a module."""
    spec = importlib.util.spec_from_file_location(f"reference_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def by_token(x: Tensor) -> Tensor:
    """(B, H, N, ...) -> (B, N, H, ...), or back."""
    return x.transpose(1, 2)


def fla_delta(path: Path) -> dict[str, Form]:
    reference = module(path)

    def scaled(name: str) -> Form:  # the reference scales q by 1/sqrt(D); ours does not
        return lambda q, k, v, beta, log_a: getattr(reference, name)(q * q.shape[-1] ** 0.5, k, v, beta)[0]

    return {"fla per token": scaled("delta_rule_recurrence"), "fla chunks": scaled("delta_rule_chunkwise")}


def fla_gated(path: Path) -> dict[str, Form]:
    chunks = module(path).naive_chunk_gated_delta_rule

    def form(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor) -> Tensor:
        return by_token(chunks(*map(by_token, (q, k, v, log_a, beta)), scale=1.0)[0])

    return {"fla chunks": form}


def fla_linear(path: Path) -> dict[str, Form]:
    chunks = module(path).naive_chunk_simple_gla

    def form(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor) -> Tensor:
        return by_token(chunks(*map(by_token, (q, k, v, log_a)), scale=1.0)[0])

    return {"fla chunks": form}


def mambapy_scan(path: Path) -> dict[str, Form]:
    pscan = module(path).pscan

    def form(dt: Tensor, u: Tensor, rate: Tensor, b: Tensor, c: Tensor) -> Tensor:
        a = torch.exp(dt[..., None] * rate.mT)  # (B, N, C, S)
        return (pscan(a, (dt * u)[..., None] * b[:, :, None]) @ c[..., None])[..., 0]

    return {"mambapy": form}


LOADERS: dict[str, tuple[str, Callable[[Path], dict[str, Form]]]] = {
    "linear": ("fla/simple_gla/naive.py", fla_linear),
    "delta": ("fla/delta_rule/naive.py", fla_delta),
    "gated delta": ("fla/gated_delta_rule/naive.py", fla_gated),
    "scan": ("mambapy/pscan.py", mambapy_scan),
}


def public(refs: Path | None, family: str) -> tuple[dict[str, Form], str]:
    """Forms of a family, and the reason where there is none."""
    if family not in LOADERS:
        return {}, f"{family}: no public form is known"
    name, load = LOADERS[family]
    if refs is None or not (refs / name).is_file():
        return {}, f"{family}: no {name} below --refs, see tests/benchmarks/public.py"
    return load(refs / name), ""
