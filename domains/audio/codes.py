"""Bags of codes: how often typical sounds occur in a clip, as one token.

"Attention is All You Need? Good Embeddings with Statistics are enough" (Verma 2021): codebooks found by clustering, and
counts of codes in place of any mixing.

Shapes: B clips, N frames, F features, K codes of one book.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.layout import Layout

SPANS = (1, 8)  # frames of what a code stands for
CODES = 128  # of each book
FITTED_ON = 20_000  # frames at most


class CodesStem(nn.Module):
    """Frames -> one token: shares of codes at each span, mean and deviation of the frames, a linear map of them all."""

    def __init__(self, features: int, dim: int, codes: int = CODES) -> None:
        super().__init__()
        self.features, self.codes = features, codes
        for span in SPANS:
            self.register_buffer(f"book_{span}", torch.zeros(codes, features * span))
        self.embed = nn.Linear(len(SPANS) * codes + 2 * features, dim)
        self.norm = nn.LayerNorm(len(SPANS) * codes + 2 * features)

    def spans(
        self, x: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"], span: int
    ) -> tuple[Float[Tensor, "B n G"], Bool[Tensor, "B n"]]:
        """Every ``span`` neighbouring frames laid side by side, zeros after a clip's end, and which begin in the clip.

        A span may reach over the end only where the clip is shorter than it.
        """
        size = mask.sum(1)
        padded = torch.cat([x, x.new_zeros(x.shape[0], span - 1, x.shape[2])], 1)
        laid = padded.unfold(1, span, 1).flatten(2)
        last = (size - span).clamp_min(0)
        return laid, torch.arange(laid.shape[1], device=x.device) <= last[:, None]

    def counts(self, x: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"], span: int) -> Float[Tensor, "B K"]:
        """The share of a clip's spans that are nearest to each code."""
        laid, real = self.spans(x, mask, span)
        book = self.get_buffer(f"book_{span}")
        nearest = ((book * book).sum(1) - 2 * laid @ book.mT).argmin(-1)
        hits = torch.zeros(len(x), self.codes, device=x.device, dtype=x.dtype).scatter_add(1, nearest, real.to(x.dtype))
        return hits / real.sum(1, keepdim=True)

    def forward(self, x: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]) -> tuple[Float[Tensor, "B 1 C"], Layout]:
        """Masked frames count for nothing."""
        x = x.masked_fill(~mask[..., None], 0.0)
        size = mask.sum(1, keepdim=True).to(x.dtype)
        mean = x.sum(1) / size
        spread = (((x - mean[:, None]) ** 2) * mask[..., None]).sum(1) / size
        shares = [(self.counts(x, mask, span) * self.codes).sqrt() for span in SPANS]
        joined = torch.cat([*shares, mean, (spread + 1e-6).sqrt()], 1)
        return self.embed(self.norm(joined))[:, None], Layout((1,))

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """The books: centres of clusters of the spans of training frames. The same for the same frames."""
        from sklearn.cluster import MiniBatchKMeans

        found: dict[int, list[np.ndarray]] = {span: [] for span in SPANS}
        for x, mask in batches:
            for span in SPANS:
                laid, real = self.spans(x.masked_fill(~mask[..., None], 0.0), mask, span)
                found[span].append(laid[real].cpu().numpy())
        for span in SPANS:
            rows = np.concatenate(found[span])
            rows = rows[:: max(1, len(rows) // FITTED_ON)]
            book = self.get_buffer(f"book_{span}")
            means = MiniBatchKMeans(min(self.codes, len(rows)), n_init=1, max_iter=30, random_state=0).fit(rows)
            book.zero_()
            book[: len(means.cluster_centers_)] = torch.from_numpy(means.cluster_centers_).to(book)
            if len(means.cluster_centers_) < len(book):
                book[len(means.cluster_centers_) :] = 1e6  # far from every frame: never counted
