"""Windows, groups and neighbourhoods beside SDPA: ``python -m tests.benchmarks.neighborhoods [names ...]``.

Forward and backward of one item in float32. With one thread a second is one of the processor that this process got,
so that a busy machine counts less; with more it is one on the clock, of an idle machine. All figures are ratios
within one run on fresh random data.

blocked: the attention of a mixer without its linear maps (gathering, masks, bias and all) over SDPA without mask or
    bias on equal tiles, which has to gather its keys too. bare: the same, but its keys are gathered already.
per flop: the whole mixer over softmax attention on all tokens with the same maps, each per counted FLOP.
kept: bytes per token that forward keeps for backward: linear memory is where it stays the same as N grows.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_backbones.flops import count_flops
from shared_backbones.layout import Layout
from shared_backbones.mixers import attend as core
from shared_backbones.mixers import build_mixer
from shared_backbones.runtime import configure

from .mixers import saved_bytes

CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("neighborhood", 1, {"window": 7}),
    ("neighborhood", 1, {"window": 65}),
    ("neighborhood", 2, {"window": 7}),
    ("neighborhood", 2, {"window": 7, "bias": "none"}),
    ("neighborhood", 2, {"window": 7, "dilation": 4}),
    ("neighborhood", 2, {"window": 8, "stride": 8}),
    ("neighborhood", 3, {"window": 5}),
    ("window", 2, {"window": 8}),
    ("window", 2, {"window": 7, "shift": 3}),
    ("window", 2, {"window": 8, "halo": 3}),
    ("grid", 2, {"size": 8}),
    ("stripes", 2, {"width": 2}),
    ("regions", 2, {"window": 8, "top": 4}),
    ("routing", 2, {"clusters": 16}),
    ("sorted", 2, {"size": 64}),
    ("factored", 2, {"window": 8}),
]
AXES: dict[int, list[tuple[int, ...]]] = {
    1: [(1024,), (4096,), (16384,)],
    2: [(32, 32), (64, 64), (128, 128)],
    3: [(8, 8, 16), (16, 16, 16), (16, 32, 32)],
}
Run = Callable[[], Tensor]


def seconds(runs: Sequence[Run], budget: float) -> list[float]:
    """Median time of forward and backward of each, taken in turn until the budget of each is spent."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in runs]
    while not times[0] or (max(map(sum, times)) < budget and len(times[0]) < 30):
        for run, took in zip(runs, times, strict=True):
            if not took:
                run().sum().backward()  # the first one warms up
            start = clock()
            run().sum().backward()
            took.append(clock() - start)
    return [statistics.median(took) for took in times]


def blocked(mixer: nn.Module, axes: Sequence[int], dim: int) -> tuple[Run, Run, Run] | None:
    """The mixer's attention alone, and SDPA on equal tiles with and without gathering; None where it has no such part.

    The tiles are what the mixer hands to :func:`attend`, seen while it runs once.
    """
    inner: Any = mixer
    if not hasattr(inner, "mix"):
        return None
    layout, n = Layout(tuple(axes)), math.prod(axes)
    x = torch.randn(1, n, 3 * dim, requires_grad=True)
    inner.qkv, inner.out = nn.Identity(), nn.Identity()
    with mock.patch.object(core, "attend", wraps=core.attend) as seen:
        inner.mix(x, layout)
    q, k = (t.detach() for t in seen.call_args.args[:2])
    _, heads, groups, keys, width = k.shape
    at = torch.randint(0, n, (groups * keys,))
    flat = [torch.randn(t.flatten(0, 1).shape, requires_grad=True) for t in (q, k, k)]
    whole = [torch.randn(heads, n, width, requires_grad=True) for _ in range(2)]

    def bare() -> Tensor:
        return F.scaled_dot_product_attention(flat[0], flat[1], flat[2])

    def gathering() -> Tensor:
        key, value = (t.index_select(1, at).unflatten(1, (groups, keys)) for t in whole)
        return F.scaled_dot_product_attention(flat[0], key, value)

    return lambda: inner.mix(x, layout), gathering, bare


def whole_run(name: str, rank: int, axes: tuple[int, ...], dim: int, **options: Any) -> tuple[Run, int]:
    """A whole mixer on random tokens, and the FLOPs of its forward pass."""
    mixer, n = build_mixer(name, dim, rank=rank, **options), math.prod(axes)
    layout = Layout(axes, positions=torch.rand(1, n, rank) * n ** (1 / rank))
    x = torch.randn(1, n, dim, requires_grad=True)
    return lambda: mixer(x, layout), count_flops(mixer, x, layout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=0.5, help="seconds per figure")
    parser.add_argument("--sizes", type=int, default=3, help="how many of the three sizes, the smallest first")
    parser.add_argument("--full", type=int, default=4096, help="longest input of attention on all tokens")
    args = parser.parse_args()
    print("; ".join(f"{k} {v}" for k, v in configure(args.threads).items()), f"; dim {args.dim}")
    print(f"{'mixer':52}{'tokens':>8}{'blocked':>9}{'bare':>7}{'per flop':>10}{'kept':>7}")
    full: dict[int, float] = {}
    for name, rank, options in CASES:
        if args.names and name not in args.names:
            continue
        for axes in AXES[rank][: args.sizes]:
            n = math.prod(axes)
            if min(n, args.full) not in full:  # per FLOP it is the same beyond
                run, flops = whole_run("attention", 1, (min(n, args.full),), args.dim)
                full[min(n, args.full)] = seconds([run], args.budget)[0] / flops
            run, flops = whole_run(name, rank, axes, args.dim, **options)
            per_flop = seconds([run], args.budget)[0] / flops / full[min(n, args.full)]
            alone = blocked(build_mixer(name, args.dim, rank=rank, **options), axes, args.dim)
            ratios = f"{'-':>9}{'-':>7}"
            if alone is not None:
                took, gathering, bare = seconds(alone, args.budget)
                ratios = f"{took / gathering:9.2f}{took / bare:7.2f}"
            kept = saved_bytes(run) / n
            title = f"{name} {options}, rank {rank}"
            print(f"{title:52}{n:8}{ratios}{per_flop:10.2f}{kept:7.0f}", flush=True)


if __name__ == "__main__":
    main()
