"""SI-SDR under the best assignment, against a slow reference over all permutations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from domains.audio.separate_scoring import assigned, best_order, pairwise, row_of, si_sdr, swapped


def naive_si_sdr(e: Any, s: Any) -> float:
    """As it is written in the paper, one pair at a time."""
    e, s = e - np.mean(e), s - np.mean(s)
    aim = (np.dot(e, s) / np.dot(s, s)) * s
    return 10 * math.log10(np.sum(aim**2) / np.sum((e - aim) ** 2))


def naive_best(e: Any, s: Any) -> float:
    """The largest mean over every permutation."""
    n = len(s)
    return max(sum(naive_si_sdr(e[p[j]], s[j]) for j in range(n)) / n for p in itertools.permutations(range(n)))


def case(seed: int, speakers: int, n: int = 200, noise: float = 0.5) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    s = random.standard_normal((speakers, n)) + random.standard_normal((speakers, 1))
    e = s[random.permutation(speakers)] * random.uniform(0.2, 3, (speakers, 1)) * random.choice([-1, 1])
    return e + noise * random.standard_normal(e.shape), s


@given(seed=st.integers(0, 10_000), speakers=st.integers(2, 5))
def test_the_best_assignment_is_that_of_all_permutations(seed: int, speakers: int) -> None:
    e, s = case(seed, speakers)
    table = si_sdr(e, s)
    assert np.mean(table[best_order(table), np.arange(speakers)]) == pytest.approx(naive_best(e, s), abs=1e-6)


@given(seed=st.integers(0, 10_000), speakers=st.integers(2, 5), behind=st.integers(0, 50))
def test_the_loss_is_it_too_whatever_stands_behind(seed: int, speakers: int, behind: int) -> None:
    e, s = case(seed, speakers)
    pad = np.full((speakers, behind), 7.0)
    batch = [torch.tensor(np.concatenate([x, pad], 1))[None] for x in (e, s)]
    batch[1][..., 200:] = 0
    reached = float(assigned(pairwise(*batch, torch.tensor([200])))[0])
    ceiling = naive_best(e, s)  # each pair's r becomes r / (1 + r / 1000), at most 30 dB
    table = np.array([[naive_si_sdr(a, b) for b in s] for a in e])
    soft = -10 * np.log10(10 ** (-table / 10) + 1e-3)
    expected = max(np.mean([soft[p[j], j] for j in range(speakers)]) for p in itertools.permutations(range(speakers)))
    assert reached == pytest.approx(expected, abs=1e-3)
    assert reached <= ceiling + 1e-6


def test_it_is_torchmetrics_too() -> None:
    audio = pytest.importorskip("torchmetrics.functional.audio")
    e, s = (torch.tensor(x)[None] for x in case(3, 3))
    best, _ = audio.permutation_invariant_training(
        e, s, lambda a, b: audio.scale_invariant_signal_distortion_ratio(a, b, zero_mean=True), eval_func="max"
    )
    table = si_sdr(e[0].numpy(), s[0].numpy())
    assert float(best[0]) == pytest.approx(table[best_order(table), np.arange(3)].mean(), abs=1e-4)


def test_every_mixture_has_an_assignment_of_its_own() -> None:
    e, s = case(1, 2, noise=0.1)
    pair = torch.tensor(np.stack([e, e[::-1]])), torch.tensor(np.stack([s, s]))
    both = assigned(pairwise(*pair, torch.tensor([200, 200])))
    torch.testing.assert_close(both[0], both[1])
    assert float(both[0]) > 15


@pytest.mark.parametrize("speakers", [2, 4])
def test_silence_as_a_source_gives_finite_gradients_and_asks_for_silence(speakers: int) -> None:
    e, s = (torch.tensor(x)[None] for x in case(0, speakers))
    s[0, 0] = 0
    e = e.requires_grad_()
    loud = assigned(pairwise(e, s, torch.tensor([200])))
    loud.sum().backward()
    assert e.grad is not None
    assert bool(e.grad.isfinite().all())
    table = pairwise(e.detach() * torch.tensor([0.01, *[1.0] * (speakers - 1)])[:, None], s, torch.tensor([200]))
    assert float(table[0, 0, 0]) > float(table[0, 1, 0]) + 10
    nothing = pairwise(torch.zeros(1, 2, 50), torch.zeros(1, 2, 50), torch.tensor([50]))
    assert bool(nothing.isfinite().all())


def test_what_a_mixture_scores() -> None:
    random = np.random.default_rng(0)
    s = random.standard_normal((2, 4000))
    row = row_of(np.stack([s.sum(0)] * 2), s.sum(0), s)
    assert row["si_sdr"] == pytest.approx(row["mixture"])
    assert row["failed"] == 1.0
    better = row_of(s[::-1] + 0.1 * s, s.sum(0), s)
    assert better["si_sdr"] - better["mixture"] == pytest.approx(20, abs=1)
    assert better["failed"] == 0.0
    s[1] = 0
    assert np.isfinite(list(row_of(s + 0.1, s.sum(0) + 0.1 * random.standard_normal(4000), s).values())).all()


def test_swaps_are_found_where_they_are() -> None:
    random = np.random.default_rng(0)
    s = random.standard_normal((2, 10_000))
    e = s[::-1].copy()
    wrong, judged = swapped(e, s, 1000)
    assert (len(wrong), judged) == (0, 10)
    e[:, 3000:5000] = e[::-1, 3000:5000]
    s[0, 9000:] = 0
    wrong, judged = swapped(e, s, 1000)
    assert wrong.tolist() == [3, 4]
    assert judged == 9
