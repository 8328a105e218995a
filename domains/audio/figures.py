"""Pictures of `audio/classify`: clips as waveform and frames with what was heard, mistakes, calibration, groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.special import ndtri

from ..pictures import calibration_picture, confusion_picture, panel
from ..scoring import softmax
from ..task import Evidence, Fitted, Split
from .clips import Clips
from .items import ClipItems, collate
from .model import AudioClassifier, AudioNet
from .spotting import trade_off

if TYPE_CHECKING:
    from .classify import Classify

SHOWN = 6  # clips
STRIP_S = 12.0  # longest strip


def clip_pictures(model: AudioClassifier, data: Clips, rows: Any, z: Any, classes: list[str]) -> Figure:
    """Waveform and frames of a few clips: those that the model is most wrong about first, then right ones."""
    p = softmax(z / float(model.temperature))
    truth = data.labels[rows]
    cost = -np.log(np.maximum(p[np.arange(len(rows)), truth], 1e-12))
    wrong = np.flatnonzero(p.argmax(1) != truth)
    chosen = [*wrong[np.argsort(-cost[wrong])][: SHOWN // 2]]
    right = np.flatnonzero(p.argmax(1) == truth)
    chosen += [int(i) for i in right[:: max(1, len(right) // SHOWN)] if i not in chosen][: SHOWN - len(chosen)]
    figure = Figure(figsize=(2.4 * len(chosen), 4.2), layout="constrained")
    axes = figure.subplots(2, len(chosen), squeeze=False)
    for column, i in zip(axes.T, chosen, strict=True):
        wave = data.waves[int(rows[i])]
        guess = int(p[i].argmax())
        column[0].plot(np.arange(len(wave)) / data.rate, wave, linewidth=0.4)
        colour = "tab:green" if guess == truth[i] else "tab:red"
        said = f"true {classes[truth[i]]}, heard {classes[guess]} ({p[i, guess]:.2f})"
        column[0].set_title(said, fontsize="small", color=colour)
        _frames(column[1], model, wave)
        column[1].set_xlabel(f"s\n{data.names[int(rows[i])]}", fontsize="x-small")
    axes[0, 0].set_ylabel("amplitude")
    axes[1, 0].set_ylabel("band")
    return figure


def _frames(axes: Any, model: AudioNet, wave: Any) -> None:
    with torch.no_grad():
        batch = collate([wave])
        frames, _ = model.front_end(batch["wave"].to(model.mean.device), batch["length"].to(model.mean.device))
    seconds = frames.shape[1] * model.front_end.hop / model.front_end.rate
    axes.imshow(frames[0].T.cpu().numpy(), origin="lower", aspect="auto", extent=(0, seconds, 0, frames.shape[2]))


def strip(model: AudioClassifier, data: Clips, rows: Any, classes: list[str]) -> Figure:
    """Test clips one after the other, as a recording: waveform, frames, and the classes' probabilities over time."""
    pieces: list[Any] = []
    marks: list[tuple[float, str]] = []
    for i in rows[:: max(1, len(rows) // 12)]:
        if sum(map(len, pieces)) > STRIP_S * data.rate:
            break
        marks.append((sum(map(len, pieces)) / data.rate, classes[int(data.labels[i])]))
        gain = 0.1 / max(1e-6, float(np.sqrt(np.mean(data.waves[int(i)] ** 2))))
        pieces += [data.waves[int(i)] * np.float32(gain), np.zeros(data.rate // 5, np.float32)]
    wave = np.concatenate(pieces)
    size = max(1, int(np.median([len(w) for w in pieces[::2]])))
    starts = list(range(0, max(1, len(wave) - size), max(1, size // 4)))
    with torch.no_grad():
        batch = collate([wave[s : s + size] for s in starts])
        z = model(batch["wave"].to(model.mean.device), batch["length"].to(model.mean.device)).cpu().numpy()
    p = softmax(z / float(model.temperature))
    figure = Figure(figsize=(11, 6), layout="constrained")
    top, middle, low = figure.subplots(3, 1, sharex=True)
    top.plot(np.arange(len(wave)) / data.rate, wave, linewidth=0.4)
    for at, name in marks:
        top.axvline(at, color="0.7", linewidth=0.6)
        top.text(at, top.get_ylim()[1], name, va="top", fontsize="small")
    _frames(middle, model, wave)
    edges = np.array([*starts, starts[-1] + max(1, size // 4)]) / data.rate + size / 2 / data.rate
    low.pcolormesh(edges, np.arange(len(classes) + 1), p.T, vmin=0, vmax=1, cmap="Blues")
    low.set_yticks(np.arange(len(classes)) + 0.5, classes, fontsize="x-small")
    low.set(xlabel="s", ylabel="probability of")
    top.set_title("test clips in a row, true classes above; windows centred where they are drawn", fontsize="small")
    return figure


def by_group(data: Clips, scored: Mapping[str, Evidence]) -> Figure:
    """Accuracy per speaker or source of the test part."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(scored)
    names: list[str] = []
    for k, (name, evidence) in enumerate(scored.items()):
        c = evidence.columns
        group = np.array([data.groups[int(i)] or "(none)" for i in c["case"]])
        names = sorted(set(group))
        right = [float((c["truth"] == c["guess"])[group == g].mean()) for g in names]
        axes.bar(np.arange(len(names)) + k * width, right, width, label=name)
    axes.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names)
    axes.set(ylim=(0, 1), ylabel="accuracy", title="by speaker or source, test part")
    axes.legend(fontsize="small")
    return figure


def detection_trade_off(p: Any, truth: Any) -> Figure:
    """Misses against false alarms of every class against the rest, pooled over the test clips, on normal deviates."""
    hit = np.zeros(p.shape, bool)
    hit[np.arange(len(truth)), truth] = True
    thresholds = np.unique(np.quantile(p, np.linspace(0, 1, 400)))
    missed = np.array([(p[hit] < t).mean() for t in thresholds])
    false = np.array([(p[~hit] >= t).mean() for t in thresholds])
    least = 0.5 / len(truth)
    figure, axes = panel()
    axes.plot(*(ndtri(np.clip(x, least, 1 - least)) for x in (false, missed)))
    axes.axline((0, 0), slope=1, color="0.8", linewidth=0.8)
    ticks = [t for t in (0.001, 0.01, 0.05, 0.2, 0.5) if t >= least]
    axes.set_xticks(ndtri(ticks), [f"{t:g}" for t in ticks])
    axes.set_yticks(ndtri(ticks), [f"{t:g}" for t in ticks])
    axes.set(xlabel="false alarms, share of clips of other classes", ylabel="misses, share of clips of the class")
    axes.set_title("each class against the rest, test clips", fontsize="small")
    return figure


def spotting_picture(evidence: Evidence, per_hour: float) -> Figure:
    """Keywords missed against false alarms per hour of a stream that holds none."""
    missed, alarms = trade_off(evidence)
    hours = float(evidence.sum("stream_s")) / 3600
    figure, axes = panel()
    axes.plot(np.maximum(alarms, 0.3 / max(hours, 1e-9)), missed, ".-")
    axes.axvline(per_hour, color="0.7")
    axes.set(
        xscale="log", ylim=(0, 1), xlabel="false alarms per hour (none: left end)", ylabel="share of keywords missed"
    )
    axes.set_title(f"thresholds from low to high, {hours:.2g} hours without a keyword", fontsize="small")
    return figure


def all_figures(
    task: Classify, model: AudioClassifier, data: Clips, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
) -> Mapping[str, Figure]:
    """Title -> picture."""
    rows, classes = split.parts["test"], [str(c) for c in fitted["classes"]]
    z = task.logits(model, ClipItems(data, rows)).numpy()
    spots = "alarms" in scored["model"].columns
    spotted = spotting_picture(scored["model"], task.config.spot.per_hour) if spots else None
    return {
        "Clips, and what was heard": clip_pictures(model, data, rows, z, classes),
        "Over time": strip(model, data, rows, classes),
        "Mistakes": confusion_picture(scored["model"], tuple(classes)),
        "Calibration": calibration_picture(scored["model"]),
        "By speaker": by_group(data, scored),
        "Detection error trade-off": detection_trade_off(softmax(z / float(model.temperature)), data.labels[rows]),
        **({} if spotted is None else {"Keywords missed, false alarms per hour": spotted}),
    }
