"""A backtest of many series: seconds and peak memory of rolling origins over a whole panel.

    python -m tests.benchmarks.backtest [--series 10000] [--steps 500] [--lookback 48] [--horizon 12] [--preset NAME]

A made panel of daily waves with noise and gaps is split 70/10/20; repeat-last, seasonal naive and the window ridge are
fitted on training steps, get conformal intervals from validation and are scored at every origin of the test part, for
every series and step ahead. With ``--preset`` a model is built, started in closed form, calibrated and scored the same
way (``linear_skip`` attends over series: quadratic in their number; ``patch_tst`` takes each by itself: linear).
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from domains.task import Manifest
from domains.timeseries.config import ForecastConfig
from domains.timeseries.data import Panel
from domains.timeseries.forecast import Forecast
from shared_backbones.presets import load_preset


def made(series: int, steps: int, gaps: float = 0.01) -> Panel:
    """Hourly waves of a day with own phases and levels, correlated noise, and missing values."""
    random = np.random.default_rng(0)
    t = np.arange(steps)[:, None]
    noise = random.normal(size=(steps, series)).astype(np.float32)
    for i in range(1, steps):
        noise[i] += 0.7 * noise[i - 1]
    values = 10 * random.random(series) + np.sin(2 * np.pi * (t / 24 + random.random(series))) + 0.3 * noise
    mask = random.random((steps, series)) >= gaps
    values[~mask] = np.nan
    times = np.datetime64("2024-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "h")
    empty = np.zeros((steps, 1, 0))
    names = tuple(f"s{i}" for i in range(series))
    return Panel(Manifest("made", "made"), names, times, "h", values, mask, empty, empty, np.zeros((series, 0)))


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lookback", type=int, default=48)
    parser.add_argument("--horizon", type=int, default=12)
    parser.add_argument("--preset")
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    start, imported = time.perf_counter(), peak_mib()
    task = Forecast(ForecastConfig(lookback=a.lookback, horizon=a.horizon, season=24, ets_origins=0))
    panel = made(a.series, a.steps)
    split = task.split(panel)
    fitted = task.fit(panel, split)
    windows = len(task.items(panel, split, fitted, "test"))
    forecasts = windows * a.horizon * a.series
    print(
        f"{a.series} series x {a.steps} steps, {windows} origins, {a.horizon} ahead: {forecasts / 1e6:.1f} M forecasts"
    )
    print(f"panel {panel.values.nbytes / 2**20:.0f} MiB; {imported:.0f} MiB before anything was made")
    scored = dict(task.baselines(panel, split, fitted))
    print(f"baselines: {time.perf_counter() - start:.1f} s, peak {peak_mib():.0f} MiB")
    if a.preset:
        torch.manual_seed(0)
        model = task.build(fitted, load_preset(a.preset)).eval()
        task.initialise(model, panel, split)
        task.calibrate(model, panel, split, fitted)
        scored[a.preset] = task.evidence(model, panel, split, fitted, "test")
        print(f"{a.preset}, started in closed form: {time.perf_counter() - start:.1f} s, peak {peak_mib():.0f} MiB")
    for name, evidence in scored.items():
        m = task.metrics(evidence)
        print(f"  {name}: MSE {m['mse']:.4f}  80 % interval {m['coverage_80']:.1f} %  95 % {m['coverage_95']:.1f} %")


if __name__ == "__main__":
    main()
