"""A trained light-curve classifier made small and fast: size, latency, throughput and accuracy side by side.

    python -m tests.benchmarks.compressed RUN [--prune 0.7] [--clusters 16] [--epochs 10] [--objects 100000]

RUN is a run of timeseries/classify on gridded light curves or regular series without a ridge (preset t2_lightcurve).
Stages: the float model in PyTorch; in ONNX Runtime; pruned (least weights to 0, fine-tuned with them held at 0) and
clustered (shared values), packed into one file; the same in ONNX Runtime with 8-bit weights. Accuracy is on the whole
test part of the run, fine-tuning on its training part, its best epoch by validation loss. Times are CPU time of one
thread, best of a few, and begin with the gridded curve. Sizes are files: safetensors, ONNX, packed.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.torch import save
from torch.export import Dim

from domains.timeseries.objects.compress import apply_masks, pack, prune_masks, unpack
from domains.timeseries.objects.items import ObjectItems
from domains.timeseries.objects.portable import portable
from pipelines.runs import load_run


def fine_tuned(task: Any, model: Any, data: Any, split: Any, fitted: Any, masks: Any, epochs: int) -> Any:
    """The model after a few epochs with its pruned weights held at 0; the epoch of least validation loss."""
    train, val = (task.items(data, split, fitted, part) for part in ("train", "val"))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.0)
    best: tuple[float, Any] = (float("inf"), copy.deepcopy(model.state_dict()))
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(train)).split(16):
            loss, _ = task.loss(model, train.batch(rows.tolist()))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            apply_masks(model, masks)
        model.eval()
        with torch.no_grad():
            now = float(task.loss(model, val.batch(range(len(val))))[0])
        best = min(best, (now, copy.deepcopy(model.state_dict())), key=lambda pair: pair[0])
    model.load_state_dict(best[1])
    return model


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
    onnx.save(made, str(path))


def session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--prune", type=float, default=0.7)
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=64)
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trained = load_run(a.run)
    task, fitted, model = trained.task, trained.fitted, trained.model.eval()
    data = task.open(trained.config.data)
    split = task.split(data)
    test = split.parts["test"]
    batch = ObjectItems(data, test).batch(range(len(test)))
    series = batch["x"].masked_fill(~batch["seen"], float("nan"))
    truth = task.targets(data, test, fitted)
    small = copy.deepcopy(model)
    masks = prune_masks(small, a.prune)
    apply_masks(small, masks)
    small = fine_tuned(task, small, data, split, fitted, masks, a.epochs)
    packed = pack(small.state_dict(), set(masks), a.clusters)
    small.load_state_dict(unpack(packed))
    big = portable(model, fitted), portable(small, fitted)
    assert big[0] is not None and big[1] is not None  # noqa: PT018
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / n for n in ("float.onnx", "small.onnx", "small8.onnx")]
        for portable_model, path in zip(big, paths[:2], strict=True):
            to_onnx(portable_model.module, portable_model.example, path)
        quantize_dynamic(str(paths[1]), str(paths[2]), weight_type=QuantType.QInt8)
        runs: dict[str, tuple[Callable[[Any, Any], Any], int]] = {
            "float, PyTorch": (lambda x, s: big[0].module(x, s).numpy(), len(save(model.state_dict()))),
            "pruned, clustered, PyTorch": (lambda x, s: big[1].module(x, s).numpy(), len(packed)),
        }
        for name, path in zip(
            ("float, ONNX Runtime", "pruned, clustered, ONNX Runtime", "and 8 bits"), paths, strict=True
        ):
            made = session(path)
            inputs = [i.name for i in made.get_inputs()]

            def call(x: Any, s: Any, made: Any = made, inputs: Any = inputs) -> Any:
                return made.run(None, dict(zip(inputs, (x.numpy(), s.numpy()), strict=False)))[0]

            runs[name] = (call, path.stat().st_size)
        with torch.no_grad():
            for name, (run, size) in runs.items():
                guess = np.asarray(run(series, batch["static"])).argmax(1)
                one = seconds(lambda run=run: run(series[:1], batch["static"][:1]), 50)
                many = torch.arange(a.batch) % len(series)
                each = seconds(lambda run=run: run(series[many], batch["static"][many]), 3) / a.batch
                rows.append({"model": name, "bytes": size, "ms_alone": 1e3 * one, "ms_in_batch": 1e3 * each,
                             "accuracy": float((guess == truth).mean())})  # fmt: skip
            start = time.perf_counter()
            for at in range(0, a.objects, a.batch):
                many = torch.arange(at, min(at + a.batch, a.objects)) % len(series)
                call(series[many], batch["static"][many])
            rate = a.objects / (time.perf_counter() - start)
    for row in rows:
        print(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}))
    print(f"packed: {rows[0]['bytes'] / rows[1]['bytes']:.1f}x smaller than the float weights")
    print(f"8 bits, {a.objects} gridded curves in batches of {a.batch}: {rate:.0f} curves per second on the clock")


if __name__ == "__main__":
    main()
