"""A model of `medical/signal` as a function of plain tensors, with what comes before and after it, for export."""

from __future__ import annotations

from importlib import resources
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..task import Fitted, Portable
from .beats import REFRACTORY
from .signal_config import SignalOptions
from .signal_model import BeatNet
from .signal_predicting import OVERLAP_S, STRETCH_S
from .signal_rhythms import SMOOTH_S

RUNNER = "run_signal.py"


class PlainBeats(nn.Module):
    """Windows of samples -> over time the probability of a beat, its kind, and of each rhythm where they are told."""

    def __init__(self, model: BeatNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, wave: Float[Tensor, "B T"]) -> tuple[Tensor, ...]:
        z = self.model(wave)
        beat, kinds = z[..., 0].sigmoid(), self.model.kinds
        kind = z[..., 1 : 1 + kinds].argmax(2) if kinds else torch.zeros_like(beat).long()
        return (beat, kind, z[..., 1 + kinds :].softmax(2)) if self.model.rhythms else (beat, kind)


def described(model: BeatNet, fitted: Fitted, options: SignalOptions, grid: int) -> dict[str, Any]:
    """What is done before, inside and after, for those who write a runner of their own."""
    rate = float(fitted["rate"])
    margin = grid * -(-round(options.margin_s * rate) // grid)
    return {
        "use": "for research use; not a medical device",
        "runner": f"python {RUNNER} FILE... (needs numpy, scipy, wfdb for .hea, and onnxruntime or torch)",
        "before": f"lead {options.lead} (from 0) resampled to {rate:g} per second by a polyphase filter, NaN in gaps; "
        f"cut into windows of {fitted['size']} samples, of which {margin} at each end are heard and not counted",
        "inside": f"drift slower than {options.low_hz:g} Hz removed, own scale, where samples are known, the network",
        "after": f"maxima of the beat from {float(model.threshold):g} on (set on validation), none nearer than "
        f"{REFRACTORY:g} s to a higher one, their time by a parabola through three places; the kind at that place; "
        f"rhythms averaged over {SMOOTH_S:g} s",
        "left_out": "nothing",
        "lead": options.lead, "rate": rate, "size": int(fitted["size"]), "margin": margin,
        "threshold": float(model.threshold), "refractory_s": REFRACTORY, "smooth_s": SMOOTH_S,
        "stretch_s": STRETCH_S, "overlap_s": OVERLAP_S,
        "kinds": list(fitted["kinds"]), "rhythms": list(fitted.get("rhythms", [])),
    }  # fmt: skip


def portable(model: BeatNet, fitted: Fitted, options: SignalOptions, grid: int) -> Portable:
    """Two windows to trace it with, one sample in twenty a gap; batch and length are free."""
    size = int(fitted["size"])
    example, longer = (torch.randn(n, size + more) for n, more in ((2, 0), (3, 5 * grid)))
    for x in (example, longer):
        x[:, 7::20] = float("nan")
    kinds, rhythms = ", ".join(fitted["kinds"]) or "one kind", ", ".join(fitted.get("rhythms", []))
    outputs = {
        "beat": "(batch, places) probability of a beat; places share the window evenly",
        "kind": f"(batch, places) kind of a beat there, counted from 0: {kinds}",
    }
    if rhythms:
        outputs["rhythm"] = f"(batch, places, rhythm) probabilities: {rhythms}"
    return Portable(
        PlainBeats(model),
        (example,),
        {"wave": f"(batch, samples) of one lead at {fitted['rate']:g} per second, a multiple of {grid}; NaN in gaps"},
        outputs,
        {"wave": (1,)},
        (longer,),
        described(model, fitted, options, grid),
        {RUNNER: (resources.files(__package__) / "data" / RUNNER).read_text(encoding="utf-8")},
    )
