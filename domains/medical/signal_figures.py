"""Pictures of `medical/signal`: stretches with what was missed, kinds, timing, and what noise does to each method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ..pictures import panel
from ..task import Evidence, Fitted, Split
from .beats import matched
from .pan_tompkins import detect
from .signal_data import Hearts
from .signal_model import BeatNet
from .signal_scoring import beat_scores

if TYPE_CHECKING:
    from .signal import Signal

SHOWN = 4  # stretches
SNR_DB = (24.0, 12.0, 6.0, 0.0, -6.0)
NOISY = 30  # stretches of the test part under noise


def strips(task: Signal, model: BeatNet, data: Hearts, rows: Any, evidence: Evidence) -> Figure:
    """The stretches with the most mistakes: wave, true beats, found beats."""
    wrong = evidence.columns["misses"] + evidence.columns["alarms"]
    chosen = np.argsort(-wrong, kind="stable")[:SHOWN]
    figure = Figure(figsize=(11, 1.9 * len(chosen)), layout="constrained")
    for axes, i in zip(figure.subplots(len(chosen), 1, squeeze=False)[:, 0], chosen, strict=True):
        r, a, b = rows[i].tolist()
        heart = data.hearts[r]
        at = np.arange(a, b) / data.rate
        axes.plot(at, heart.wave[a:b], linewidth=0.6, color="0.3")
        found = task.heard(model, data, rows[i : i + 1])[r][0]
        truth = heart.beats[(heart.beats >= a / data.rate) & (heart.beats < b / data.rate)]
        pairs = matched(truth, found, task.config.tolerance_s)
        top = float(np.nanmax(heart.wave[a:b]))
        axes.plot(truth[pairs >= 0], np.full((pairs >= 0).sum(), top), "v", color="tab:green", markersize=4)
        axes.plot(truth[pairs < 0], np.full((pairs < 0).sum(), top), "v", color="tab:red", markersize=6)
        false = np.setdiff1d(np.arange(len(found)), pairs)
        axes.plot(found[false], np.full(len(false), top), "x", color="tab:orange")
        axes.set_ylabel("mV", fontsize="small")
        axes.set_title(f"{heart.name}: {int(wrong[i])} mistakes", fontsize="small")
    axes.set_xlabel("s; green found, red missed, orange false alarm")
    return figure


def kinds_picture(evidence: Evidence, kinds: list[str]) -> Figure:
    """Beats by true and told AAMI class."""
    table = evidence.columns["kinds"].sum(0)
    figure, axes = panel(5, 4)
    axes.imshow(table / np.maximum(table.sum(1, keepdims=True), 1), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for i, j in np.ndindex(*table.shape):
        axes.text(j, i, f"{table[i, j]:g}", ha="center", va="center")
    axes.set_xticks(range(len(kinds) + 1), [*kinds, "missed"])
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set(xlabel="told", ylabel="true", title="beats of the test part by AAMI class")
    return figure


def rhythms_picture(evidence: Evidence, names: list[str]) -> Figure:
    """Minutes by true and told rhythm; the last row: rhythms that training did not hold."""
    table = evidence.columns["rhythm"].sum(0) / 60
    figure, axes = panel(5, 4)
    axes.imshow(table / np.maximum(table.sum(1, keepdims=True), 1e-9), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for i, j in np.ndindex(*table.shape):
        axes.text(j, i, f"{table[i, j]:.1f}", ha="center", va="center")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names) + 1), [*names, "other"])
    axes.set(xlabel="told", ylabel="true", title="minutes of the test part by rhythm")
    return figure


def noisy(data: Hearts, rows: Any, snr_db: float) -> Hearts:
    """White noise over the stretches given, so far below the power of each one's own wave."""
    random = np.random.default_rng(0)
    hearts = list(data.hearts)
    for r, a, b in rows.tolist():
        wave = hearts[r].wave.copy()
        power = float(np.nanvar(wave[a:b]))
        wave[a:b] += random.normal(0, np.sqrt(power / 10 ** (snr_db / 10)), b - a).astype(np.float32)
        hearts[r] = replace(hearts[r], wave=wave)
    return replace(data, hearts=tuple(hearts))


def noise_scores(task: Signal, model: BeatNet, data: Hearts, rows: Any, fitted: Fitted) -> dict[str, list[float]]:
    """Method -> F1 on the wave itself and under ever more white noise (SNR_DB). Nothing is chosen by it."""
    from .signal import runs_of

    found: dict[str, list[float]] = {"model": [], "pan_tompkins": []}
    for snr in (None, *SNR_DB):
        heard = data if snr is None else noisy(data, rows, snr)
        own = task.heard(model, heard, rows)
        classical: dict[int, Any] = {}
        for r, a, b in runs_of(rows):
            times = a / data.rate + detect(heard.hearts[r].wave[a:b], data.rate)
            before = classical.get(r, np.zeros(0))
            classical[r] = np.concatenate([before, times])
        zeros = {r: (t, np.zeros(len(t), np.int64)) for r, t in classical.items()}
        for name, beats in (("model", own), ("pan_tompkins", zeros)):
            found[name].append(beat_scores(task._evidence(heard, rows, fitted, beats))["f1"])
    return found


def noise_picture(scores: Mapping[str, list[float]]) -> Figure:
    figure, axes = panel(6, 4)
    for name, values in scores.items():
        axes.plot(range(len(values)), values, "o-", label=name)
    axes.set_xticks(range(len(SNR_DB) + 1), ["as it is", *(f"{s:g} dB" for s in SNR_DB)])
    axes.set(xlabel="signal over added white noise", ylabel="F1", title="test part under noise")
    axes.legend()
    return figure


def all_figures(
    task: Signal, model: BeatNet, data: Hearts, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
) -> Mapping[str, Figure]:
    """Title -> picture."""
    rows = split.parts["test"]
    found = {
        "Stretches with mistakes": strips(task, model, data, rows, scored["model"]),
        "Under noise": noise_picture(noise_scores(task, model, data, rows[:NOISY], fitted)),
    }
    if fitted["kinds"]:
        found["Kinds of beats"] = kinds_picture(scored["model"], list(fitted["kinds"]))
    if fitted.get("rhythms"):
        found["Rhythms"] = rhythms_picture(scored["model"], list(fitted["rhythms"]))
    return found
