"""The delta rule: a linear-attention state that corrects what it holds instead of adding to it.

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
from .scans import delta_scan
from .sequence import Sequence, ShortConv, head_norm, join_heads, masked_heads, split_heads


class Delta(Sequence):
    """S_t = a_t (I - b_t k_t k_t^T) S_(t-1) + b_t k_t v_t^T, y_t = W_o norm(S_t^T q_t).

    "Parallelizing Linear Transformers with the Delta Rule over Sequence Length" (Yang et al. 2024): q, k, v pass a
    short causal convolution and SiLU, q and k are scaled to length 1, b_t = sigmoid(w_b x_t) per head, and a head is
    normalised by its root mean square. a_t = 1; ``decay`` makes it exp(-softplus(w_a x_t + c_h)) per head, and
    ``gate`` multiplies the normalised heads by SiLU(W_g x): both as in "Gated Delta Networks: Improving Mamba2 with
    Delta Rule" (Yang et al. 2024). A masked token leaves S as it is.

    kernel: width of the short convolution.
    """

    cost: ClassVar[str] = "O(N d^2)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        decay: bool = False,
        gate: bool = False,
        kernel: int = 4,
        chunk: int = 32,
        causal_axes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.heads, self.chunk = heads_of(dim, heads), at_least("chunk", chunk, 1)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.conv = ShortConv(3 * dim, at_least("kernel", kernel, 1))
        self.beta = nn.Linear(dim, self.heads)
        self.alpha = nn.Linear(dim, self.heads) if decay else None
        self.gate = nn.Linear(dim, dim) if gate else None
        self.out = nn.Linear(dim, dim)
        if self.alpha is not None:
            nn.init.constant_(self.alpha.bias, -4.0)  # a half-life of some 40 tokens

    def init_state(self, batch: int) -> State:
        width = self.out.in_features // self.heads
        zeros = self.out.weight.new_zeros(batch, self.heads, width, width)
        return {"s": zeros.to(torch.promote_types(zeros.dtype, torch.float32)), "conv": self.conv.init_state(batch)}

    def run(
        self, x: Float[Tensor, "B N C"], layout: Layout, state: State, block: int
    ) -> tuple[Float[Tensor, "B N C"], State]:
        qkv, conv = self.conv(layout.clean(self.qkv(x)), state["conv"])
        q, k, v = (split_heads(t, self.heads) for t in F.silu(qkv).chunk(3, -1))
        beta = masked_heads(self.beta(x).sigmoid().mT, layout)
        log_a = None if self.alpha is None else masked_heads(-F.softplus(self.alpha(x)).mT, layout)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        y, s = delta_scan(q, k, v, beta, log_a, state["s"], block)
        y = join_heads(head_norm(y)).to(x.dtype)
        if self.gate is not None:
            y = y * F.silu(self.gate(x))
        return self.out(y), {"s": s, "conv": conv}
