"""Options of `audio/pretrain`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from .config import AudioOptions, AugmentOptions

# other voices and levels, but nothing left out besides what is hidden, and no noise to be told from what is seen
PLAIN = AugmentOptions(tempo=0.0, noise_db=None, time_masks=0, band_masks=0)


class PretrainOptions(AudioOptions):
    """Options of `audio/pretrain`. Those on data, front end and split mean what they mean in `audio/classify`."""

    augment: AugmentOptions = PLAIN
    target: Literal["frames", "codes"] = Field(
        "frames", description="what is told of a hidden frame: itself, or the nearest of random codes (BEST-RQ)"
    )
    hide: float = Field(0.5, gt=0, lt=1, description="share of a clip's frames that is hidden")
    span_ms: float = Field(120.0, gt=0, description="how long a hidden span is")
    codes: int = Field(256, ge=2, description="target=codes: how many")
    code_dim: int = Field(16, ge=2, description="target=codes: width of the random projection that they are held to")
    code_seed: int = Field(0, ge=0, description="target=codes: of the projection and of the codes, which never learn")
    chunk_s: float = Field(2.0, gt=0, description="predictions: length of a window over long recordings (s)")
    overlap: float = Field(0.5, ge=0, lt=1, description="share of a window that the next one sees again")
    whole_s: float = Field(4.0, gt=0, description="predictions: recordings up to this length are taken whole (s)")
    table: Literal["csv", "parquet", "jsonl"] = Field("csv", description="predictions: form of the table")

    @model_validator(mode="after")
    def _nothing_else_hidden(self) -> PretrainOptions:
        a = self.augment
        if a.tempo or a.time_masks or a.band_masks:
            raise ValueError(
                "augment.tempo, augment.time_masks and augment.band_masks must be 0: pretraining hides spans itself, "
                f"which must stay where they were chosen; got {a.tempo:g}, {a.time_masks} and {a.band_masks}"
            )
        return self
