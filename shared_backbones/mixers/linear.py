"""Linear attention: a state of fixed size in place of all pairs.

Shapes: B items, N tokens, C channels, H heads, D = C / H, S = D x (D + 1) the state of one head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest, unknown
from ..layout import Layout
from .base import Mode, State, StateMixer, at_least, heads_of
from .scans import decay_scan
from .sequence import elu1, head_norm

FEATURES: dict[str, Callable[[Tensor], Tensor]] = {"elu": elu1, "relu": F.relu}


class Linear(StateMixer):
    """y_i = phi(q_i)^T S_i / (phi(q_i)^T z_i + eps), S = sum_j phi(k_j) v_j^T, z = sum_j phi(k_j), phi = elu + 1.

    "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention" (Katharopoulos et al. 2020). Without
    a causal axis the sums run over all tokens; causal along axis 0 they run over all tokens up to i's own frame (a
    frame is one place of axis 0: a token of a sequence, a picture of a video). ``decay`` then weighs token j by
    lambda_h^(frames between), learned per head, as in "Retentive Network" (Sun et al. 2023). The state keeps z as one
    more column of S.

    chunk: tokens per block of the causal sum.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0})
    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N d^2)"
    eps: ClassVar[float] = 1e-6

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        decay: bool = False,
        feature: str = "elu",
        norm: str = "sum",
        chunk: int = 64,
        causal_axes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.heads, self.causal, self.chunk = heads_of(dim, heads), frozenset(causal_axes), at_least("chunk", chunk, 1)
        if feature not in FEATURES:
            raise unknown("feature of linear", feature, FEATURES)
        if norm not in ("sum", "rms"):
            raise unknown("norm of linear", norm, ("sum", "rms"))
        self.feature, self.norm = feature, norm
        if decay and not causal_axes:
            raise BadRequest("decay=True needs a causal axis: build linear with causal_axes=(0,)")
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        start = torch.log(-torch.log1p(-(2.0 ** -torch.arange(3, 3 + self.heads))))  # lambda = 1 - 2^-3, 1 - 2^-4 ...
        self.log_rate = nn.Parameter(start) if decay else None

    def project(
        self, x: Float[Tensor, "B N C"], layout: Layout
    ) -> tuple[Float[Tensor, "B H N D"], Float[Tensor, "B H N D"], Float[Tensor, "B H N E"]]:
        """phi(q), phi(k) with zeros at masked tokens, and v with a column of ones for the normaliser (E = D + 1)."""
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in self.qkv(layout.clean(x)).chunk(3, -1))
        k = FEATURES[self.feature](k)
        if layout.mask is not None:
            k = k.masked_fill(~layout.mask[:, None, :, None], 0.0)
        return FEATURES[self.feature](q), k, F.pad(v, (0, 1), value=1.0)

    def read(self, y: Float[Tensor, "B H N E"]) -> Float[Tensor, "B N C"]:
        """Numerator over denominator, or the numerator normalised; heads joined."""
        y = head_norm(y[..., :-1]) if self.norm == "rms" else y[..., :-1] / (y[..., -1:] + self.eps)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))

    def scan(
        self, q: Tensor, k: Tensor, v: Tensor, state: Float[Tensor, "B H D E"], block: int, frame: int
    ) -> tuple[Float[Tensor, "B H N E"], Float[Tensor, "B H D E"]]:
        """Block by block (``block`` tokens, whole frames of ``frame`` tokens each), handing the state on."""
        log_a = None
        if self.log_rate is not None:  # the first token of a frame lets the state decay
            opens = torch.arange(q.shape[2], device=q.device) % frame == 0
            log_a = (-self.log_rate.exp()[:, None] * opens)[None]
        y, state = decay_scan(q, k, v, log_a, state, block, frame)
        return y.to(q.dtype), state

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout, mode: Mode = "chunk") -> Float[Tensor, "B N C"]:
        """``mode`` matters to the causal form only. An exported graph takes "parallel": its length is not known."""
        self.check(layout)
        q, k, v = self.project(x, layout)
        if not self.causal:
            return self.read(q @ (k.mT @ v))
        frame = layout.size // layout.axes[0]
        block = max(1, self.chunk // frame) * frame
        if mode == "parallel" or torch.compiler.is_exporting():
            block = layout.size
        elif mode == "recurrent":
            block = frame
        return self.read(self.scan(q, k, v, k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3]), block, frame)[0])

    def init_state(self, batch: int) -> State:
        if not self.causal:
            raise BadRequest("a state is carried along a causal axis only: build linear with causal_axes=(0,)")
        head = self.out.in_features // self.heads
        return {"s": self.out.weight.new_zeros(batch, self.heads, head, head + 1)}

    def stream(self, x: Float[Tensor, "B N C"], state: State) -> tuple[Float[Tensor, "B N C"], State]:
        q, k, v = self.project(x, Layout((x.shape[1],)))
        y, s = self.scan(q, k, v, state["s"], self.chunk, 1)
        return self.read(y), {"s": s}

    def step(self, x_t: Float[Tensor, "B C"], state: State) -> tuple[Float[Tensor, "B C"], State]:
        q, k, v = self.project(x_t[:, None], Layout((1,)))
        y, s = self.scan(q, k, v, state["s"], 1, 1)
        return self.read(y)[:, 0], {"s": s}

    def state_size(self, n: int) -> int:
        head = self.out.in_features // self.heads
        return self.heads * head * (head + 1) if self.causal else 0
