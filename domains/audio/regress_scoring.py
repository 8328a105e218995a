"""Numbers told of clips against those given: concordance, errors, and what a sceptic would try first.

Shapes: n clips, D numbers of each, S statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float64, Int

from ..scoring import value_evidence
from ..task import Evidence, MetricFact, Split
from .baselines import clip_statistics
from .regress_source import Rated

FACTS: Mapping[str, MetricFact] = {
    "ccc": MetricFact("1", "higher", "concordance correlation 2 cov / (var + var + (mean - mean)^2), mean of targets"),
    "ccc_*": MetricFact("1", "higher", "of one target"),
    "pearson": MetricFact("1", "higher", "correlation, mean over targets"),
    "mae": MetricFact("1", "lower", "mean absolute error, in deviations of training, mean over targets"),
    "rmse": MetricFact("1", "lower", "root of the mean squared error, in deviations of training, mean over targets"),
}  # fmt: skip


def evidence_of(
    rows: Int[np.ndarray, "n"],
    truth: Float64[np.ndarray, "n D"],
    told: Float64[np.ndarray, "n D"],
    scale: Float64[np.ndarray, "D"],
    targets: Sequence[str],
) -> Evidence:
    """One row per clip, with all that concordance is made of. ``scale``: deviations of training."""
    columns = {"n": np.ones(len(rows)), "case": rows.astype(np.float64)}
    for name, y, p in zip(targets, (truth / scale).T, (told / scale).T, strict=True):
        pieces = {"y": y, "p": p, "yy": y * y, "pp": p * p, "yp": y * p, "abs": np.abs(y - p)}
        columns |= {f"{piece} {name}": value for piece, value in pieces.items()}
    return Evidence(value_evidence(rows, truth[:, 0], told[:, 0]).unit, columns)


def scores(evidence: Evidence) -> dict[str, float]:
    """Metrics named as in FACTS. A constant guess agrees with nothing: its concordance is 0."""
    targets = [name[2:] for name in evidence.columns if name.startswith("y ")]
    each = [_scores_of(evidence, name) for name in targets]
    mean = {name: float(np.mean([one[name] for one in each])) for name in ("ccc", "pearson", "mae", "rmse")}
    return {**mean, **{f"ccc_{name}": one["ccc"] for name, one in zip(targets, each, strict=True)}}


def _scores_of(evidence: Evidence, name: str) -> dict[str, float]:
    n = float(evidence.sum("n"))
    y, p, yy, pp, yp, absolute = (float(evidence.sum(f"{k} {name}")) / n for k in ("y", "p", "yy", "pp", "yp", "abs"))
    vy, vp, cov = max(yy - y * y, 0.0), max(pp - p * p, 0.0), yp - y * p
    below = vy + vp + (y - p) ** 2
    return {
        "ccc": 2 * cov / below if below > 1e-12 else float("nan"),
        "pearson": cov / (vy * vp) ** 0.5 if vy * vp > 1e-18 else 0.0,
        "mae": absolute,
        "rmse": max(yy + pp - 2 * yp, 0.0) ** 0.5,
    }


def baselines(data: Rated, split: Split, scale: Float64[np.ndarray, "D"]) -> dict[str, Evidence]:
    """MFCC statistics with ridge regression and with a support vector machine, chosen on validation; the mean."""
    from sklearn.linear_model import Ridge
    from sklearn.multioutput import MultiOutputRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    x: dict[str, Float[np.ndarray, "_ S"]] = {p: clip_statistics(data.clips, r) for p, r in split.parts.items()}
    y = {p: data.values[r] / scale for p, r in split.parts.items()}
    made = {
        "mfcc_ridge": [Ridge(alpha=a) for a in (1.0, 10.0, 100.0, 1000.0)],
        "mfcc_svm": [MultiOutputRegressor(SVR(C=c)) for c in (0.3, 1.0, 3.0)],
    }
    told = {"mean_of_training": np.tile(y["train"].mean(0), (len(y["test"]), 1))}
    for name, fits in made.items():
        fitted = [make_pipeline(StandardScaler(), f).fit(x["train"], y["train"]) for f in fits]
        best = min(fitted, key=lambda f: float(((f.predict(x["val"]) - y["val"]) ** 2).mean()))
        told[name] = best.predict(x["test"]).reshape(len(y["test"]), -1)
    rows = split.parts["test"]
    return {name: evidence_of(rows, data.values[rows], p * scale, scale, data.targets) for name, p in told.items()}
