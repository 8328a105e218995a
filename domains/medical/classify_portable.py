"""A classifier as a function of plain tensors, with what comes before and after the network, for export."""

from __future__ import annotations

from importlib import resources
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..task import Fitted, Portable
from .canvas_portable import PlainCanvas
from .classify_config import ClassifyOptions
from .classify_model import ImageClassifier

RUNNER = "run_classify.py"


class Diagnosis(nn.Module):
    """Images of any size within 0 .. 1, in colours -> calibrated probabilities, and which labels are called."""

    def __init__(self, model: ImageClassifier, side: int, channels: int, crop: bool) -> None:
        super().__init__()
        self.canvas, self.model = PlainCanvas(side, channels, crop), model

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B L"], Int64[Tensor, "B L"]]:
        p = self.model.probabilities(self.model(self.canvas(image)))
        if self.model.exclusive:
            called = torch.arange(p.shape[1], device=p.device) == p.argmax(1)[:, None]
        else:
            called = p >= self.model.threshold.double()
        return p.float(), called.long()


def described(model: ImageClassifier, fitted: Fitted, options: ClassifyOptions) -> dict[str, Any]:
    """What is done before, inside and after, for those who write a runner of their own."""
    side, grey = int(fitted["side"]), int(fitted["channels"]) == 1
    inside = [
        *(["margins are cut whose rows and columns are brighter than 0.06 in at most 2 % of their pixels, unless less "
           "than 30 % of a side would stay"] if options.crop else []),
        *(["one grey channel: 0.299 R + 0.587 G + 0.114 B"] if grey else []),
        f"the longer side is resized to {side} (a triangle filter over the pixels that one covers), proportions kept, "
        "centred, zeros beside the shorter one, rounded to steps of 1 / 255",
        "each image by its own mean and deviation" if options.intensity == "image" else
        f"mean {fitted['mean']} and deviation {fitted['std']} of training",
        "the network",
        f"{options.calibration} fitted on validation",
    ]  # fmt: skip
    called = (
        "the most probable class"
        if model.exclusive
        else f"at the thresholds of specificity {options.specificity:g} on validation: {model.threshold.tolist()}"
    )
    return {
        "use": "for research use; not a medical device",
        "runner": f"python {RUNNER} FILE... (needs numpy, pillow, and onnxruntime or torch)",
        "before": "decode; turn as EXIF says; values within 0 .. 1 of the type's full scale, colour as RGB, grey three "
        "times, what is transparent black. DICOM: rescale and window first",
        "inside": inside,
        "after": f"called: {called}",
        "labels": list(fitted["labels"]),
        "exclusive": bool(fitted["exclusive"]),
        "left_out": "views" if options.views > 1 else "nothing",
    }


def portable(model: ImageClassifier, fitted: Fitted, options: ClassifyOptions) -> Portable:
    """Two small pictures to trace it with; batch, rows and columns are free."""
    side, channels = int(fitted["side"]), int(fitted["channels"])
    names = ", ".join(fitted["labels"])
    return Portable(
        Diagnosis(model, side, channels, options.crop),
        (torch.rand(2, 3, side + 9, side + 5),),
        {"image": "(batch, 3, rows, columns) red, green, blue within 0 .. 1, of any size; grey images three times"},
        {
            "probability": f"(batch, {len(fitted['labels'])}) calibrated: {names}",
            "called": "the same, 1 where it is called",
        },
        {"image": (2, 3)},
        (torch.rand(3, 3, side + 40, 2 * side + 31),),
        described(model, fitted, options),
        {RUNNER: (resources.files(__package__) / "data" / RUNNER).read_text(encoding="utf-8")},
    )
