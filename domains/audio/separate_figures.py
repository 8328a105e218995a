"""Pictures and sounds of `audio/separate`: spectrograms beside the mixture, improvements, a minute without swaps."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure

from ..task import Evidence, Split
from .mixtures import MadeItems, Maker, Mixture
from .separate_baselines import spectrum
from .separate_model import Separator
from .separate_predicting import cut, separator, sizes, stitched
from .separate_scoring import best_order, si_sdr
from .separate_source import Talk, items_of

if TYPE_CHECKING:
    from .separate import Separate

HEARD_S = 4.0  # longest sound in a report
MINUTE_S = 60.0
RANGE_DB = 60.0


def _gains(scored: Mapping[str, Evidence]) -> dict[str, Float[np.ndarray, "n"]]:
    return {n: e.columns["si_sdr"] - e.columns["mixture"] for n, e in scored.items()}


def _ordered(task: Separate, model: Separator, row: Mixture) -> Float[np.ndarray, "S T"]:
    """Speakers of a mixture in the order of the sources."""
    found = task.separated(model, [row])[0]
    return found[best_order(si_sdr(found, row[1]))]


def spectrograms(task: Separate, model: Separator, rows: list[tuple[str, Mixture]], rate: int) -> Figure:
    """The mixture, then each speaker as it was and as it was found, of a few mixtures (columns)."""
    speakers = len(rows[0][1][1])
    figure = Figure(figsize=(4.5 * len(rows), 1.5 * (1 + 2 * speakers)), layout="constrained")
    axes = figure.subplots(1 + 2 * speakers, len(rows), squeeze=False, sharex="col", sharey=True)
    for column, (title, (wave, sources)) in zip(axes.T, rows, strict=True):
        found = _ordered(task, model, (wave, sources))
        shown = [("mixture", wave)]
        for s in range(speakers):
            shown += [(f"speaker {s + 1}", sources[s]), (f"speaker {s + 1}, found", found[s])]
        top = 20 * np.log10(np.abs(spectrum(wave, rate)).max() + 1e-9)
        for ax, (name, x) in zip(column, shown, strict=True):
            z = 20 * np.log10(np.abs(spectrum(x, rate)) + 1e-9)
            extent = (0, len(wave) / rate, 0, rate / 2000)
            ax.imshow(z, origin="lower", aspect="auto", extent=extent, vmin=top - RANGE_DB, vmax=top, cmap="magma")
            ax.text(0.01, 0.9, name, transform=ax.transAxes, color="white", va="top", fontsize="small")
        column[0].set_title(title, fontsize="small")
        column[-1].set_xlabel("s")
    for ax in axes[:, 0]:
        ax.set_ylabel("kHz")
    return figure


def improvements(scored: Mapping[str, Evidence]) -> Figure:
    """How much each method improved how many mixtures."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, gain in _gains(scored).items():
        if name == "mixture":
            continue
        share = (np.arange(len(gain)) + 1) / len(gain)
        label = f"{name.replace('_', ' ')}, mean {gain.mean():.1f} dB"
        axes.step(np.sort(gain), share, where="post", label=label, linestyle=":" if scored[name].scope else "-")
    axes.axvline(0, color="0.7", linewidth=0.8)
    axes.set(xlabel="improvement of SI-SDR over the mixture (dB)", ylabel="share of test mixtures up to it")
    axes.legend(fontsize="small")
    return figure


def by_start(scored: Mapping[str, Evidence]) -> Figure:
    """Improvement against how the mixture starts out."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in ("model", "nmf"):
        if name in scored:
            e = scored[name]
            axes.scatter(e.columns["mixture"], _gains({name: e})[name], s=8, label=name)
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.set(xlabel="SI-SDR of the mixture (dB)", ylabel="improvement (dB)")
    axes.legend(fontsize="small")
    return figure


def longer(maker: Maker, seconds: float) -> Maker:
    """The same speakers, in mixtures of ``seconds``."""
    return replace(maker, options=maker.options.model_copy(update={"seconds": seconds}))


def long_mixture(data: Talk, split: Split, task: Separate) -> tuple[int, Mixture]:
    """(rate, a minute of the test speakers), or the longest given mixture."""
    items = items_of(data, split, task.config, "test")
    if not isinstance(items, MadeItems):
        return data.rate, max((items.one(i) for i in range(len(items))), key=lambda row: len(row[0]))
    return data.rate, longer(items.maker, MINUTE_S).draw(np.random.default_rng([task.config.mix.seed, 3]))


def over_time(task: Separate, model: Separator, data: Talk, split: Split) -> Figure:
    """A minute, separated in chunks: who is heard in which channel, second by second."""
    rate, (wave, sources) = long_mixture(data, split, task)
    size, step = sizes(task.config, rate)
    with torch.no_grad():
        found = np.concatenate(list(stitched(cut(wave, size, step), separator(model), step)), 1)
    found = found[best_order(si_sdr(found, sources))]
    n = len(wave) // rate
    figure = Figure(figsize=(11, 1.6 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
    for k, ax in enumerate(axes):
        parts = [slice(i * rate, (i + 1) * rate) for i in range(n)]
        for s in range(len(sources)):
            near = [_cosine(found[k, p], sources[s, p]) for p in parts]
            ax.plot(np.arange(n) + 0.5, near, marker=".", label=f"speaker {s + 1}")
        ax.set(ylim=(-0.1, 1.05), ylabel=f"channel {k + 1}")
    axes[0].legend(fontsize="small", loc="lower right")
    axes[-1].set_xlabel("s")
    figure.suptitle("likeness of each channel to each speaker, second by second: lines that cross are a swap", size=9)
    return figure


def _cosine(a: Any, b: Any) -> float:
    return float(a @ b / max(1e-9, np.sqrt((a @ a) * (b @ b))))


def _chosen(scored: Mapping[str, Evidence]) -> tuple[int, int]:
    """The mixtures with the median and with the least improvement."""
    order = np.argsort(_gains({"model": scored["model"]})["model"], kind="stable")
    return int(order[len(order) // 2]), int(order[0])


def all_figures(
    task: Separate, model: Separator, data: Talk, split: Split, scored: Mapping[str, Evidence]
) -> Mapping[str, Figure]:
    """Title -> picture."""
    items = items_of(data, split, task.config, "test")
    gain = _gains({"model": scored["model"]})["model"]
    usual, worst = _chosen(scored)
    rows = [(f"{what} test mixture: improved by {gain[i]:.1f} dB", items.one(i))
            for what, i in (("the median", usual), ("the worst", worst))]  # fmt: skip
    return {
        "Separated, beside the mixture": spectrograms(task, model, rows, data.rate),
        "Improvement of every mixture": improvements(scored),
        "Improvement against where it starts": by_start(scored),
        "A minute, in chunks": over_time(task, model, data, split),
    }


def wav_bytes(x: Float[np.ndarray, "T"], rate: int) -> bytes:
    """A WAV file of 16 bits, at a tenth below full scale."""
    x = np.asarray(x, np.float64)
    raw = np.round(x * (29490 / max(1e-9, float(np.abs(x).max())))).astype("<i2").tobytes()
    out = io.BytesIO()
    out.write(struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(raw), b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2,
                          16, b"data", len(raw)))  # fmt: skip
    return out.getvalue() + raw


def all_sounds(
    task: Separate, model: Separator, data: Talk, split: Split, scored: Mapping[str, Evidence]
) -> Mapping[str, bytes]:
    """Title -> sound: the mixture with the median improvement, and its speakers as found."""
    i = _chosen(scored)[0]
    wave, sources = items_of(data, split, task.config, "test").one(i)
    found = _ordered(task, model, (wave, sources))
    n = round(HEARD_S * data.rate)
    sounds = {"The median test mixture": wav_bytes(wave[:n], data.rate)}
    return sounds | {f"Speaker {s + 1}, found": wav_bytes(x[:n], data.rate) for s, x in enumerate(found)}
