"""Beats and rhythms of recordings by an exported `medical/signal`, without Cambium. For research use only.

    python run_signal.py 100.hea                    # 100_beats.csv (and 100_rhythms.csv) beside this file
    python run_signal.py wave.csv --rate 250        # a column of samples, empty or nan in gaps; or a .npy of one axis

Lies beside model.onnx or model.pt2 and description.json. Needs numpy and scipy; wfdb for .hea files; and onnxruntime or
torch. Long recordings go through in overlapping stretches.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from collections.abc import Callable, Iterator
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

AT_ONCE = 16  # windows


def samples_of(path: Path, lead: int, rate: float | None) -> tuple[Any, float]:
    """(samples, per second); NaN in gaps."""
    if path.suffix == ".hea":
        import wfdb

        found: Any = wfdb.rdrecord(str(path.with_suffix("")), channels=[lead], physical=True)
        return np.asarray(found.p_signal[:, 0], np.float32), float(found.fs)
    if rate is None:
        raise SystemExit(f"{path}: its rate is not in the file; give --rate")
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False).astype(np.float32), rate
    lines = path.read_text(encoding="utf-8").splitlines()
    return np.array([float(line.strip() or "nan") for line in lines], np.float32), rate


def at_rate(x: Any, rate: float, to: float) -> Any:
    """At another rate (polyphase filter); gaps stay gaps."""
    if rate == to:
        return x
    from scipy.signal import resample_poly

    a, b = round(to * 100), round(rate * 100)
    common, bad = gcd(a, b), np.isnan(x)
    y = resample_poly(np.where(bad, 0, x), a // common, b // common).astype(np.float32)
    if bad.any():
        y[np.interp(np.arange(len(y)) * rate / to, np.arange(len(x)), bad.astype(np.float64)) > 0] = np.nan
    return y


def stretches(x: Any, rate: float, about: Any) -> Iterator[tuple[Any, float, float, float]]:
    """(samples at the model's rate, where they start, from when to when their beats count), in s."""
    hop, over = about["stretch_s"], about["overlap_s"]
    for k in range(max(1, int(np.ceil(len(x) / rate / hop)))):
        a, b = max(0, round((k * hop - over) * rate)), min(len(x), round(((k + 1) * hop + over) * rate))
        yield at_rate(x[a:b], rate, about["rate"]), a / rate, k * hop, (k + 1) * hop if b < len(x) else np.inf


def heard(model: Callable[[Any], Any], wave: Any, about: Any) -> tuple[list[Any], float]:
    """Over time, window by window: what the model says at each place, and the seconds per place."""
    size, margin, parts = about["size"], about["margin"], list[list[Any]]()
    starts = list(range(-margin, max(1, len(wave) - margin), size - 2 * margin))
    per = 1
    for group in range(0, len(starts), AT_ONCE):
        block = np.full((len(starts[group : group + AT_ONCE]), size), np.nan, np.float32)
        for row, start in zip(block, starts[group : group + AT_ONCE], strict=True):
            a, b = max(0, start), min(len(wave), start + size)
            row[a - start : b - start] = wave[a:b]
        said = model(block)
        per = size // said[0].shape[1]
        inner = slice(margin // per, (size - margin) // per)
        parts.append([y[:, inner].reshape(-1, *y.shape[2:]) for y in said])
    places = -(-len(wave) // per)
    return [np.concatenate(y)[:places] for y in zip(*parts, strict=True)], per / about["rate"]


def peaks(probability: Any, step: float, about: Any) -> tuple[Any, Any]:
    """(times, places) of maxima from the threshold on, the higher first; times by a parabola through three places."""
    p = np.concatenate([[-np.inf], probability, [-np.inf]])
    top = np.flatnonzero((p[1:-1] >= about["threshold"]) & (p[1:-1] > p[:-2]) & (p[1:-1] >= p[2:]))
    taken, kept = np.zeros(len(probability), bool), []
    reach = max(1, int(np.ceil(about["refractory_s"] / step)) - 1)
    for i in top[np.argsort(-probability[top], kind="stable")]:
        if not taken[i]:
            kept.append(int(i))
            taken[max(0, i - reach) : i + reach + 1] = True
    at = np.array(sorted(kept), np.int64)
    shift, inner = np.zeros(len(at)), (at > 0) & (at < len(probability) - 1)
    a, b, c = (probability[at[inner] + d].astype(np.float64) for d in (-1, 0, 1))
    bend = a - 2 * b + c
    shift[inner] = np.where(bend < 0, 0.5 * (a - c) / np.where(bend < 0, bend, 1), 0).clip(-0.5, 0.5)
    return (at + shift) * step, at


def smoothed(p: Any, step: float, seconds: float) -> Any:
    """Which rhythm is the most probable, averaged over so many seconds."""
    half, at = round(seconds / step / 2), np.arange(len(p))
    total = np.concatenate([np.zeros((1, p.shape[1])), np.cumsum(p, 0, np.float64)])
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(p))
    return ((total[high] - total[low]) / (high - low)[:, None]).argmax(1)


def told(model: Callable[[Any], Any], x: Any, rate: float, about: Any) -> tuple[list[Any], list[Any]]:
    """Rows (time, probability, kind) of beats, and (start, end, rhythm) of stretches of one rhythm."""
    beats, rhythms = list[Any](), list[Any]()
    for wave, start, first, last in stretches(x, rate, about):
        (p, kind, *rhythm), step = heard(model, wave, about)
        times, places = peaks(p.astype(np.float64), step, about)
        for time, place in zip(start + 0.5 * step + times, places, strict=True):
            if first <= time < last and not (beats and time - beats[-1][0] < about["refractory_s"]):
                name = about["kinds"][int(kind[place])] if about["kinds"] else ""
                beats.append((float(time), float(p[place]), name))
        if rhythm:
            low, high = (round((min(t, start + len(p) * step) - start) / step) for t in (first, last))
            codes = smoothed(rhythm[0], step, about["smooth_s"])[low:high]
            edges = np.flatnonzero(np.diff(codes, prepend=-1, append=-1))
            for a, b in itertools.pairwise(edges):
                name, begin, end = (
                    about["rhythms"][int(codes[a])], start + (low + a) * step, start + (low + b) * step
                )  # fmt: skip
                if rhythms and rhythms[-1][2] == name and begin - rhythms[-1][1] < step:
                    rhythms[-1] = (rhythms[-1][0], end, name)
                else:
                    rhythms.append((begin, end, name))
    return beats, [(a, min(b, len(x) / rate), name) for a, b, name in rhythms]


def loaded(folder: Path) -> Callable[[Any], Any]:
    """The exported model as a function of an array."""
    if (folder / "model.onnx").is_file():
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"wave": x})
    import torch

    module = torch.export.load(folder / "model.pt2").module()
    return lambda x: [y.detach().numpy() for y in module(torch.from_numpy(x))]


def written(path: Path, head: list[str], rows: list[Any]) -> None:
    """A table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    print(path)


def main() -> None:
    """One table of beats per recording, and one of rhythms where the model tells them."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("files", nargs="+", type=Path)
    asked.add_argument("--rate", type=float, help="samples per second of .csv and .npy files")
    given = asked.parse_args()
    folder = Path(__file__).resolve().parent
    about = json.loads((folder / "description.json").read_text(encoding="utf-8"))["about"]
    model = loaded(folder)
    for path in given.files:
        beats, rhythms = told(model, *samples_of(path, about["lead"], given.rate), about)
        gaps = np.diff([t for t, _, _ in beats], prepend=np.nan)
        rows = [
            (f"{t:.4f}", f"{p:.4f}", k, "" if np.isnan(g) else f"{g:.4f}")
            for (t, p, k), g in zip(beats, gaps, strict=True)
        ]
        written(folder / f"{path.stem}_beats.csv", ["time_s", "probability", "kind", "interval_s"], rows)
        if about["rhythms"]:
            rows_of_rhythm = [(f"{a:.2f}", f"{b:.2f}", name) for a, b, name in rhythms]
            written(folder / f"{path.stem}_rhythms.csv", ["start_s", "end_s", "rhythm"], rows_of_rhythm)


if __name__ == "__main__":
    main()
