"""Counted cost: floating-point operations, and elements written during backward. Counts are exact; nothing is timed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .errors import BadRequest

Shape = Sequence[int]
aten = torch.ops.aten


def _attention(q: Shape, k: Shape, v: Shape, *args: Any, **kwargs: Any) -> int:
    """Two products: scores (N x M x D) and values (N x M x E)."""
    return 2 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _attention_backward(grad: Shape, q: Shape, k: Shape, v: Shape, *args: Any, **kwargs: Any) -> int:
    """Five products where forward has two: the scores again, and the gradients of q, k, v and of the weights."""
    return 2 * math.prod(q[:-1]) * k[-2] * (3 * q[-1] + 2 * v[-1])


def _fft(real: bool) -> Callable[..., int]:
    """5 n log2 n per complex transform of n places, the usual convention; half for a real one."""

    def count(x: Shape, dim: Sequence[int], *args: Any, out_shape: Shape, **kwargs: Any) -> int:
        full = [max(a, b) for a, b in zip(x, out_shape, strict=True)]  # the real side states the true length
        n = math.prod(full[d] for d in dim)
        return round((2.5 if real else 5) * math.prod(full) * math.log2(max(n, 2)))

    return count


def _solve(a: Shape, b: Shape, *args: Any, **kwargs: Any) -> int:
    return math.prod(b) * a[-1]


def _once(x: Shape, *args: Any, **kwargs: Any) -> int:
    """One operation per element of the first argument."""
    return math.prod(x)


def _pool(x: Shape, kernel: Sequence[int], *args: Any, out_shape: Any, **kwargs: Any) -> int:
    out = out_shape if isinstance(out_shape[0], int) else out_shape[0]  # max pooling also returns indices
    spatial = len(out) - (4 if len(kernel) == 2 else 5) + len(kernel)
    return math.prod(out) * (math.prod(kernel) if len(kernel) > 1 else kernel[0] ** spatial)


def _pool_backward(grad: Shape, x: Shape, kernel: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return math.prod(grad) * math.prod(kernel)


def _sort(x: Shape, *args: Any, **kwargs: Any) -> int:
    return round(math.prod(x) * math.log2(max(2, x[-1] if x else 1)))


def _gathered(x: Shape, dim: int, index: Shape, source: Shape, *args: Any, **kwargs: Any) -> int:
    return math.prod(source)


def _convolution_backward(grad: Shape, x: Shape, w: Shape, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    """2 x outputs x weights per output, once for each of the two gradients that are asked for."""
    each = 2 * grad[0] * math.prod(w) * math.prod(grad[2:])
    return each * sum(shape is not None for shape in out_shape[:2])


FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten._fft_r2c: _fft(real=True),
    aten._fft_c2r: _fft(real=True),
    aten._fft_c2c: _fft(real=False),
    aten.linalg_solve_triangular: _solve,
    aten.cumsum: _once,
    aten.cumprod: _once,
    aten.logcumsumexp: _once,
    aten.avg_pool2d: _pool,
    aten.avg_pool3d: _pool,
    aten.avg_pool2d_backward: _pool_backward,
    aten.avg_pool3d_backward: _pool_backward,
    aten.max_pool2d_with_indices: _pool,
    aten.max_pool3d_with_indices: _pool,
    aten.topk: _sort,
    aten.sort: _sort,
    aten.index_add: _gathered,
    aten.scatter_add: _gathered,
    aten.convolution_backward: _convolution_backward,
}


def flop_counter() -> FlopCounterMode:
    """torch's counter with the formulas of this module; ``get_total_flops()`` may be read while it runs."""
    return FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))


def flops_of(run: Callable[[], Any]) -> int:
    """Floating-point operations that ``run()`` makes, forward and backward alike.

    torch's counter plus formulas for what it counts as nothing: attention on CPU, FFT, triangular solves, scans,
    pooling, sorting and gathered sums. Elementwise arithmetic counts nothing, as everywhere.
    """
    with flop_counter() as counter:
        run()
    return counter.get_total_flops()


def count_flops(module: nn.Module, *inputs: Any) -> int:
    """Floating-point operations of one forward pass of ``module(*inputs)``, in evaluation mode, without gradients."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            return flops_of(lambda: module(*inputs))
    finally:
        module.train(training)


class _Written(TorchDispatchMode):
    """Adds up the elements of every tensor that an operation writes; views write nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        outputs = out if isinstance(out, (tuple, list)) else (out,)
        for value, returned in zip(outputs, func._schema.returns, strict=False):
            alias = returned.alias_info
            if isinstance(value, Tensor) and (alias is None or alias.is_write):
                self.elements += value.numel()
        return out


def elements_written_in_backward(loss: Callable[[], Tensor]) -> int:
    """Elements written while the scalar ``loss()`` is taken back to its leaves; the forward pass is not counted.

    It shows what neither FLOPs nor timings of short inputs show: a loop that indexes a stacked tensor lets autograd
    write one full-size gradient per step.
    """
    value, counter = loss(), _Written()
    with counter:
        value.backward()
    return counter.elements


_FACTOR = re.compile(r"(?P<log>log )?(?P<symbol>[A-Za-z0-9]+)(\^(?P<power>[A-Za-z0-9.]+))?$")


def _term(term: str, sizes: dict[str, float]) -> float:
    value = 1.0
    for factor in re.sub(r"log\s+", "log_", term).split():
        found = _FACTOR.match(factor.replace("log_", "log "))
        if found is None:
            raise BadRequest(
                f"cost term {term!r} cannot be read at {factor!r}: write factors such as N, N^2, log N, d^2, w^r"
            )
        symbol = found["symbol"]
        size = float(symbol) if symbol.isdigit() else sizes.get(symbol, 1.0)
        size = math.log2(size) if found["log"] else size
        power = found["power"] or "1"
        value *= size ** (float(power) if re.fullmatch(r"[0-9.]+", power) else 1.0)
    return value


def growth(cost: str, n: int, d: int = 32) -> float:
    """How many times dearer 2n tokens are than n, by a cost such as "O(N^2 d + N d^2)" or "O(N log N d)".

    N counts tokens, E edges (taken proportional to N), d channels; a whole number weighs its term; every other letter
    stands for a constant.
    Raises BadRequest for a string that is no such sum.
    """
    inside = re.fullmatch(r"O\((.+)\)", cost.strip())
    if inside is None:
        raise BadRequest(f"a cost is written as O(...), got {cost!r}")
    terms = [t.strip() for t in inside[1].split("+")]

    def at(size: int) -> float:
        return sum(_term(term, {"N": float(size), "E": float(size), "d": float(d)}) for term in terms)

    return at(2 * n) / at(n)
