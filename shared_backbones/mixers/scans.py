"""The recurrences that state mixers share, in pure torch: linear in memory, and in what backward writes.

Shapes: B items, H heads, N tokens, M blocks of L tokens, D width of a key, E width of a value. The last block may be
padded: zero keys and a decay of 1 leave the state as it is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALL = 4096  # numbers per step below which the cost of a call outweighs its work
PIECE = 2**20  # numbers of a piece of a selective scan at most: what stays in a cache, and in memory already mapped


def full(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in at least float32: a state adds up over thousands of tokens."""
    return tuple(t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors)


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Leaves autocast, which would round every product of a scan to half precision."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()


def sweep(a: Iterable[Tensor], h: Iterable[Tensor], start: Tensor) -> Tensor:
    """h_t <- a_t h_(t-1) + h_t in place, over views of single steps; returns the last one."""
    for a_t, h_t in zip(a, h, strict=True):
        start = h_t.addcmul_(a_t, start)
    return start


def sweep_blocks(a: Tensor, h: Tensor, start: Tensor, back: bool = False) -> None:
    """:func:`sweep` along dimension 0 of (N, ...); where a step is small, of many blocks side by side.

    A block starts from zero; what came before it is then added, times the product of the decays since: a product
    of factors of at most 1, which can underflow to 0 and never overflow.
    """
    n = h.shape[0]
    blocks = max(1, min(math.isqrt(n), SMALL // max(1, h[0].numel()))) if n > 16 else 1
    length = n // blocks
    parts = (slice(0, blocks * length), slice(blocks * length, n))
    for part in reversed(parts) if back else parts:
        a_p, h_p = a[part], h[part]
        if h_p.shape[0] and h_p.shape[0] == blocks * length and blocks > 1:
            start = _side_by_side(a_p.unflatten(0, (blocks, length)), h_p.unflatten(0, (blocks, length)), start, back)
        elif h_p.shape[0]:
            start = sweep(_order(a_p.unbind(0), back), _order(h_p.unbind(0), back), start)


def _order(views: Sequence[Tensor], back: bool) -> Sequence[Tensor]:
    return views[::-1] if back else views


def _side_by_side(a: Tensor, h: Tensor, start: Tensor, back: bool) -> Tensor:
    """The blocks (M, L, ...) of a sweep, all advanced by one token at a time; returns the last state."""
    steps, since = _order(a.unbind(1), back), torch.empty_like(a)
    sweep(steps, _order(h.unbind(1), back), torch.zeros((), dtype=h.dtype, device=h.device))
    product = torch.ones((), dtype=a.dtype, device=a.device)
    for step, slot in zip(steps, _order(since.unbind(1), back), strict=True):
        product = torch.mul(step, product, out=slot)
    for p, h_p in zip(_order(since.unbind(0), back), _order(h.unbind(0), back), strict=True):
        h_p.addcmul_(p, start)
        start = h_p[0] if back else h_p[-1]
    return start


class _Scan(torch.autograd.Function):
    """h_t = a_t h_(t-1) + b_t; the gradient of b runs the same recurrence backwards."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        h = b.clone(memory_format=torch.contiguous_format)
        sweep_blocks(a, h, start)
        ctx.save_for_backward(a, h, start)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        a, h, start = ctx.saved_tensors
        flow = grad.clone(memory_format=torch.contiguous_format)
        sweep_blocks(a[1:], flow[:-1], flow[-1], back=True)  # a_(t+1) carries step t on to step t + 1
        of_a = None
        if ctx.needs_input_grad[0]:
            of_a = (flow * torch.cat([start[None], h[:-1]])).sum_to_size(a.shape)
        return of_a, flow, a[0] * flow[0]


def loop(body: Callable[..., Any], carry: list[Tensor], tokens: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """``body(carry, token) -> (carry, outputs)`` over dimension 0 of all tokens, by torch's own scan: the one loop that
    an exported graph of unknown length can hold."""
    from torch._higher_order_ops.scan import scan as torch_scan

    return torch_scan(body, carry, tokens)


def _exported(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """:func:`scan` in a graph."""
    if b.shape[0] == 1:
        return torch.addcmul(b, a, start)

    def body(carry: list[Tensor], token: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        h = torch.addcmul(token[1], token[0], carry[0])
        return [h], [h.clone()]

    return loop(body, [start], [a.contiguous(), b])[1][0]


def scan(a: Float[Tensor, "N *a"], b: Float[Tensor, "N *b"], start: Float[Tensor, "*b"]) -> Float[Tensor, "N *b"]:
    """h_t = a_t h_(t-1) + b_t along dimension 0, with decays 0 <= a <= 1 that broadcast over what follows it."""
    if torch.compiler.is_exporting():
        return _exported(a, b, start)
    return _Scan.apply(a, b, start)


def blocks_of(x: Tensor, length: int, dim: int = 2) -> Tensor:
    """(..., N, ...) -> (..., M, length, ...), the last block filled up with zeros."""
    short = -x.shape[dim] % length
    if short:
        x = F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [0, short])
    return x.unflatten(dim, (-1, length))


def visible(n: int, device: torch.device, frame: int = 1) -> Bool[Tensor, "L L"]:
    """True where the frame of token j, of ``frame`` tokens, is not later than that of token i."""
    at = torch.arange(n, device=device) // frame
    return at[:, None] >= at


def within(g: Float[Tensor, "*m L"], frame: int = 1) -> Float[Tensor, "*m L L"]:
    """exp(g_i - g_j) for cumulated log decays g where j's frame of ``frame`` tokens is not later than i's, else 0."""
    seen = visible(g.shape[-1], g.device, frame)
    return ((g[..., :, None] - g[..., None, :]) * seen).exp() * seen  # masked twice: no exponential of a positive


def faded(x: Tensor, g: Tensor | None, to_end: bool = False) -> Tensor:
    """x_i times the decay from the start of its block to token i, or from token i to the end of the block."""
    if g is None:
        return x
    return x * (g[..., -1:] - g if to_end else g).exp()[..., None]


def decay_scan(
    q: Float[Tensor, "B #H N D"],
    k: Float[Tensor, "B #H N D"],
    v: Float[Tensor, "B H N E"],
    log_a: Float[Tensor, "#B H N"] | None,
    state: Float[Tensor, "B H D E"],
    block: int,
    frame: int = 1,
) -> tuple[Float[Tensor, "B H N E"], Float[Tensor, "B H D E"]]:
    """y_t = q_t^T S_t with S_t = a_t S_(t-1) + k_t v_t^T, and the last S: all pairs inside a block of ``block``
    tokens, the state between blocks. log a <= 0; None is no decay.

    With ``frame`` a token sees all of its own frame of so many tokens, of which the first lets the state decay; a
    block is whole frames.
    """
    n, (q, k, v, state) = q.shape[2], full(q, k, v, state)
    with full_precision(q):
        q, k, v = (blocks_of(t, block) for t in (q, k, v))
        g = None if log_a is None else blocks_of(full(log_a)[0], block).cumsum(-1)
        writes = faded(k, g, to_end=True).mT @ v
        passed = writes.new_ones(1, 1, q.shape[2]) if g is None else g[..., -1].exp()
        after = scan(passed.movedim(2, 0)[..., None, None], writes.movedim(2, 0), state)
        if block == frame:  # all of a block sees all of it: no pairs
            y = q @ after.movedim(0, 2)
        else:
            before = torch.cat([state[None], after[:-1]]).movedim(0, 2)
            weight = visible(block, q.device, frame) if g is None else within(g, frame)
            y = (q @ k.mT * weight) @ v + faded(q, g) @ before
    return y.flatten(2, 3)[:, :, :n], after[-1]


def delta_scan(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B H N D"],
    v: Float[Tensor, "B H N E"],
    beta: Float[Tensor, "B H N"],
    log_a: Float[Tensor, "#B H N"] | None,
    state: Float[Tensor, "B H D E"],
    block: int,
) -> tuple[Float[Tensor, "B H N E"], Float[Tensor, "B H D E"]]:
    """y_t = q_t^T S_t with S_t = a_t S_(t-1) + k_t u_t^T, u_t = beta_t (v_t - a_t S_(t-1)^T k_t), and the last S.

    Inside a block the u solve a unit triangular system whose right side is linear in the state before the block, S:
    u = U - W S, for all blocks at once. Only that product and the next S, which it is written into, are sequential.
    """
    n, (q, k, v, beta, state) = q.shape[2], full(q, k, v, beta, state)
    with full_precision(q):
        q, k, v, beta = (blocks_of(t, block) for t in (q, k, v, beta[..., None]))
        g = None if log_a is None else blocks_of(full(log_a)[0], block).cumsum(-1)
        decay = visible(block, q.device) if g is None else within(g)
        driven = beta * k
        system = driven @ k.mT * decay  # the solve reads it below the diagonal only
        right = torch.cat([beta * v, faded(driven, g)], -1)
        # the system transposed, x A^T = b^T: in memory both are as LAPACK wants them
        solved = torch.linalg.solve_triangular(system.mT, right.mT, upper=True, left=False, unitriangular=True).mT
        u, w = solved.split([v.shape[-1], k.shape[-1]], -1)
        write = faded(k, g, to_end=True).mT
        keep = u.new_ones(1, 1, q.shape[2]) if g is None else g[..., -1].exp()
        keep = keep.expand(*q.shape[:3])[..., None, None]
        befores, news, s = [], [], state.flatten(0, 1)
        for u_m, w_m, write_m, keep_m in zip(*(t.flatten(0, 1).unbind(1) for t in (u, w, write, keep)), strict=True):
            befores.append(s)
            news.append(torch.baddbmm(u_m, w_m, s, alpha=-1))
            s = torch.baddbmm(s if g is None else keep_m * s, write_m, news[-1])
        before, new = (torch.stack(t, 1).unflatten(0, state.shape[:2]) for t in (befores, news))
        y = faded(q, g) @ before + (q @ k.mT * decay) @ new
    return y.flatten(2, 3)[:, :, :n], s.unflatten(0, state.shape[:2])


class _Selective(torch.autograd.Function):
    """The scan of :func:`selective_scan`, piece by piece: a piece of N x S x C numbers fits a cache and is made anew
    in backward, so that only the states between pieces are kept."""

    @staticmethod
    def forward(
        ctx: Any, dt: Tensor, u: Tensor, rate: Tensor, b: Tensor, c: Tensor, start: Tensor, block: int
    ) -> tuple[Tensor, Tensor]:
        outputs, starts = [], []
        for dt_p, u_p, b_p, c_p in zip(*(t.split(block) for t in (dt, u, b, c)), strict=True):
            starts.append(start)
            _, h = _piece(dt_p, u_p, rate, b_p, start)
            outputs.append(weighed(c_p, h))
            start = h[-1].clone()
        ctx.block = block
        ctx.save_for_backward(dt, u, rate, b, c, torch.stack(starts))
        return torch.cat(outputs), start

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, carry: Tensor) -> tuple[Tensor | None, ...]:
        dt, u, rate, b, c, starts = ctx.saved_tensors
        pieces = list(zip(*(t.split(ctx.block) for t in (dt, u, b, c, grad)), starts.unbind(0), strict=True))
        found, of_rate = [], torch.zeros_like(rate)
        for dt_p, u_p, b_p, c_p, grad_p, start in reversed(pieces):
            a, h = _piece(dt_p, u_p, rate, b_p, start)
            flow = c_p[..., None] * grad_p[:, :, None]
            flow[-1] += carry
            sweep_blocks(a[1:], flow[:-1], flow[-1], back=True)
            of_c, of_b, of_u = weighed(grad_p, h.mT), weighed(u_p, flow.mT), weighed(b_p, flow)
            carry = a[0] * flow[0]
            flow[1:] *= h[:-1]
            flow[0] *= start
            flow *= a  # now the gradient of log a = dt * rate
            of_rate += (flow * dt_p[:, :, None]).sum((0, 1))
            found.append(((flow * rate).sum(2), of_u, of_b, of_c))
        of_dt, of_u, of_b, of_c = (torch.cat(parts[::-1]) for parts in zip(*found, strict=True))
        return of_dt, of_u, of_rate, of_b, of_c, carry, None


def weighed(weight: Float[Tensor, "*m S"], h: Float[Tensor, "*m S C"]) -> Float[Tensor, "*m C"]:
    """sum_s weight_s h_s, as a row times a matrix: in torch a matrix times a column takes seven times as long."""
    return (weight[..., None, :] @ h)[..., 0, :]


def _piece(dt: Tensor, u: Tensor, rate: Tensor, b: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and states (N, B, S, C) of one piece."""
    a = (dt[:, :, None] * (rate / math.log(2))).exp2_()  # torch's exp takes more than twice as long
    h = u[:, :, None] * b[..., None]
    sweep_blocks(a, h, start)
    return a, h


def selective_scan(
    dt: Float[Tensor, "B N C"],
    u: Float[Tensor, "B N C"],
    rate: Float[Tensor, "S C"],
    b: Float[Tensor, "B N S"],
    c: Float[Tensor, "B N S"],
    start: Float[Tensor, "B S C"],
    block: int,
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B S C"]]:
    """y_t = sum_s c_ts h_ts with h_ts = exp(dt_t rate_s) h_(t-1)s + b_ts u_t per channel, and the last h.

    dt >= 0 and rate <= 0. The states, N x S x C numbers, never stand in memory at once; a large batch goes in parts.
    """
    dt, u, rate, b, c, start = full(dt, u, rate, b, c, start)
    dt, u, b, c = (t.transpose(0, 1) for t in (dt, u, b, c))
    with full_precision(u):
        if u.shape[0] == 1:
            h = torch.addcmul(u[0][:, None] * b[0][..., None], (dt[0][:, None] * rate).exp(), start)
            return (c[0][:, None] @ h), h
        items = max(1, PIECE // (min(block, u.shape[0]) * start[0].numel()))
        inputs = zip(*(t.split(items, 1) for t in (dt, u, b, c)), start.split(items), strict=True)
        parts = [
            _Selective.apply(dt_i.contiguous(), u_i.contiguous(), rate, b_i.contiguous(), c_i.contiguous(), s_i, block)
            for dt_i, u_i, b_i, c_i, s_i in inputs
        ]
    return torch.cat([y for y, _ in parts], 1).transpose(0, 1), torch.cat([last for _, last in parts])
