"""A finished run of `audio/separate` on recordings longer than it was trained on.

``python -m tests.benchmarks.separation swaps [--run RUN] [--seconds 60] [--count 5]``: mixtures of the run's test
speakers, separated in chunks; in how many windows of 2 s another assignment of channels would be better.
``python -m tests.benchmarks.separation long [--run RUN] [--hours 3]``: a made recording, separated from disk to disk in
a process of its own; its peak memory and real-time factor. Without RUN a small model is trained on simulated voices.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domains.audio.mixtures import MadeItems
from domains.audio.separate_figures import longer
from domains.audio.separate_predicting import WavWriter, cut, separator, sizes, stitched
from domains.audio.separate_scoring import row_of, swapped
from domains.audio.separate_source import items_of
from pipelines.config import resolve
from pipelines.predict import predict
from pipelines.runs import load_run
from pipelines.train import train

WINDOW_S = 2


def swaps(run: Path, seconds: float, count: int) -> None:
    """Mixtures of ``seconds``, one line each."""
    trained = load_run(run)
    task, data = trained.task, trained.task.open(trained.config.data)
    items = items_of(data, task.split(data), task.config, "test")
    assert isinstance(items, MadeItems)
    maker = longer(items.maker, seconds)
    size, step = sizes(task.config, data.rate)
    all_wrong, all_judged = 0, 0
    for k in range(count):
        wave, sources = maker.draw(np.random.default_rng([task.config.mix.seed, 4, k]))
        with torch.inference_mode():
            found = np.concatenate(list(stitched(cut(wave, size, step), separator(trained.model), step)), 1)
        wrong, judged = swapped(found, sources, WINDOW_S * data.rate)
        row = row_of(found, wave, sources)
        gain = row["si_sdr"] - row["mixture"]
        print(f"mixture {k}: {seconds:g} s, SI-SDR improved by {gain:.1f} dB, swapped {len(wrong)} of {judged} windows")
        all_wrong, all_judged = all_wrong + len(wrong), all_judged + judged
    print(f"in all: swapped {all_wrong} of {all_judged} windows of {WINDOW_S} s")


def long(run: Path, hours: float) -> None:
    """A recording of ``hours`` of noise and tones, separated in another process."""
    trained = load_run(run)
    rate = int(trained.fitted["rate"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        random = np.random.default_rng(0)
        with WavWriter(path, rate, "pcm16") as file:
            for _ in range(round(hours * 60)):
                hz = random.uniform(90, 200, 2)[:, None] * np.arange(1, 8)[:, None, None]
                x = np.sin(2 * np.pi * hz * np.arange(60 * rate) / rate).sum((0, 1)) / 40
                file.write((x + 0.01 * random.standard_normal(60 * rate)).astype(np.float32))
        start = time.perf_counter()
        command = [sys.executable, "-m", __spec__.name, "predict", "--run", str(run), "--file", str(path)]
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        seconds = time.perf_counter() - start
    print(f"{hours:g} hours at {rate} Hz in {seconds:.0f} s; {json.dumps(said)}")


def predicted(run: Path, path: Path) -> None:
    """Separate one file; the peak memory of this process and the facts, as JSON."""
    with tempfile.TemporaryDirectory() as out:
        facts: Any = predict(run, [str(path)], Path(out))
        size = sum(p.stat().st_size for p in Path(out).rglob("*.wav"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": round(peak), "written_mb": round(size / 1e6), "facts": str(facts)[:400]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="swaps", choices=["swaps", "long", "predict"])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--file", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sets = ["train.epochs=2", "mix.train=80", "mix.test=20"]
        run = args.run or train(resolve("audio/separate", data="simulated", sets=sets), Path(folder), quiet=True)
        if args.what == "swaps":
            swaps(run, args.seconds, args.count)
        elif args.what == "long":
            long(run, args.hours)
        else:
            predicted(run, args.file)


if __name__ == "__main__":
    main()
