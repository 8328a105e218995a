"""Memories written by rules of their own: a network trained while it reads, and a neuron with slow memory.

Shapes: B items, N tokens, C channels, H heads, D = C / H, W hidden width of the memory.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..layout import Layout
from .base import State, at_least, heads_of
from .scans import full, full_precision, scan, within
from .sequence import Sequence, head_norm, join_heads, masked_heads, split_heads

NET = ("w1", "w2")


class TestTime(Sequence):
    """A memory M(k) = k + W2 silu(W1 k) per head, trained on the tokens as they pass:
    S_t = e_t S_(t-1) - l_t grad |M(k_t) - v_t|^2 / 2, M_t = (1 - a_t) M_(t-1) + S_t, y_t = W_o norm(M_t(q_t)).

    "Titans: Learning to Memorize at Test Time" (Behrouz et al. 2025): momentum e_t, rate l_t and forgetting a_t are
    sigmoids of x_t per head, q and k have length 1, and the gradients of a block of ``batch`` tokens are all taken at
    the weights before the block, as there. M starts from learned weights. Each W_t is then the start, the momentum
    and a weighted sum of outer products, so reading a block is a product of matrices and no W_t is ever formed.
    A masked token changes nothing but takes its place in a block.

    width: hidden width of the memory; None takes D. batch: tokens per block; part of the definition, not of the speed.
    """

    __test__ = False  # the name is not a test's
    cost: ClassVar[str] = "O(N d^2)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        width: int | None = None,
        batch: int = 16,
        rate: float = 0.01,
        causal_axes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.heads, self.chunk = heads_of(dim, heads), at_least("batch", batch, 1)
        head = dim // self.heads
        width = head if width is None else at_least("width", width, 1)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.gates = nn.Linear(dim, 3 * self.heads)
        self.w1 = nn.Parameter(torch.randn(self.heads, width, head) * head**-0.5)
        self.w2 = nn.Parameter(torch.randn(self.heads, head, width) * width**-0.5)
        self.out = nn.Linear(dim, dim)
        with torch.no_grad():  # momentum 0.9, the rate, forgetting 0.01
            start = torch.tensor([0.9, rate, 0.01]).logit()
            self.gates.bias.copy_(start.repeat_interleave(self.heads))

    def init_state(self, batch: int) -> State:
        state: State = {"count": torch.zeros(batch, dtype=torch.float64, device=self.w1.device)}
        for name in NET:
            w = getattr(self, name).expand(batch, -1, -1, -1).clone()
            (w,) = full(w)
            state |= {name: w, f"{name}_now": w.clone(), f"{name}_speed": torch.zeros_like(w)}
        return state

    def run(
        self, x: Float[Tensor, "B N C"], layout: Layout, state: State, block: int
    ) -> tuple[Float[Tensor, "B N C"], State]:
        q, k, v = full(*(split_heads(t, self.heads) for t in self.qkv(x).chunk(3, -1)))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        keep, rate, forget = self.gates(x).to(q.dtype).mT.chunk(3, 1)
        real = masked_heads(torch.ones_like(keep), layout)
        gates = [F.logsigmoid(keep) * real, rate.sigmoid() * real, F.logsigmoid(-forget) * real, real]
        sizes = self.pieces(x.shape[1], block, state)
        outputs = []
        with full_precision(q):  # split, not slices: their backward would write every piece at full length
            for q_p, k_p, v_p, *gates_p in zip(*(t.split(sizes, 2) for t in (q, k, v, *gates)), strict=True):
                y, state = self.read(q_p, k_p, v_p, gates_p, state)
                outputs.append(y)
        return self.out(join_heads(head_norm(torch.cat(outputs, 2))).to(x.dtype)), state

    def pieces(self, n: int, block: int, state: State) -> list[int]:
        """Lengths of pieces that never cross the border of a block."""
        if block == 1:
            return [1] * n
        sizes: list[int] = []
        at = int(state["count"][0]) % self.chunk
        while sum(sizes) < n:
            sizes.append(min(block, self.chunk - (at + sum(sizes)) % self.chunk, n - sum(sizes)))
        return sizes

    def read(self, q: Tensor, k: Tensor, v: Tensor, gates: list[Tensor], state: State) -> tuple[Tensor, State]:
        """A piece of one block: q, k, v (B, H, n, D), gates (B, H, n)."""
        keep, rate, forget, real = gates
        opens = (state["count"] % self.chunk == 0)[:, None, None, None]
        after: State = {name: torch.where(opens, state[f"{name}_now"], state[name]) for name in NET}
        before = k @ after["w1"].mT
        hidden, slope = F.silu(before), before.sigmoid() * (1 + before * (1 - before.sigmoid()))
        wrong = k + hidden @ after["w2"].mT - v
        outer = {"w1": ((wrong @ after["w2"]) * slope, k), "w2": (wrong, hidden)}  # gradient j is left_j right_j^T

        speed, left = within(keep.cumsum(-1)), within(forget.cumsum(-1))
        of_start, of_speed = forget.cumsum(-1).exp()[..., None], left * real[..., None, :]
        of_past, of_speed0 = of_speed @ speed * rate[..., None, :], of_speed @ keep.cumsum(-1).exp()[..., None]

        def times(name: str, z: Tensor) -> Tensor:
            """W_t z_t for every token t."""
            grad, seen = outer[name]
            was = of_start * (z @ state[f"{name}_now"].mT) + of_speed0 * (z @ state[f"{name}_speed"].mT)
            return was - (of_past * (z @ seen.mT)) @ grad

        y = q + times("w2", F.silu(times("w1", q)))
        for name, (grad, seen) in outer.items():
            now, fast = state[f"{name}_now"], state[f"{name}_speed"]
            after[f"{name}_now"] = (
                of_start[..., -1:, :] * now
                + of_speed0[..., -1:, :] * fast
                - (grad * of_past[..., -1, :, None]).mT @ seen
            )
            weight = (speed[..., -1, :] * rate)[..., None]
            after[f"{name}_speed"] = keep.sum(-1).exp()[..., None, None] * fast - (grad * weight).mT @ seen
        return y, after | {"count": state["count"] + q.shape[2]}


class Leaky(Sequence):
    """b_t = k_b b_(t-1) + sum over the branch of w_s x_t, w_s > 0, z = k_m m_(t-1),
    m_t = z + (1 - k_l) tanh(W_2 silu(W_1 [b_t, z])), y_t = W_o m_t.

    "The Expressive Leaky Memory Neuron: an Efficient and Expressive Phenomenological Neuron Model Can Solve
    Long-Horizon Tasks" (Spieler et al. 2024): channels are synapses on ``branches``, whose sums leak with k_b;
    ``memories`` leak with k_m = exp(-1 / t), t learned from a spread of 1 to ``window`` tokens, and
    k_l = exp(-5 / t). The memories feed back through a network, so its steps can only follow one another.
    A masked token leaves all as it is.
    """

    cost: ClassVar[str] = "O(N d^2)"
    chunk: int = 1

    def __init__(
        self,
        dim: int,
        branches: int | None = None,
        memories: int | None = None,
        window: float = 150.0,
        causal_axes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.branches = heads_of(dim, branches)
        self.memories = dim if memories is None else at_least("memories", memories, 1)
        self.synapse = nn.Parameter(torch.randn(dim) * 0.1 - 1.0)
        self.branch_time = nn.Parameter(torch.full((self.branches,), 5.0).log())
        self.memory_time = nn.Parameter(torch.logspace(0, 1, self.memories).log() * torch.tensor(window).log10())
        self.inward = nn.Linear(self.branches + self.memories, 2 * self.memories)
        self.inner = nn.Linear(2 * self.memories, self.memories)
        self.out = nn.Linear(self.memories, dim)

    def init_state(self, batch: int) -> State:
        like = self.out.weight.to(torch.promote_types(self.out.weight.dtype, torch.float32))
        return {"b": like.new_zeros(batch, self.branches), "m": like.new_zeros(batch, self.memories)}

    def run(
        self, x: Float[Tensor, "B N C"], layout: Layout, state: State, block: int
    ) -> tuple[Float[Tensor, "B N C"], State]:
        real = x.new_ones(*x.shape[:2], 1) if layout.mask is None else layout.mask[..., None].to(x.dtype)
        driven = (x * F.softplus(self.synapse)).unflatten(-1, (self.branches, -1)).sum(-1)
        driven, leak, m = full(driven, torch.exp(-torch.exp(-self.branch_time)), state["m"])
        decay = torch.where(real.bool(), leak, 1.0)
        b = scan(decay.transpose(0, 1), driven.transpose(0, 1), state["b"])  # masked x is 0
        rate = torch.exp(-self.memory_time).to(m.dtype)
        keep, share = torch.exp(-rate), -torch.expm1(-5 * rate)
        from_b, from_m = self.inward.weight.split([self.branches, self.memories], 1)
        memories = []
        for drive, here in zip(F.linear(b.to(x.dtype), from_b, self.inward.bias), real.unbind(1), strict=True):
            z = keep * m
            change = torch.tanh(self.inner(F.silu(drive + F.linear(z.to(drive.dtype), from_m))))
            m = torch.where(here.bool(), z + share * change, m)
            memories.append(m)
        return self.out(torch.stack(memories, 1).to(x.dtype)), {"b": b[-1], "m": m}
