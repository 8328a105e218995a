"""A segmenter as a function of plain tensors, with what comes before and after the network, for export."""

from __future__ import annotations

from importlib import resources
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..task import Fitted, Portable
from .plan import Plan
from .segment_config import SegmentOptions
from .segment_model import Segmenter

RUNNER = "run_segment.py"


class PlainSegmenter(nn.Module):
    """Images in stored intensities at the plan's spacing -> stored label values and calibrated probabilities.

    Where images have no common scale, mean and deviation of the whole image as it is stored come beside it: then a
    window of it, or another spacing, is read as the image is.
    """

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

    def forward(
        self, image: Float[Tensor, "B C *axes"], moments: Float[Tensor, "B C 2"] | None = None
    ) -> tuple[Int64[Tensor, "B *axes"], Tensor]:
        if self.own:
            assert moments is not None  # one of the declared inputs
            mean, std = (m.reshape(*m.shape, *self.low.shape[1:]) for m in moments.unbind(2))
            std = torch.where(std > 1e-6 * mean.abs().clamp_min(1), std, torch.ones_like(std))
            x = (image - mean) / std
        else:
            x = (torch.minimum(torch.maximum(image, self.low), self.high) - self.mean) / self.std
        probability = self.model(x).softmax(1)
        return self.values[probability.argmax(1)], probability


def described(model: Segmenter, plan: Plan, fitted: Fitted, options: SegmentOptions) -> dict[str, Any]:
    """What is done before, inside and after, for those who write a runner of their own."""
    return {
        "use": "for research use; not a medical device",
        "runner": f"python {RUNNER} FILE... (needs numpy, nibabel or pillow, and onnxruntime or torch)",
        "before": "volumes: axes to the right, front and up by the affine; linearly to the spacing, the field of view "
        "kept (a mean where voxels become larger)",
        **({"beside": "moments: mean and deviation of every channel of the whole image as it is stored"}
           if plan.normalise == "image" else {}),
        "inside": "normalised, the network, the temperature, the most probable structure",
        "windows": "of patch at that spacing, the next one starts int(patch * (1 - overlap)) further and the last one "
        "ends with the image; probabilities are averaged with weights of blend along each axis (gaussian: of deviation "
        "an eighth of the window), at least a thousandth of the largest",
        "after": "probabilities linearly back to the stored grid, the most probable structure, the stored orientation",
        "left_out": "views" if options.views > 1 else "nothing",
        "spacing": list(plan.spacing), "patch": list(plan.patch), "across": plan.across, "normalise": plan.normalise,
        "overlap": options.overlap, "blend": options.blend,
        "channels": model.channels, "values": list(fitted["values"]), "names": list(fitted["names"]),
    }  # fmt: skip


def _moments(x: Float[Tensor, "B C *axes"]) -> Float[Tensor, "B C 2"]:
    flat = x.flatten(2)
    return torch.stack([flat.mean(2), flat.std(2, correction=0)], 2)


def portable(model: Segmenter, fitted: Fitted, options: SegmentOptions) -> Portable:
    """Two small images to trace it with; batch and extents are free."""
    plan = Plan.from_json(fitted["plan"])
    side = 8 * 2 ** min(plan.depth, 3)
    mean, std = torch.tensor(plan.mean), torch.tensor(plan.std)
    axes = [side + 4 * i for i in range(model.rank)]
    column = (1, -1, *[1] * model.rank)
    image, larger = (
        mean.reshape(column) + std.reshape(column) * torch.randn(n, model.channels, *(side + more for side in axes))
        for n, more in ((2, 0), (3, 13))
    )
    names = ", ".join(f"{v} {n}" for v, n in zip(fitted["values"], fitted["names"], strict=True))
    flat = "" if plan.across is None else "; slices across one axis of a volume"
    meaning = (
        f"(batch, channel, *axes) stored intensities, axes right, anterior, superior (or rows, columns), "
        f"resampled to {list(plan.spacing)} mm (or pixels){flat}; normalised inside"
    )
    inputs = {"image": meaning}
    example: tuple[Tensor, ...] = (image,)
    other: tuple[Tensor, ...] = (larger,)
    if plan.normalise == "image":
        inputs["moments"] = "(batch, channel, 2) mean and deviation of the whole image as it is stored"
        example, other = (image, _moments(image)), (larger, _moments(larger))
    return Portable(
        PlainSegmenter(model, plan, list(fitted["values"])),
        example,
        inputs,
        {"labels": f"(batch, *axes) label values: {names}", "probability": "(batch, structure, *axes) in that order"},
        {"image": tuple(range(2, 2 + model.rank))},
        other,
        described(model, plan, fitted, options),
        {RUNNER: (resources.files(__package__) / "data" / RUNNER).read_text(encoding="utf-8")},
    )
