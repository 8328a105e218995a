"""Encoders of several widths in one: each narrower network is the first channels and heads of the widest.

A narrower network runs with slices of the widest one's own parameters, so that all are trained together; it learns
from what the widest one says (in-place distillation).

Shapes: B clips, N frames, F features of a frame.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from shared_backbones.errors import BadRequest
from shared_backbones.slicing import sliced

_FIXED = ("torch.nn.", "shared_backbones.")  # whose buffers belong to one width


class Narrow(nn.Module):
    """A narrower network, run with the first channels of a wider one. Its own parameters are never used."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"], *more: Tensor) -> Tensor:
        outputs: Any = self.net.outputs
        return outputs(x, mask, *more)

    def within(self, wide: nn.Module, x: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"], *more: Tensor) -> Tensor:
        """What it says of frames with the parameters of ``wide``, whose norms' running statistics stay as they are."""
        tensors = {**dict(wide.named_parameters()), **{name: b.clone() for name, b in wide.named_buffers()}}
        own = set(self.net.state_dict())
        cut = sliced({name: value for name, value in tensors.items() if name in own}, self.net)
        return functional_call(self, {f"net.{name}": value for name, value in cut.items()}, (x, mask, *more))


def checked(wide: nn.Module, narrow: Narrow, width: float) -> Narrow:
    """Itself. Raises BadRequest where a norm keeps running statistics of channels that only some widths have."""
    for place, module in wide.named_modules():
        if not type(module).__module__.startswith(_FIXED):
            continue
        for name, value in module.named_buffers(place, recurse=False):
            there = dict(narrow.net.named_buffers()).get(name)
            if there is None or there.shape != value.shape:
                raise BadRequest(
                    f"model.widths: {name} keeps values of one width alone, and a width of {width:g} has others; take "
                    "norm: layer or rms in blocks, and mixers without drawn or running values"
                )
    return narrow


def said_alike(told: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Mean divergence of what is told from what the teacher says (nats), whom it does not reach."""
    want = teacher.detach().log_softmax(-1)
    return torch.nn.functional.kl_div(told.log_softmax(-1), want, reduction="batchmean", log_target=True)
