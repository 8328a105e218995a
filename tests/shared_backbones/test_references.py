"""Every mixer equals its reference, output and gradients, in float64, with masks, at awkward sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from shared_backbones.cases import Case, cases, collate, make_samples, real_tokens
from shared_backbones.layout import Layout
from shared_backbones.mixers import MIXERS
from tests.shared_backbones.naive import NAIVE, VARIANTS

# One large item, a smaller one, and gaps in both.
ITEMS = {1: [(63,), (40,)], 2: [(7, 5), (3, 4)], 3: [(3, 4, 3), (2, 2, 3)]}
EVERY = [(name, options) for name in MIXERS for options in VARIANTS.get(name, [{}])]


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fresh memory holds NaN, so that reading what was never written shows."""
    torch.use_deterministic_algorithms(True)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(False)


def with_gradients(f: Any, mixer: Any, x: Tensor, layout: Layout, keep: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output at the kept tokens, and the gradients of x and of all parameters of a random weighting of it."""
    x = x.clone().requires_grad_()
    y = f(x, layout)[keep]
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    named = {"x": x, **dict(mixer.named_parameters())}
    loss = (y * weight).sum()
    if not loss.requires_grad:
        return y, {name: torch.zeros_like(p) for name, p in named.items()}
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    return y.detach(), dict(zip(named, grads, strict=True))


def agree(case: Case, x: Tensor, layout: Layout) -> None:
    name = str(case.mixer)
    mixer = case.build(12)
    keep = real_tokens(x, layout)
    got, got_grads = with_gradients(mixer, mixer, x, layout, keep)
    want, want_grads = with_gradients(lambda x, layout: NAIVE[name](mixer, x, layout), mixer, x, layout, keep)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9, msg=lambda m: f"{case}: {m}")
    for key, grad in want_grads.items():
        torch.testing.assert_close(got_grads[key], grad, rtol=1e-6, atol=1e-9, msg=lambda m, k=key: f"{case}, {k}: {m}")


def test_every_mixer_has_a_reference() -> None:
    assert sorted(NAIVE) == sorted(MIXERS)


@pytest.mark.parametrize(("name", "options"), EVERY, ids=[f"{n}-{o}" if o else n for n, o in EVERY])
def test_mixer_equals_its_reference(name: str, options: dict[str, Any]) -> None:
    for case in cases(name, **options):
        samples = make_samples(case, 12, seed=0, extents=ITEMS[case.rank])
        agree(case, *collate(case, samples, axes=samples[0].axes, holes=True))


@pytest.mark.parametrize("name", ["pooling", "fourier", "message"])
def test_mixer_equals_its_reference_at_a_thousand_tokens(name: str) -> None:
    case = next(case for case in cases(name) if case.rank == 1)
    samples = make_samples(case, 12, seed=1, extents=[(1000,)])
    agree(case, *collate(case, samples, axes=(1000,), masked=False))


def test_poison_reaches_fresh_memory() -> None:
    assert torch.empty(3).isnan().all()
