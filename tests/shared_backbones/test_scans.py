"""The shared recurrences: every block length and width gives the loop; extreme decays stay finite; times stream."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared_backbones.flops import elements_written_in_backward
from shared_backbones.layout import Layout
from shared_backbones.mixers import build_mixer
from shared_backbones.mixers.retention import running_max
from shared_backbones.mixers.scans import decay_scan, delta_scan, scan, selective_scan


def looped(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    states = []
    for a_t, b_t in zip(a, b, strict=True):
        start = a_t * start + b_t
        states.append(start)
    return torch.stack(states)


@given(n=st.integers(1, 90), width=st.sampled_from([1, 3, 700, 5000]), broadcast=st.booleans())
@settings(max_examples=40)
def test_scan_is_the_loop(n: int, width: int, broadcast: bool) -> None:
    g = torch.Generator().manual_seed(n)
    a = torch.rand(n, 1 if broadcast else width, generator=g, dtype=torch.float64).requires_grad_()
    b, start = (torch.randn(*s, width, generator=g, dtype=torch.float64).requires_grad_() for s in ((n,), ()))
    weight = torch.randn(n, width, generator=g, dtype=torch.float64)
    h, want = scan(a, b, start), looped(a, b, start)
    torch.testing.assert_close(h, want)
    got = torch.autograd.grad((h * weight).sum(), [a, b, start])
    for one, other in zip(got, torch.autograd.grad((want * weight).sum(), [a, b, start]), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("log_a", [0.0, -1e-9, -30.0, -1e4])
def test_extreme_decays_stay_finite(log_a: float) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 200, 4) for _ in range(3))
    k = torch.nn.functional.normalize(k, dim=-1).requires_grad_()
    decay = torch.full((1, 2, 200), log_a, requires_grad=True)
    for y, s in (
        decay_scan(q, k, v, decay, torch.zeros(1, 2, 4, 4), 64),
        delta_scan(q, k, v, torch.ones(1, 2, 200), decay, torch.zeros(1, 2, 4, 4), 64),
    ):
        assert y.isfinite().all()
        assert s.isfinite().all()
        for grad in torch.autograd.grad(y.sum(), [k, decay]):
            assert grad.isfinite().all()


def test_no_decay_is_a_decay_of_one() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 70, 4) for _ in range(3))
    zero, state = torch.zeros(2, 3, 70), torch.randn(2, 3, 4, 4)
    for one, other in zip(decay_scan(q, k, v, None, state, 16), decay_scan(q, k, v, zero, state, 16), strict=True):
        torch.testing.assert_close(one, other)


def test_exponential_gates_do_not_overflow() -> None:
    log_a, log_b = torch.full((1, 1, 500), -1e-3), torch.linspace(-300, 300, 500)[None, None]
    assert (log_b - running_max(log_a, log_b, torch.zeros(1, 1))).max() <= 0
    mixer = build_mixer("mlstm", 8)
    with torch.no_grad():
        mixer.gates.bias[mixer.heads :] = 200.0  # type: ignore[union-attr, operator]
    x = torch.randn(1, 300, 8, requires_grad=True)
    y = mixer(x, Layout((300,)))
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["scan", "ssd"])
def test_real_times_stream(name: str) -> None:
    """With uneven times, pieces with their times equal the whole; a longer pause forgets more."""
    torch.manual_seed(0)
    mixer = build_mixer(name, 8, unit=2.0).double()
    x = torch.randn(2, 50, 8, dtype=torch.float64)
    times = torch.rand(2, 50, 1, dtype=torch.float64).cumsum(1)
    whole = mixer(x, Layout((50,), positions=times))
    state, parts = mixer.init_state(2), []  # type: ignore[operator]
    for piece in (slice(0, 7), slice(7, 8), slice(8, 50)):
        at = times[:, piece]
        y, state = mixer.stream(x[:, piece], state, Layout((at.shape[1],), positions=at))  # type: ignore[operator]
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    later = torch.where(torch.arange(50)[None, :, None] < 25, times, times + 100.0)
    assert not torch.allclose(mixer(x, Layout((50,), positions=later))[:, 25:], whole[:, 25:])
    torch.testing.assert_close(mixer(x, Layout((50,), positions=later))[:, :25], whole[:, :25])


def test_selective_scan_writes_linearly() -> None:
    def written(n: int) -> int:
        dt, u = (torch.rand(1, n, 8, requires_grad=True) for _ in range(2))
        b, c = (torch.randn(1, n, 4) for _ in range(2))
        rate, start = -torch.ones(4, 8), torch.zeros(1, 4, 8)
        return elements_written_in_backward(lambda: selective_scan(dt, u, rate, b, c, start, 64)[0].sum())

    assert written(2048) < 2.05 * written(1024)


def test_both_ways_see_the_whole_sequence() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 20, 8, requires_grad=True)
    build_mixer("directions", 8, inner="retention")(x, Layout((20,)))[:, 10].sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum(-1).gt(0).all())
