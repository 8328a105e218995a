"""Predictions of `medical/pretrain`: the features of each image, DICOM under a pseudonym."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch

from ..task import Fitted, Sink
from .canvas import as_tensor, on_canvas
from .classify_predicting import AT_ONCE, Row, shown, write_rows
from .pretrain_config import PretrainOptions
from .pretrain_model import MaskedAutoencoder


def predict_source(
    options: PretrainOptions, model: MaskedAutoencoder, fitted: Fitted, source: str, sink: Sink
) -> dict[str, Any]:
    """One row per image: file, then f0, f1 ... A DICOM file is named by a digest of its pixels. Raises BadInput."""
    model.eval()
    name = f"features.{options.table}"
    with torch.inference_mode(), sink.file(name) as path:
        count = write_rows(path, _rows(options, model, fitted, source), options.table)
    return {"images": count, "features": model.backbone.dim, "output": name, "use": "for research use"}


def _rows(options: PretrainOptions, model: MaskedAutoencoder, fitted: Fitted, source: str) -> Iterator[Row]:
    side, channels, device = int(fitted["side"]), int(fitted["channels"]), model.probe.device
    images = shown(options, source)
    while held := list(islice(images, AT_ONCE)):
        x = as_tensor(np.stack([on_canvas(pixels, side, channels, options.crop) for _, pixels in held]))
        for (name, _), row in zip(held, model.features(x.to(device)).cpu().tolist(), strict=True):
            yield {"file": name, **{f"f{i}": value for i, value in enumerate(row)}}
