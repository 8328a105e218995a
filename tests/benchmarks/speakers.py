"""One speaker left out, after another, with several seeds: ``python -m tests.benchmarks.speakers --seeds 0 1 2``.

`audio/classify` on FSDD as `cambium train` trains it, without baselines and reports: what the model says of the speaker
whom nobody heard, what its backbone says alone, and what the line beside it says alone. Rows go to ``--out`` as they
come, and those that stand there already are not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domains.audio.classify import Classify
from domains.audio.items import ClipItems
from domains.scoring import class_evidence, class_scores, softmax
from shared_backbones.runtime import configure

from .elastic import Bench

SPEAKERS = ("george", "jackson", "theo", "yweweler")


def scored(bench: Bench, model: Any) -> dict[str, float]:
    """Shares of the test clips that are told right, and the log loss of what is told."""
    task, rows = bench.task, bench.split.parts["test"]
    assert isinstance(task, Classify)
    found = bench.task.metrics(task.evidence(model, bench.data, bench.split, bench.fitted, "test"))
    told = {"accuracy": found["accuracy"], "nll": found["nll"], "ece": found["ece"]}
    items, truth = ClipItems(bench.data, rows), bench.data.labels[rows]
    backbone = task.over(model, items, lambda wave, length: model.every(wave, length)[0]).numpy()
    told["backbone"] = float(np.mean(backbone.argmax(1) == truth))
    if model.closed is not None:
        line = softmax(task.over(model, items, model.closed).numpy())
        alone = class_scores(class_evidence(rows, truth, line))
        told |= {"line": alone["accuracy"], "line_nll": alone["nll"], "gate": float(model.closed.gate)}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fsdd")
    parser.add_argument("--preset", default="audio_mixer")
    parser.add_argument("--speakers", nargs="+", default=list(SPEAKERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], help="as of cambium train")
    parser.add_argument("--out", type=Path, default=Path("speakers.jsonl"))
    args = parser.parse_args()
    configure(1)
    done = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    for seed in args.seeds:
        for speaker in args.speakers:
            asked = {"preset": args.preset, "set": args.set, "seed": seed, "speaker": speaker}
            if any(all(row[k] == v for k, v in asked.items()) for row in done):
                continue
            since = time.process_time()
            bench = Bench(args.data, [f"split.test=[{speaker}]", *args.set], seed, args.preset)
            model = bench.build([])
            bench.task.initialise(model, bench.data, bench.split)
            bench.train(model)
            bench.task.calibrate(model, bench.data, bench.split, bench.fitted)
            with torch.no_grad():
                row = asked | scored(bench, model.eval()) | {"cpu_s": round(time.process_time() - since, 1)}
            done.append(row)
            with args.out.open("a") as f:
                f.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
