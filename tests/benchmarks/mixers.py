"""Time and memory of every mixer against softmax attention: ``python -m tests.benchmarks.mixers [names ...]``.

All figures are ratios within one run on fresh random data (forward and backward, one item, float32), so that they
carry over between machines better than milliseconds do. Below 1 the mixer is cheaper than SDPA with the same
projections. The crossover is the shortest tested length from which it stays so: its efficiency length. The rate is that
of counted floating-point operations, forward and backward at the longest tested length, over the rate of the machine's
own product of two matrices of 1024 x 1024 in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from shared_backbones.cases import Case, single_precision, whole
from shared_backbones.flops import flops_of
from shared_backbones.layout import Layout
from shared_backbones.mixers import MIXERS
from shared_backbones.runtime import configure

LENGTHS = (1024, 4096, 16384)
HEAVY = {"principal": 1024}  # the longest input of what takes N x N x D numbers to train: 25 GB at 4,096


class _Saved:
    """Adds up what autograd keeps for backward: the part of peak memory that a mixer decides."""

    def __init__(self) -> None:
        self.bytes, self.seen = 0, set[int]()

    def pack(self, t: Tensor) -> Tensor:
        for part in dense_parts(t):
            storage = part.untyped_storage()
            if storage.data_ptr() not in self.seen:
                self.seen.add(storage.data_ptr())
                self.bytes += storage.nbytes()
        return t


def dense_parts(t: Tensor) -> tuple[Tensor, ...]:
    """What a tensor is stored as: itself, or the indices and values of a sparse one."""
    if t.layout == torch.sparse_coo:
        return t._indices(), t._values()
    if t.layout == torch.sparse_csr:
        return t.crow_indices(), t.col_indices(), t.values()
    return (t,)


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes that the forward pass of ``run`` keeps for its backward pass."""
    saved = _Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda t: t):
        run()
    return saved.bytes


def seconds(run: Callable[[], Tensor], budget: float, backward: bool = True) -> float:
    """Median time of forward, and backward, over the runs that fit into the budget, at least one.

    With one thread it is the process's own CPU time, so that a busy machine matters little; with more it is time on
    the clock. The first run warms up; it counts only where it alone spends the budget.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def once() -> float:
        start = clock()
        with torch.set_grad_enabled(backward):
            y = run()
            if backward:
                y.sum().backward()
        return clock() - start

    first = once()
    if first > budget:
        return first
    times: list[float] = []
    while not times or (sum(times) < budget and len(times) < 30):
        times.append(once())
    return statistics.median(times)


def runner(case: Case, n: int, dim: int) -> Callable[[], Tensor]:
    """A mixer on one fresh random sequence of n tokens."""
    mixer = case.build(dim, dtype=torch.float32).train()
    x, layout = single_precision(*whole(case, dim, seed=0, axes=(n,), batch=1))
    x.requires_grad_()
    if not case.ordered:
        layout = Layout(layout.axes, False, None, layout.positions, layout.edges, layout.edge_attr)

    def run() -> Tensor:
        return mixer(x, layout) + x  # x takes part in any case: some mixers ignore their input

    return run


def measure(case: Case, n: int, dim: int, budget: float) -> tuple[float, int]:
    """Seconds of forward and backward, and saved bytes, of one mixer on a sequence of n tokens."""
    run = runner(case, n, dim)
    return seconds(run, budget), saved_bytes(run)


def operations(case: Case, n: int, dim: int) -> int:
    """Counted floating-point operations of forward and backward."""
    run = runner(case, n, dim)
    return deep(lambda: flops_of(lambda: run().sum().backward()))


def deep(call: Callable[[], int]) -> int:
    """``call()`` on a stack of 1 GB: with torch's counter on, a graph of 16,384 steps is freed by recursion."""
    usual = threading.stack_size(2**30)
    try:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(call).result()
    finally:
        threading.stack_size(usual)


def matmul_rate(budget: float) -> float:
    """Operations per second of a product of two square matrices."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / seconds(lambda: a @ b, budget, backward=False)


def sequence_cases(names: Sequence[str]) -> list[Case]:
    """Plain and causal form of each mixer on a sequence."""
    found = []
    for name in names:
        cls = MIXERS[name]
        if 1 in cls.ranks:
            found.append(Case(name, 1))
            found += [Case(name, 1, True, (0,))] if 0 in cls.causal_axes else []
    return found


def crossover(ratios: dict[int, float]) -> str:
    """The shortest length from which the ratio stays below 1."""
    lengths = sorted(ratios)
    for i, n in enumerate(lengths):
        if all(ratios[m] < 1 for m in lengths[i:]):
            return f"<= {n}" if i == 0 else f"{lengths[i - 1]} .. {n}"
    return f"> {lengths[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--budget", type=float, default=0.5, help="seconds per figure")
    parser.add_argument("--limit", type=int, default=4096, help="longest input for mixers of quadratic memory")
    args = parser.parse_args()
    print("; ".join(f"{k} {v}" for k, v in configure(args.threads).items()), f"; dim {args.dim}")
    matmul = matmul_rate(args.budget)
    print(f"product of matrices: {matmul / 1e9:.0f} GFLOP/s")
    base: dict[tuple[tuple[int, ...], int], tuple[float, int]] = {
        (causal, n): measure(Case("attention", 1, True, causal), n, args.dim, args.budget)
        for causal in ((), (0,))
        for n in args.lengths
    }
    heads = "".join(f"{f'time {n}':>12}{f'memory {n}':>14}" for n in args.lengths)
    print(f"{'mixer / SDPA, forward + backward':36}{heads}{'rate':>7}  crossover")
    for (causal, n), (took, kept) in base.items():
        print(f"  SDPA{', causal' if causal else ''} at {n}: {took * 1e3:.1f} ms, {kept / 2**20:.1f} MB kept")
    for case in sequence_cases(args.names or [name for name in MIXERS if name != "attention"]):
        ratios, row, rate = {}, "", 0.0
        for n in args.lengths:
            if n > HEAVY.get(str(case.mixer), args.limit) and "N^2" in MIXERS[str(case.mixer)].cost:
                row += f"{'-':>12}{'-':>14}"
                continue
            took, kept = measure(case, n, args.dim, args.budget)
            ratios[n] = took / base[case.causal, n][0]
            if "edges" not in MIXERS[str(case.mixer)].needs:  # torch counts sparse products as if they were dense
                rate = operations(case, n, args.dim) / took / matmul
            row += f"{ratios[n]:12.2f}{kept / base[case.causal, n][1]:14.2f}"
        print(f"{case!s:36}{row}{f'{rate:.0%}' if rate else '-':>7}  {crossover(ratios)}", flush=True)


if __name__ == "__main__":
    main()
