"""State spaces: states that decay at rates chosen by the input (scan, ssd), or fixed (legendre, conv_ssm).

Shapes: B items, N tokens, C channels, E = expand * C inner channels, S states, H heads, D = E / H.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from .base import Mixer, State, at_least, heads_of
from .gating import CONV, reach
from .scans import blocks_of, decay_scan, full, full_precision, scan, selective_scan
from .sequence import Sequence, ShortConv, join_heads, split_heads


def softplus_inverse(y: Tensor) -> Tensor:
    """x with softplus(x) = y, for y > 0."""
    return y + torch.log(-torch.expm1(-y))


class Selective(Sequence):
    """What ``scan`` and ``ssd`` share: the clock.

    A step takes dt_t = softplus(.) times the real time since the last real token, in ``unit``s of the layout's
    positions: step lengths as data, from "Simplified State Space Layers for Sequence Modeling" (Smith et al. 2022).
    It counts 1 where ``unit`` is None or the layout carries no times, and for the first token. At a masked token
    dt = 0: nothing decays and nothing is written.
    """

    unit: float | None

    def clock(self, layout: Layout, state: State, like: Tensor) -> tuple[Tensor, Tensor]:
        """Step lengths (B, N, 1), 0 at masked tokens, and the time of the last real token (B,)."""
        at, n = state["at"], like.shape[1]
        real = like.new_ones(like.shape[:2], dtype=torch.bool) if layout.mask is None else layout.mask
        if self.unit is None or layout.positions is None:
            return real[..., None].to(like.dtype), at
        now = layout.positions[..., 0].to(at.dtype).masked_fill(~real, -torch.inf)
        last = torch.cat([at[:, None], now], 1).cummax(1).values  # the latest time so far, -inf before the first
        step = (now - last[:, :n]).clamp_min(0) / self.unit
        step = torch.where(real, torch.where(last[:, :n].isinf(), 1.0, step), 0.0)
        return step[..., None].to(like.dtype), last[:, -1]

    def stream(
        self, x: Float[Tensor, "B N C"], state: State, layout: Layout | None = None
    ) -> tuple[Float[Tensor, "B N C"], State]:
        """With ``unit``, the layout of the piece carries its times."""
        return self.run(x, layout or Layout((x.shape[1],)), state, min(self.chunk, x.shape[1]))

    def states(self, h: Tensor, conv: ShortConv) -> State:
        """Zeros of the shape of ``h``, before the first token."""
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        return {
            "h": h,
            "conv": conv.init_state(h.shape[0]),
            "at": h.new_full((h.shape[0],), -torch.inf, dtype=torch.float64),
        }


class Scan(Selective):
    """h_t = exp(dt_t A) h_(t-1) + dt_t B_t x_t, y_t = C_t h_t + D x_t: S states per channel, A < 0 learned.

    "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (Gu and Dao 2023): x passes a short causal
    convolution and SiLU; dt (through a narrow layer), B and C are linear in it; y is gated by SiLU(W_z).
    Without a mask and times this is Mamba-1. On a grid: ``directions``.

    states: S. expand: inner width over dim. unit: length of a regular step in the unit of the layout's positions.
    """

    cost: ClassVar[str] = "O(N d^2)"

    def __init__(
        self,
        dim: int,
        states: int = 16,
        expand: int = 2,
        kernel: int = 4,
        unit: float | None = None,
        chunk: int = 64,
        causal_axes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        inner, self.narrow = dim * at_least("expand", expand, 1), -(-dim // 16)
        self.count, self.unit, self.chunk = at_least("states", states, 1), unit, at_least("chunk", chunk, 1)
        self.both = nn.Linear(dim, 2 * inner)
        self.conv = ShortConv(inner, at_least("kernel", kernel, 1))
        self.select = nn.Linear(inner, self.narrow + 2 * states, bias=False)
        self.dt = nn.Linear(self.narrow, inner)
        self.log_rate = nn.Parameter(torch.arange(1.0, states + 1).log()[:, None].repeat(1, inner))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, dim)
        with torch.no_grad():  # dt spread evenly in log from 0.001 to 0.1
            self.dt.bias.copy_(softplus_inverse(torch.logspace(-3, -1, inner)))

    def init_state(self, batch: int) -> State:
        return self.states(self.out.weight.new_zeros(batch, *self.log_rate.shape), self.conv)

    def run(
        self, x: Float[Tensor, "B N C"], layout: Layout, state: State, block: int
    ) -> tuple[Float[Tensor, "B N C"], State]:
        v, z = self.both(x).chunk(2, -1)
        v, conv = self.conv(layout.clean(v), state["conv"])
        v = F.silu(v)
        narrow, b, c = self.select(v).split([self.narrow, self.count, self.count], -1)
        clock, at = self.clock(layout, state, v)
        dt = F.softplus(self.dt(narrow)) * clock
        y, h = selective_scan(dt, dt * v, -self.log_rate.exp(), b, c, state["h"], block)
        return self.out((y + self.skip * v).to(x.dtype) * F.silu(z)), {"h": h, "conv": conv, "at": at}


class Ssd(Selective):
    """S_t = exp(dt_t A_h) S_(t-1) + dt_t B_t x_t^T, y_t = W_o (norm((C_t^T S_t + D_h x_t) * SiLU(W_z x_t))).

    "Transformers are SSMs" (Dao and Gu 2024), Mamba-2, as studied in "An Empirical Study of Mamba-based Language
    Models" (Waleffe et al. 2024): one decay per head, so that a block of tokens is a product of matrices. x, B and C
    pass a short causal convolution and SiLU; B and C serve all heads.

    states: rows of S. expand: inner width over dim. unit: as in ``scan``.
    """

    cost: ClassVar[str] = "O(N d^2)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        states: int = 64,
        expand: int = 2,
        kernel: int = 4,
        unit: float | None = None,
        chunk: int = 64,
        causal_axes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        inner = dim * at_least("expand", expand, 1)
        self.heads, self.unit, self.chunk = heads_of(inner, heads), unit, at_least("chunk", chunk, 1)
        self.parts = [inner, at_least("states", states, 1), states]
        self.gate = nn.Linear(dim, inner)
        self.xbc = nn.Linear(dim, sum(self.parts))
        self.conv = ShortConv(sum(self.parts), at_least("kernel", kernel, 1))
        self.dt = nn.Linear(dim, self.heads)
        self.log_rate = nn.Parameter(torch.linspace(1, 16, self.heads).log())
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(inner, eps=1e-6)
        self.out = nn.Linear(inner, dim)
        with torch.no_grad():
            self.dt.bias.copy_(softplus_inverse(torch.logspace(-3, -1, self.heads)))

    def init_state(self, batch: int) -> State:
        head = self.out.in_features // self.heads
        return self.states(self.out.weight.new_zeros(batch, self.heads, self.parts[1], head), self.conv)

    def run(
        self, x: Float[Tensor, "B N C"], layout: Layout, state: State, block: int
    ) -> tuple[Float[Tensor, "B N C"], State]:
        xbc, conv = self.conv(layout.clean(self.xbc(x)), state["conv"])
        v, b, c = F.silu(xbc).split(self.parts, -1)
        clock, at = self.clock(layout, state, v)
        dt, v = (F.softplus(self.dt(x)) * clock).mT, split_heads(v, self.heads)
        log_a = -self.log_rate.exp()[:, None] * dt
        y, h = decay_scan(c[:, None], b[:, None], dt[..., None] * v, log_a, state["h"], block)
        y = join_heads(y + self.skip[:, None, None] * v).to(x.dtype)
        return self.out(self.norm(y * F.silu(self.gate(x)))), {"h": h, "conv": conv, "at": at}


def legendre(order: int, window: float) -> tuple[Float[Tensor, "S S"], Float[Tensor, "S"]]:
    """One step of the Legendre delay system: m_t = A m_(t-1) + B u_t holds the last ``window`` values of u as
    coefficients of the shifted Legendre polynomials; zero-order hold, float64."""
    i, j = torch.meshgrid(*(torch.arange(order, dtype=torch.float64),) * 2, indexing="ij")
    sign = torch.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    a = (2 * i + 1) * sign / window
    b = ((2 * i + 1) * (-1.0) ** i)[:, 0] / window
    step = torch.linalg.matrix_exp(a)
    return step, torch.linalg.solve(a, (step - torch.eye(order, dtype=a.dtype)) @ b)


class Legendre(Sequence):
    """u_t = W_u x_t, m_t = A m_(t-1) + B u_t, y_t = W_o gelu(W_m m_t + W_x x_t), with A and B fixed.

    "LMUFormer: Low Complexity Yet Powerful Spiking Model With Legendre Memory Units" (Liu et al. 2024): m_t holds the
    last ``window`` tokens of each of ``inputs`` signals u in ``order`` Legendre coefficients. Masked tokens count as
    zeros that take their time. The block form is the impulse response of (A, B), as a matrix, inside a block.
    """

    cost: ClassVar[str] = "O(N d^2)"
    a: Tensor
    b: Tensor

    def __init__(
        self,
        dim: int,
        order: int = 16,
        window: float = 128.0,
        inputs: int = 4,
        chunk: int = 64,
        causal_axes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.inputs, self.order, self.chunk = at_least("inputs", inputs, 1), at_least("order", order, 1), chunk
        if window < 1:
            raise BadRequest(f"window must be at least 1 token, got {window}")
        for name, value in zip("ab", legendre(order, window), strict=True):
            self.register_buffer(name, value, persistent=False)
        self.signal = nn.Linear(dim, inputs, bias=False)
        self.memory, self.own = nn.Linear(inputs * order, dim, bias=False), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def init_state(self, batch: int) -> State:
        m = self.out.weight.new_zeros(batch, self.inputs, self.order)
        return {"m": m.to(torch.promote_types(m.dtype, torch.float32))}

    def response(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """A^1 .. A^length (L, S, S), and what token j writes into the memory after token i: (L, L, S), j <= i."""
        powers = self.a[None]
        while len(powers) < length:
            powers = torch.cat([powers, powers @ powers[-1]])
        impulse = torch.cat([self.b[None], powers[: length - 1] @ self.b]).to(like.dtype)
        at = torch.arange(length, device=like.device)
        apart = at[:, None] - at
        return powers[:length].to(like.dtype), impulse[apart.clamp_min(0)] * (apart >= 0)[..., None]

    def run(
        self, x: Float[Tensor, "B N C"], layout: Layout, state: State, block: int
    ) -> tuple[Float[Tensor, "B N C"], State]:
        n, (u, m) = x.shape[1], full(self.signal(x), state["m"])
        with full_precision(x):
            powers, response = self.response(block, u)
            written = torch.einsum("ijs,bmju->bmius", response, blocks_of(u, block, dim=1))
            before = []
            for last in written[:, :, -1].unbind(1):
                before.append(m)
                m = m @ powers[-1].mT + last
            held = written + torch.einsum("ist,bmut->bmius", powers, torch.stack(before, 1))
            held = held.flatten(1, 2)[:, :n].contiguous()
        y = self.memory(held.flatten(2).to(x.dtype)) + self.own(x)
        return self.out(F.gelu(y)), {"m": held[:, -1]}


class ConvSsm(Mixer):
    """X_t = exp(-r) * X_(t-1) + (1 - exp(-r)) / r * (B conv x_t), y_t = C conv X_t + D * x_t over frames x_t.

    "Convolutional State Space Models for Long-Range Spatiotemporal Modeling" (Smith et al. 2023): axis 0 is time, the
    other axes are space; B and C are convolutions over space, the state decays by itself at every place, at a real
    rate r > 0 per state channel that starts at (i + 1) / window.

    states: channels of X. kernel: width of B and C. window: time of the slowest channel, in frames.
    """

    ranks: ClassVar[frozenset[int]] = frozenset({2, 3})
    causal_axes: ClassVar[frozenset[int]] = frozenset({0})
    cost: ClassVar[str] = "O(N d^2)"
    causal: frozenset[int] = frozenset({0})

    def __init__(
        self,
        dim: int,
        states: int = 16,
        kernel: int = 3,
        window: float = 64.0,
        causal_axes: tuple[int, ...] = (),
        rank: int = 2,
    ) -> None:
        super().__init__()
        if rank not in self.ranks:
            raise BadRequest(f"ConvSsm needs time and one or two axes of space, got rank={rank}")
        self.rank, self.kernel = rank, at_least("kernel", kernel, 1)
        self.write = CONV[rank - 1](dim, at_least("states", states, 1), kernel, bias=False)
        self.read = CONV[rank - 1](states, dim, kernel)
        self.log_rate = nn.Parameter((torch.arange(1.0, states + 1) / window).log())
        self.skip = nn.Parameter(torch.ones(dim))

    def over_space(self, conv: nn.Module, x: Float[Tensor, "B T *space C"]) -> Float[Tensor, "B T *space K"]:
        """A convolution of every frame."""
        frames = reach(x.flatten(0, 1).movedim(-1, 1), self.kernel, frozenset())
        return conv(frames).movedim(1, -1).unflatten(0, x.shape[:2])

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        u = layout.clean(layout.unfold(self.over_space(self.write, layout.fold(x))))
        u, rate = full(layout.fold(u), self.log_rate.exp())
        keep = (-rate).exp()
        u = (u * (1 - keep) / rate).movedim(1, 0)
        h = scan(keep.expand(u.shape[0], *(1,) * (u.ndim - 2), -1), u, torch.zeros_like(u[0])).movedim(0, 1)
        return layout.unfold(self.over_space(self.read, h.to(x.dtype))) + self.skip * x
