"""What a model costs to use: counted operations and memory, measured speed."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch

from domains.task import Split
from shared_backbones.flops import flops_of
from shared_backbones.footprint import peak_bytes

from .runs import Trained


def peak_memory_mb() -> float:
    """The most memory this process has held, on the accelerator where one was used, else in RAM. In 10^6 bytes."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # kB on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


@torch.no_grad()
def cost_of(trained: Trained, data: Any, split: Split, *, seconds: float = 0.5) -> dict[str, Any]:
    """Parameters, multiply-adds of one example, bytes that a batch takes, and examples per second in such batches.

    Batches are as large as in training. Operations and bytes are counted (:mod:`shared_backbones.footprint`); speed is
    measured over about ``seconds`` on the test part after one batch to warm up, without the time to gather a batch.
    """
    task, model = trained.task, trained.model
    items = task.items(data, split, trained.fitted, "test")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    size = min(trained.config.train.batch_size, len(items))

    def batch(n: int) -> dict[str, torch.Tensor]:
        return {name: value.to(device) for name, value in items.batch(list(range(n))).items()}

    one, many = batch(1), batch(size)
    macs = flops_of(lambda: task.loss(model, one)) // 2
    memory = peak_bytes(lambda: task.loss(model, many))
    done, start = 0, time.perf_counter()
    while True:
        loss, _ = task.loss(model, many)
        loss.item()  # waits for the device
        done += size
        passed = time.perf_counter() - start
        if passed >= seconds:
            break
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "macs": macs,
        "batch_memory_mb": memory / 1e6,
        "items_per_second": done / passed,
    }
