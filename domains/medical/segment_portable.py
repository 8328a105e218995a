"""A segmenter as a function of plain tensors, with what comes before and after the network, for export."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..task import Fitted, Portable
from .plan import Plan
from .segment_model import Segmenter


class PlainSegmenter(nn.Module):
    """Images in stored intensities at the plan's spacing -> stored label values and calibrated probabilities."""

    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor
    values: Tensor

    def __init__(self, model: Segmenter, plan: Plan, values: list[int]) -> None:
        super().__init__()
        self.model, self.own = model, plan.normalise == "image"
        column = (-1, *[1] * model.rank)
        for name in ("low", "high", "mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(plan, name)).reshape(column))
        self.register_buffer("values", torch.tensor(values))

    def forward(self, image: Float[Tensor, "B C *axes"]) -> tuple[Int64[Tensor, "B *axes"], Tensor]:
        axes = tuple(range(2, image.ndim))
        if self.own:
            mean = image.mean(axes, keepdim=True)
            std = (image - mean).square().mean(axes, keepdim=True).sqrt()
            std = torch.where(std > 1e-6 * mean.abs().clamp_min(1), std, torch.ones_like(std))
            x = (image - mean) / std
        else:
            x = (torch.minimum(torch.maximum(image, self.low), self.high) - self.mean) / self.std
        probability = self.model(x).softmax(1)
        return self.values[probability.argmax(1)], probability


def portable(model: Segmenter, fitted: Fitted) -> Portable:
    """Two small images to trace it with; batch and extents are free."""
    plan = Plan.from_json(fitted["plan"])
    side = 8 * 2 ** min(plan.depth, 3)
    mean, std = torch.tensor(plan.mean), torch.tensor(plan.std)
    axes = [side + 4 * i for i in range(model.rank)]
    column = (1, -1, *[1] * model.rank)
    image = mean.reshape(column) + std.reshape(column) * torch.randn(2, model.channels, *axes)
    names = ", ".join(f"{v} {n}" for v, n in zip(fitted["values"], fitted["names"], strict=True))
    flat = "" if plan.across is None else "; slices across one axis of a volume"
    meaning = (
        f"(batch, channel, *axes) stored intensities, axes right, anterior, superior (or rows, columns), "
        f"resampled to {list(plan.spacing)} mm (or pixels){flat}; "
        + ("normalised inside by each image's own mean" if plan.normalise == "image" else "normalised inside")
    )
    return Portable(
        PlainSegmenter(model, plan, list(fitted["values"])),
        (image,),
        {"image": meaning},
        {"labels": f"(batch, *axes) label values: {names}", "probability": "(batch, structure, *axes) in that order"},
        {"image": tuple(range(2, 2 + model.rank))},
    )
