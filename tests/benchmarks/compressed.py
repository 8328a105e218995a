"""Trained light-curve classifiers made small and fast: size, latency, throughput and accuracy side by side.

    python -m tests.benchmarks.compressed [RUN ...] [--small t2_tiny] [--epochs 150] [--objects 100000] [--raw 2000]

Each RUN is a run of timeseries/classify on gridded light curves or regular series without a ridge (preset
t2_lightcurve), such as one per fold; accuracy is over the test parts of all of them together. Without one the five
folds of rrlyrae_stripe82 are trained first (into ``--out``; finished runs are found). Stages: the float model
in PyTorch and in ONNX Runtime; a smaller preset taught to answer as it does; that one with its least weights pruned
(fine-tuned with them held at 0), its other weights clustered (shared values), packed into one file; the same in ONNX
Runtime, in floats and with 8-bit weights. Teaching reads the training part alone and keeps the epoch of least
validation loss. Times are CPU time of one thread, best of a few, on the first run's curves, and begin with the gridded
curve; ``--raw`` curves are scored from their observations on, period search included: real stars drawn with repetition,
every magnitude anew within its error. Sizes are files.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.torch import save
from threadpoolctl import threadpool_limits
from torch.export import Dim

from domains.timeseries.objects.compress import apply_masks, pack, prune_masks, unpack
from domains.timeseries.objects.gridding import on_phase_grid
from domains.timeseries.objects.items import ObjectItems
from domains.timeseries.objects.periods import best_period
from domains.timeseries.objects.portable import portable
from domains.timeseries.objects.source import read_source
from pipelines.config import resolve
from pipelines.runs import load_run
from pipelines.train import train as train_run
from shared_backbones.presets import adjust, load_preset

FINE = 0.2  # share of the epochs again, after pruning


def taught(
    small: Any, soft: torch.Tensor, train: Any, val: Any, epochs: int, rate: float, masks: Mapping[str, Any]
) -> Any:
    """The small model after training on the classes and on the big one's shares of them; its best epoch."""
    optimiser = torch.optim.AdamW(small.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, epochs))
    best: tuple[float, Any] = (float("inf"), copy.deepcopy(small.state_dict()))
    for _ in range(epochs):
        small.train()
        for rows in torch.randperm(len(soft)).split(64):
            scores = small.correction({k: v[rows] for k, v in train.items()})
            loss = F.cross_entropy(scores, train["target"][rows])
            loss = loss + F.kl_div(F.log_softmax(scores, 1), soft[rows], reduction="batchmean")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            apply_masks(small, masks)
        schedule.step()
        small.eval()
        with torch.no_grad():
            now = float(F.cross_entropy(small.correction(val), val["target"]))
        best = min(best, (now, copy.deepcopy(small.state_dict())), key=lambda pair: pair[0])
    small.load_state_dict(best[1])
    return small.eval()


def seconds(call: Callable[[], Any], repeats: int) -> float:
    call()
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(repeats):
            call()
        best = min(best, (time.process_time() - start) / repeats)
    return best


def to_onnx(plain: torch.nn.Module, example: Any, path: Path) -> None:
    batch = Dim("batch")
    torch.onnx.export(
        plain, example, str(path), dynamo=True, external_data=False, verbose=False,
        input_names=["series", "static"], dynamic_shapes=({0: batch}, {0: batch}),
    )  # fmt: skip
    made = onnx.load(str(path))
    del made.graph.value_info[:]
    for node in made.graph.node:  # where in the Python code each node came from: most of the file
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    onnx.save(made, str(path))


def session(path: Path) -> Callable[[Any, Any], Any]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    made = ort.InferenceSession(str(path), options)
    names = [i.name for i in made.get_inputs()]
    return lambda x, s: made.run(None, dict(zip(names, (x.numpy(), s.numpy()), strict=False)))[0]


def stages(trained: Any, data: Any, a: argparse.Namespace, folder: Path) -> dict[str, tuple[Callable[..., Any], int]]:
    """Stage -> (classifier of gridded curves, bytes)."""
    task, fitted, model = trained.task, trained.fitted, trained.model.eval()
    split = task.split(data)
    torch.manual_seed(0)
    train, val = (task.items(data, split, fitted, part) for part in ("train", "val"))
    batches = train.batch(range(len(train))), val.batch(range(len(val)))
    with torch.no_grad():
        soft = model.correction(batches[0]).softmax(1)
    tiny = task.build(fitted, adjust(load_preset(a.small), dropout=0.0))
    tiny = taught(tiny, soft, *batches, a.epochs, 3e-3, {})
    least = copy.deepcopy(tiny)
    masks = prune_masks(least, a.prune)
    apply_masks(least, masks)
    least = taught(least, soft, *batches, round(FINE * a.epochs), 1e-3, masks)
    packed = pack(least.state_dict(), set(masks), a.clusters)
    least.load_state_dict(unpack(packed))
    plain = [portable(m, fitted) for m in (model, tiny, least)]
    assert all(p is not None for p in plain)
    paths = [folder / n for n in ("float.onnx", "small.onnx", "small8.onnx")]
    for made, path in ((plain[0], paths[0]), (plain[2], paths[1])):
        assert made is not None
        to_onnx(made.module, made.example, path)
    quantize_dynamic(str(paths[1]), str(paths[2]), weight_type=QuantType.QInt8)
    torch_call = lambda p: lambda x, s: p.module(x, s).numpy()  # noqa: E731
    return {
        "float, PyTorch": (torch_call(plain[0]), len(save(model.state_dict()))),
        "float, ONNX Runtime": (session(paths[0]), paths[0].stat().st_size),
        "taught smaller, PyTorch": (torch_call(plain[1]), len(save(tiny.state_dict()))),
        "pruned, clustered, packed, PyTorch": (torch_call(plain[2]), len(packed)),
        "pruned, clustered, ONNX Runtime": (session(paths[1]), paths[1].stat().st_size),
        "and 8 bits": (session(paths[2]), paths[2].stat().st_size),
    }


def raw_rate(trained: Any, run: Callable[..., Any], count: int, batch: int) -> tuple[float, float]:
    """Curves per second from observations on (period, folding, class): of processor time, and on the clock."""
    options, random = trained.task.config, np.random.default_rng(0)
    read, _, options = read_source(trained.config.data, options)
    bands, steps = len(trained.fitted["channels"]), options.grid_steps
    spent, passed, waiting = 0.0, 0.0, []
    for i in range(count):
        curve = read.objects[int(random.integers(len(read.objects)))].values.copy()
        curve[:, 1] += np.nan_to_num(curve[:, 2]) * random.normal(size=len(curve))
        start, clock = time.process_time(), time.perf_counter()
        longest = options.longest_period or float(np.ptp(curve[:, 0])) / 2
        period = best_period(curve, options.shortest_period, longest)["period"]
        waiting.append(on_phase_grid(curve, bands, steps, period))
        if len(waiting) == batch or i == count - 1:
            run(torch.from_numpy(np.stack(waiting)).float(), torch.zeros(len(waiting), 0))
            waiting = []
        spent, passed = spent + time.process_time() - start, passed + time.perf_counter() - clock
        if (i + 1) % 10_000 == 0:
            print(f"{i + 1} curves, {(i + 1) / spent:.1f} a second of one core's time", file=sys.stderr, flush=True)
    return count / spent, count / passed


def five_folds(out: Path) -> list[Path]:
    """Runs of the float model, one per fold of the stars; 40 epochs each."""
    shared = ["grid=phase", "train.epochs=40", "train.lr=2e-3", "train.patience=40"]
    asked = [[*shared, f"split.fold={fold}"] for fold in range(5)]
    task, data, preset = "timeseries/classify", "rrlyrae_stripe82", "t2_lightcurve"
    return [train_run(resolve(task, data=data, preset=preset, file=None, sets=sets, seed=0), out) for sets in asked]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the five folds go without a RUN")
    parser.add_argument("--small", default="t2_tiny")
    parser.add_argument("--prune", type=float, default=0.3)
    parser.add_argument("--clusters", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--raw", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    a = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):  # of numpy's products too
        compare(a)


def compare(a: argparse.Namespace) -> None:
    """Prints a line per stage, then the two rates."""
    rows: dict[str, dict[str, Any]] = {}
    right: dict[str, list[np.ndarray]] = {}
    for number, path in enumerate(a.runs or five_folds(a.out)):
        trained = load_run(path)
        data = trained.task.open(trained.config.data)
        test = trained.task.split(data).parts["test"]
        batch = ObjectItems(data, test).batch(range(len(test)))
        series = batch["x"].masked_fill(~batch["seen"], float("nan"))
        truth = trained.task.targets(data, test, trained.fitted)
        with tempfile.TemporaryDirectory() as folder:
            for name, (run, size) in stages(trained, data, a, Path(folder)).items():
                with torch.no_grad():
                    guess = np.asarray(run(series, batch["static"])).argmax(1)
                    right.setdefault(name, []).append(guess == truth)
                    if number:
                        continue
                    many = torch.arange(a.batch) % len(series)
                    one = seconds(lambda run=run: run(series[:1], batch["static"][:1]), 50)
                    each = seconds(lambda run=run: run(series[many], batch["static"][many]), 3) / a.batch
                rows[name] = {"bytes": size, "ms_alone": 1e3 * one, "ms_in_batch": 1e3 * each}
                if name == "and 8 bits":
                    start = time.perf_counter()
                    for at in range(0, a.objects, a.batch):
                        some = torch.arange(at, min(at + a.batch, a.objects)) % len(series)
                        run(series[some], batch["static"][some])
                    gridded = a.objects / (time.perf_counter() - start)
                    first = trained, run
    base, whole = rows["float, PyTorch"], np.concatenate(right["float, PyTorch"])
    for name, row in rows.items():
        found = np.concatenate(right[name])
        row |= {
            "smaller": base["bytes"] / row["bytes"], "faster_alone": base["ms_alone"] / row["ms_alone"],
            "faster_in_batch": base["ms_in_batch"] / row["ms_in_batch"], "accuracy": float(found.mean()),
            "points_lost": 100 * float(whole.mean() - found.mean()), "objects": len(found),
            "by_run": [round(float(r.mean()), 4) for r in right[name]],
        }  # fmt: skip
        plain = {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}
        print(json.dumps({"model": name, **plain}))
    told = f"8 bits, {a.objects} gridded curves in batches of {a.batch}"
    print(f"{told}: {gridded:.0f} curves per second on the clock", flush=True)
    if a.raw and first[0].fitted["feature_names"]:
        spent, clock = raw_rate(*first, a.raw, a.batch)
        told = f"8 bits, {a.raw} curves from their observations on"
        print(f"{told}: {spent:.1f} a second of one core's time, {clock:.1f} a second on the clock")


if __name__ == "__main__":
    main()
