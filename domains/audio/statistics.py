"""A clip of any length as a fixed row of numbers: what its MFCC do on average, span by span.

Shapes: B clips, T samples, N frames, F coefficients, S numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .config import FrontEndOptions
from .frontend import FrontEnd
from .items import ClipItems

AT_ONCE = 400_000  # samples
SPANS = 6  # of a clip, each with the mean of its frames


def mfcc_options(rate: int) -> FrontEndOptions:
    """20 coefficients; of fewer bands where the rate leaves little room for them."""
    return FrontEndOptions(kind="mfcc", coefficients=20, mels=40 if rate >= 4000 else 20)


class ClipStatistics(nn.Module):
    """Means of MFCC in ``SPANS`` equal spans of a clip, their deviation over all of it, its logarithmic length (s)."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.front_end = FrontEnd(rate, mfcc_options(rate))
        self.numbers = (SPANS + 1) * self.front_end.features + 1

    def forward(self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]) -> Float[Tensor, "B S"]:
        """Samples, and how many of each clip are its own -> its numbers, whatever stands beside or behind it."""
        with torch.autocast(wave.device.type, enabled=False):
            x, mask = self.front_end(wave.float(), length)
            weight = span_weights(mask)
            count = mask.sum(1)[:, None]
            mean = x.sum(1) / count
            spread = (x - mean[:, None]).square().masked_fill(~mask[..., None], 0.0).sum(1) / count
            seconds = torch.log(length[:, None].float() / self.front_end.rate)
            return torch.cat([(weight @ x).flatten(1), spread.sqrt(), seconds], 1)


def span_weights(mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B S N"]:
    """Of each frame in the mean of each span. Real frames come first; a clip with fewer than spans is every span."""
    n, k = mask.sum(1)[:, None], torch.arange(SPANS, device=mask.device)
    short, size, more = n < SPANS, n // SPANS, n % SPANS
    start = torch.where(short, 0, k * size + torch.minimum(k, more))
    stop = torch.where(short, n, start + size + (k < more))
    at = torch.arange(mask.shape[1], device=mask.device)
    inside = ((at >= start[..., None]) & (at < stop[..., None])).float()
    return inside / inside.sum(2, keepdim=True).clamp_min(1.0)


@torch.no_grad()
def statistics_of(model: ClipStatistics, items: ClipItems, seed: int = 0) -> Float[np.ndarray, "n S"]:
    """Numbers of all items, in their order. Where items are varied, ``seed`` says how; other draws stay."""
    found = np.zeros((len(items), model.numbers))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for rows in items.by_length(AT_ONCE):
            batch = items.batch(rows)
            found[rows] = model(batch["wave"], batch["length"]).double().numpy()
    return found
