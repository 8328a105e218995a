"""A recording of hours is recognised: memory, speed, errors, in a process of its own and on one thread.

    python -m tests.benchmarks.speech [--hours 3] [--run RUN] [--digits SPEAKER] [--out DIR]

Made words by a made speaker whom training did not hear, one utterance after the other, as WAV; with ``--digits`` the
strings of digits of a speaker of FSDD. Without ``--run`` a model is trained first on the simulator. Peak memory is that
of the predicting process. A word counts where its middle stands: in the utterance that is spoken there, or as added.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import resource
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

HERE = "tests.benchmarks.speech"
SPEAKER = {"seed": 99, "words": 5}  # no seed of training


def utterances(hours: float, speaker: str | None) -> Iterator[tuple[Any, str]]:
    """(samples, text) until there are so many hours."""
    from domains.audio.simulate import RATE
    from domains.audio.utterances import DigitOptions, JoinOptions, connected_digits
    from domains.audio.utterances import hours as simulated

    if speaker is None:
        yield from simulated(3600 * hours, SPEAKER, JoinOptions())
        return
    left = 3600 * hours
    for seed in itertools.count(1):  # 0 is what runs are made of
        for read in connected_digits(DigitOptions(strings=200, seed=seed), JoinOptions(), RATE):
            if read.entry.speaker == speaker:
                yield read.wave, read.entry.text or ""
                left -= read.file.seconds
                if left <= 0:
                    return


def made(path: Path, hours: float, speaker: str | None) -> list[tuple[float, float, str]]:
    """Writes the recording; returns what is said from when to when (s)."""
    from domains.audio.simulate import RATE

    said, at = [], 0
    with wave.open(str(path), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(RATE)
        for x, text in utterances(hours, speaker):
            f.writeframes(np.clip(np.round(x * 32767), -32768, 32767).astype("<i2").tobytes())
            said.append((at / RATE, (at + len(x)) / RATE, text))
            at += len(x)
    return said


def trained(out: Path) -> Path:
    """A run of a small model on the simulator."""
    from pipelines.config import resolve
    from pipelines.train import train

    sets = ["simulated={speakers: 12, strings: 40}", "unit=words", "train.epochs=15", "templates=0"]
    return train(resolve("audio/recognise", sets=sets), out, quiet=True)


def child(run: Path, recording: Path, out: Path) -> None:
    """Predicts and prints what it took."""
    import torch

    torch.set_num_threads(1)
    from pipelines.predict import predict

    summary = predict(run, [str(recording)], str(out))
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    facts = {k: v for row in summary.rows for k, v in row.facts.items()}
    took = sum(row.seconds for row in summary.rows)
    print(json.dumps({"peak_mb": round(peak), "predict_seconds": round(took, 1), "exit": summary.exit_code, **facts}))


def errors(said: list[tuple[float, float, str]], words: Path) -> float:
    """Word error rate of words with times."""
    from domains.audio.text import edits

    ends = np.array([b for _, b, _ in said])
    heard: list[list[str]] = [[] for _ in said]
    with words.open(newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            middle = (float(row["start"]) + float(row["end"])) / 2
            heard[min(int(np.searchsorted(ends, middle)), len(said) - 1)].append(row["word"])
    wrong = sum(edits(text.split(), h) for (_, _, text), h in zip(said, heard, strict=True))
    return wrong / sum(len(text.split()) for _, _, text in said)


def measure(hours: float, run: Path | None, speaker: str | None, out: Path) -> dict[str, Any]:
    """One table row."""
    run = trained(out / "runs") if run is None else run
    recording = out / "long.wav"
    said = made(recording, hours, speaker)
    command = [sys.executable, "-m", HERE, "--child", str(run), str(recording), str(out / "predicted")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    wer = errors(said, next((out / "predicted").rglob("words.csv")))
    return {**found, "hours": hours, "wer": round(wer, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--digits")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=3, type=Path)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return
    with TemporaryDirectory() as folder:
        out = given.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measure(given.hours, given.run, given.digits, out), indent=1))


if __name__ == "__main__":
    main()
