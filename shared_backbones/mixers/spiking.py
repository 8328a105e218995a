"""Neurons that say nothing or one: what passes between tokens is a charge, what leaves a neuron is a spike.

Shapes: B items, N tokens, C channels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from .base import State
from .scans import full, full_precision
from .sequence import Sequence


def slope(charge: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Of atan(pi charge) / pi, which stands for the slope of a step at 0 backward."""
    return 1 / (1 + (torch.pi * charge).square())


class Fire(torch.autograd.Function):
    """v_t = keep v'_(t-1) + drive_t, s_t = [v_t > 1], v'_t = v_t - s_t where a token is real: spikes, and the last v'.

    drive and real have time first: (N, B, C), (N, B, 1). A loop forward and a loop back, with no graph in between.
    """

    @staticmethod
    def forward(ctx: Any, drive: Tensor, keep: Tensor, start: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        v, before, charges = start, [], []
        for x, here in zip(drive, real, strict=True):
            before.append(v)
            now = torch.addcmul(x, keep, v)
            charges.append(now)
            v = torch.where(here, now - (now > 1).to(now.dtype), v)
        charge = torch.stack(charges)
        ctx.save_for_backward(charge, torch.stack(before), keep, real)
        return (charge > 1).to(charge.dtype), v.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        charge, before, keep, real = ctx.saved_tensors
        of_charge, of_v = grads[0] * slope(charge - 1), grads[1]
        for t in range(len(charge) - 1, -1, -1):
            of_charge[t] += of_v * real[t]
            of_v = torch.where(real[t], 0.0, of_v) + keep * of_charge[t]
        return of_charge, (of_charge * before).sum((0, 1)), of_v, None


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
            drive = ((1 - keep) * gain.exp() * driven).transpose(0, 1)
            spikes, v = self.fired(drive, keep, v, real.T[..., None])
        return self.out(spikes.transpose(0, 1).to(x.dtype)), {"v": v}

    def fired(self, drive: Tensor, keep: Tensor, v: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`Fire`; in a graph that is to be exported, one token in plain operations."""
        if not torch.compiler.is_exporting():
            return Fire.apply(drive, keep, v, real)
        now = torch.addcmul(drive[0], keep, v)
        fired = (now > 1).to(now.dtype)
        return fired[None], torch.where(real[0], now - fired, v)
