"""Neurons that say nothing or one: what passes between tokens is a charge, what leaves a neuron is a spike.

Shapes: B items, N tokens, C channels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from .base import State
from .scans import full, full_precision
from .sequence import Sequence


def spike(charge: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """1 where a charge is above 0, else 0. Backward it is the slope of atan(pi charge) / pi, since a step has none."""
    soft = torch.atan(torch.pi * charge) / torch.pi
    return (charge > 0).to(charge.dtype) + (soft - soft.detach())


class Spiking(Sequence):
    """v_t = k v'_(t-1) + (1 - k) g x_t, s_t = [v_t > 1], v'_t = v_t - s_t, y_t = W_o s_t: a leaky neuron per channel.

    The neuron of "LMUFormer: Low Complexity Yet Powerful Spiking Model With Legendre Memory Units" (Liu et al. 2024),
    one time step per token: the product with W_o is a sum of columns. k = sigmoid of a learned number and g > 0 are
    learned per channel, k from exp(-1 / ``window``). The step has the slope of an arc tangent backward, and none where
    a spike takes its charge away. Neurons can only follow one another in time. A masked token leaves v' as it is.
    """

    cost: ClassVar[str] = "O(N d^2)"
    chunk: int = 1

    def __init__(self, dim: int, window: float = 2.0, gain: float = 2.0, causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        if not (window > 0 and gain > 0):
            raise BadRequest(f"window and gain must be above 0, got window={window} and gain={gain}")
        keep = torch.exp(torch.tensor(-1.0 / window))
        self.leak = nn.Parameter(torch.logit(keep, eps=1e-6).expand(dim).clone())
        self.gain = nn.Parameter(torch.full((dim,), float(gain)).log())
        self.out = nn.Linear(dim, dim)

    def init_state(self, batch: int) -> State:
        like = self.out.weight
        return {"v": like.new_zeros(batch, self.out.in_features, dtype=torch.promote_types(like.dtype, torch.float32))}

    def run(
        self, x: Float[Tensor, "B N C"], layout: Layout, state: State, block: int
    ) -> tuple[Float[Tensor, "B N C"], State]:
        real = x.new_ones(x.shape[:2], dtype=torch.bool) if layout.mask is None else layout.mask
        with full_precision(x):
            driven, leak, gain, v = full(x, self.leak, self.gain, state["v"])
            keep = leak.sigmoid()
            driven, spikes = (1 - keep) * gain.exp() * driven, []
            for drive, here in zip(driven.unbind(1), real.unbind(1), strict=True):
                charged = keep * v + drive
                fired = spike(charged - 1)
                spikes.append(fired)
                v = torch.where(here[:, None], charged - fired.detach(), v)
        return self.out(torch.stack(spikes, 1).to(x.dtype)), {"v": v}
