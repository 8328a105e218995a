"""How near a separated speaker is to the true one, whichever channel it came out of.

SI-SDR of an estimate e of s, both without their means: 10 log10(|a s|^2 / |e - a s|^2) with a = <e, s> / |s|^2, "SDR:
half-baked or well done?" (Le Roux et al. 2019). Shapes: B mixtures, S speakers, T samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..task import Evidence, MetricFact

CEILING = 1e-3  # of the target's energy, added to the error while training: nothing is gained above 30 dB
SILENT = 1e-6  # of the mixture's energy: a target below it is silence
FEW = 3  # speakers; their permutations are all tried

FACTS: Mapping[str, MetricFact] = {
    "si_sdri": MetricFact("dB", "higher", "SI-SDR of the best assignment of channels, minus that of the mixture"),
    "si_sdr": MetricFact("dB", "higher", "SI-SDR of the best assignment of channels, mean over speakers"),
    "si_sdr_mixture": MetricFact("dB", "none", "SI-SDR of the mixture itself: where separation starts"),
    "si_sdri_worse": MetricFact("dB", "higher", "improvement of the speaker of each mixture that gained less"),
    "failed": MetricFact("1", "lower", "share of mixtures with an improvement below 1 dB"),
}


def pairwise(e: Float[Tensor, "B S T"], s: Float[Tensor, "B S T"], length: Int[Tensor, "B"]) -> Float[Tensor, "B S S"]:
    """SI-SDR (dB, at most 30) of every estimate (rows) against every source (columns), of real samples alone.

    Against silence it is how far the estimate lies below the loudest source, at most 30 dB.
    """
    real = (torch.arange(e.shape[2], device=e.device) < length[:, None])[:, None]
    count = length[:, None, None].to(e.dtype)
    e, s = ((x - x.sum(2, keepdim=True) / count).masked_fill(~real, 0.0) for x in (e.masked_fill(~real, 0.0), s))
    ee, ss, dot = e.square().sum(2)[:, :, None], s.square().sum(2)[:, None], e @ s.mT
    most = ss.amax(2, keepdim=True).clamp_min(1e-12)
    silent = ss <= SILENT * most
    target = dot.square() / ss.clamp_min(1e-12 * most)
    ratio = (target + 1e-8 * most) / ((ee - target).clamp_min(0) + CEILING * target + 1e-8 * most)
    quiet = most / (ee + CEILING * most)
    return 10 * torch.log10(torch.where(silent, quiet, ratio))


def assigned(score: Float[Tensor, "B S S"]) -> Float[Tensor, "B"]:
    """Mean score of each mixture's best one-to-one assignment; the gradient flows through the pairs chosen."""
    n = score.shape[1]
    if n <= FEW:
        ways = [torch.stack([score[:, i, j] for i, j in enumerate(p)], 1).mean(1)
                for p in itertools.permutations(range(n))]  # fmt: skip
        return torch.stack(ways, 1).amax(1)
    table = score.detach().double().cpu().numpy()
    chosen = torch.tensor(np.array([linear_sum_assignment(-t)[1] for t in table]), device=score.device)
    return score.gather(2, chosen[..., None]).mean((1, 2))


def si_sdr(e: Float[np.ndarray, "S T"], s: Float[np.ndarray, "R T"]) -> Float[np.ndarray, "S R"]:
    """SI-SDR (dB) of every estimate against every source, in float64; NaN against silence."""
    a, b = (x.astype(np.float64) - x.mean(1, keepdims=True, dtype=np.float64) for x in (e, s))
    power = (b**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = (a @ b.T) / power
        aim = scale**2 * power
        rest = np.maximum((a**2).sum(1)[:, None] - aim, 1e-20 * power)
        found = 10 * np.log10(np.maximum(aim, 1e-20 * power) / rest)
    found[:, power <= SILENT * power.max()] = np.nan
    return found


def best_order(score: Float[np.ndarray, "S S"]) -> Int[np.ndarray, "S"]:
    """For each source the estimate that it is assigned to, with the largest sum; NaN counts nothing."""
    rows, columns = linear_sum_assignment(-np.nan_to_num(score))
    order = np.empty(len(rows), np.int64)
    order[columns] = rows
    return order


def row_of(estimates: Float[np.ndarray, "S T"], mixture: Float[np.ndarray, "T"], sources: Any) -> dict[str, float]:
    """Additive statistics of one mixture."""
    table = si_sdr(estimates, sources)
    reached = table[best_order(table), np.arange(len(sources))]
    start = si_sdr(mixture[None], sources)[0]
    gain = float(np.nanmean(reached - start))
    return {
        "si_sdr": float(np.nanmean(reached)),
        "mixture": float(np.nanmean(start)),
        "worse": float(np.nanmin(reached - start)),
        "failed": float(gain < 1.0),
    }


def evidence_of(rows: Sequence[Mapping[str, float]], scope: str = "") -> Evidence:
    """A row per mixture."""
    columns = {k: np.array([r[k] for r in rows], np.float64) for k in rows[0]}
    return Evidence(np.arange(len(rows)), columns, scope=scope)


def separation_scores(evidence: Evidence) -> dict[str, float]:
    """Metrics named as in FACTS."""
    total = float(len(evidence.unit) if evidence.weight is None else evidence.weight.sum())
    mean = {k: float(evidence.sum(k)) / total for k in evidence.columns}
    return {
        "si_sdri": mean["si_sdr"] - mean["mixture"],
        "si_sdr": mean["si_sdr"],
        "si_sdr_mixture": mean["mixture"],
        "si_sdri_worse": mean["worse"],
        "failed": mean["failed"],
    }


def swapped(
    estimates: Float[np.ndarray, "S T"], sources: Float[np.ndarray, "S T"], window: int
) -> tuple[Int[np.ndarray, "W"], int]:
    """(windows in which another assignment of channels is better than that of the whole, windows judged).

    Windows of ``window`` samples; one in which a speaker is silent tells nothing and is not judged.
    """
    whole = best_order(si_sdr(estimates, sources))
    usual = np.sqrt((sources**2).mean(1))
    wrong, judged = [], 0
    for k in range(sources.shape[1] // window):
        part = slice(k * window, (k + 1) * window)
        if (np.sqrt((sources[:, part] ** 2).mean(1)) < 0.1 * usual).any():
            continue
        judged += 1
        if (best_order(si_sdr(estimates[:, part], sources[:, part])) != whole).any():
            wrong.append(k)
    return np.array(wrong, np.int64), judged
