"""Retention and the matrix memory of xLSTM: linear-attention states that forget.

Shapes: B items, N tokens, C channels, H heads, D = C / H.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..layout import Layout
from .base import State, at_least, heads_of
from .scans import decay_scan
from .sequence import Sequence, head_norm, join_heads, masked_heads, split_heads


def turn(x: Float[Tensor, "B H N D"], angle: Float[Tensor, "#B N F"]) -> Float[Tensor, "B H N D"]:
    """Channels f and f + F of x turned by angle f as the two parts of a complex number; one left over stays."""
    width = angle.shape[-1]
    cos, sin = (t[:, None].to(x.dtype) for t in (angle.cos(), angle.sin()))
    a, b, rest = x.split([width, width, x.shape[-1] - 2 * width], -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)


class Retention(Sequence):
    """y_n = W_o (SiLU(W_g x_n) * norm(sum over m <= n of g_h^(n-m) (R^n q_n)^T (R^m k_m) v_m)), k scaled by 1/sqrt(D).

    "ViR: Vision Retention Networks" (Hatamizadeh et al. 2023) after "Retentive Network: A Successor to Transformer for
    Large Language Models" (Sun et al. 2023). The decays g_h = 1 - 2^(-5-h) are fixed, one scale per head; R turns
    pairs of channels by angles 10000^(-f/F) (the rotation of xPos, whose scaling is the decay here); a head is
    normalised by its root mean square. n counts places, masked ones too, so that a gap takes its time.
    """

    cost: ClassVar[str] = "O(N d^2)"
    log_decay: Tensor
    speed: Tensor

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        gate: bool = True,
        chunk: int = 64,
        causal_axes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.heads, self.chunk = heads_of(dim, heads), at_least("chunk", chunk, 1)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.gate = nn.Linear(dim, dim) if gate else None
        self.out = nn.Linear(dim, dim)
        pairs = dim // self.heads // 2
        speed = 10000.0 ** -(torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
        self.register_buffer("speed", speed, persistent=False)
        log_decay = torch.log1p(-(2.0 ** -torch.arange(5, 5 + self.heads, dtype=torch.float64)))
        self.register_buffer("log_decay", log_decay, persistent=False)

    def init_state(self, batch: int) -> State:
        width = self.out.in_features // self.heads
        zeros = self.out.weight.new_zeros(batch, self.heads, width, width)
        at = torch.zeros(batch, dtype=torch.float64, device=zeros.device)  # a whole number
        return {"s": zeros.to(torch.promote_types(zeros.dtype, torch.float32)), "at": at}

    def run(
        self, x: Float[Tensor, "B N C"], layout: Layout, state: State, block: int
    ) -> tuple[Float[Tensor, "B N C"], State]:
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, -1))
        at = state["at"][:, None] + torch.arange(x.shape[1], device=x.device)
        angle = at[..., None] * self.speed.double()  # exact after millions of tokens too
        k = k * k.shape[-1] ** -0.5
        if layout.mask is not None:
            k = k.masked_fill(~layout.mask[:, None, :, None], 0.0)
        log_a = self.log_decay.to(k.dtype)[None, :, None].expand(1, -1, x.shape[1])
        y, s = decay_scan(turn(q, angle), turn(k, angle), v, log_a, state["s"], block)
        y = join_heads(head_norm(y)).to(x.dtype)
        if self.gate is not None:
            y = y * F.silu(self.gate(x))
        return self.out(y), {"s": s, "at": at[:, -1] + 1}


class MatrixLstm(Sequence):
    """C_t = f_t C_(t-1) + i_t k_t v_t^T, n_t = f_t n_(t-1) + i_t k_t,
    y_t = W_o (sigmoid(W_g x_t) * norm(C_t^T q_t / max(|n_t^T q_t|, 1))).

    The mLSTM of "xLSTM: Extended Long Short-Term Memory" (Beck et al. 2024), as in "Bio-xLSTM: Generative modeling,
    representation and in-context learning of biological and chemical sequences" (Schmidinger et al. 2024): per head
    f = sigmoid(w_f x), i = exp(w_i x), k scaled by 1/sqrt(D). The state is kept times exp(-m_t), with
    m_t = max(log f_t + m_(t-1), log i_t): in terms of the shifted gates log f'_t = log f_t + m_(t-1) - m_t <= 0 and
    log i'_t = log i_t - m_t <= 0 it is an ordinary decayed sum, and nothing overflows. n is one more column of C.
    A masked token leaves the state as it is.
    """

    cost: ClassVar[str] = "O(N d^2)"

    def __init__(self, dim: int, heads: int | None = None, chunk: int = 64, causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.heads, self.chunk = heads_of(dim, heads), at_least("chunk", chunk, 1)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.gates = nn.Linear(dim, 2 * self.heads)
        self.gate = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        with torch.no_grad():
            self.gates.bias[: self.heads] = torch.linspace(3.0, 6.0, self.heads)  # forget slowly at the start
            self.gates.bias[self.heads :] = -2.0

    def init_state(self, batch: int) -> State:
        width = self.out.in_features // self.heads
        zeros = self.out.weight.new_zeros(batch, self.heads, width, width + 1)
        zeros = zeros.to(torch.promote_types(zeros.dtype, torch.float32))
        return {"s": zeros, "m": zeros.new_zeros(batch, self.heads)}

    def run(
        self, x: Float[Tensor, "B N C"], layout: Layout, state: State, block: int
    ) -> tuple[Float[Tensor, "B N C"], State]:
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, -1))
        forget, write = self.gates(x).to(state["m"].dtype).mT.chunk(2, 1)
        forget = masked_heads(F.logsigmoid(forget), layout)
        if layout.mask is not None:
            write = write.masked_fill(~layout.mask[:, None], -torch.inf)
        m = running_max(forget, write, state["m"])
        shift = m - torch.cat([state["m"][..., None], m[..., :-1]], -1)
        k = k * k.shape[-1] ** -0.5 * (write - m).exp()[..., None]
        y, s = decay_scan(q, k, F.pad(v, (0, 1), value=1.0), forget - shift, state["s"], block)
        y = y[..., :-1] / torch.maximum(y[..., -1:].abs(), (-m).exp()[..., None])
        y = join_heads(head_norm(y)).to(x.dtype) * self.gate(x).sigmoid()
        return self.out(y), {"s": s, "m": m[..., -1]}


def running_max(
    log_a: Float[Tensor, "B H N"], log_b: Float[Tensor, "B H N"], start: Float[Tensor, "B H"]
) -> Float[Tensor, "B H N"]:
    """m_t = max(log a_t + m_(t-1), log b_t), without a gradient: it only scales a state that is scaled back."""
    total = log_a.detach().double().cumsum(-1)
    best = torch.maximum((log_b.detach() - total).cummax(-1).values, start[..., None])
    return (total + best).to(start.dtype)
