"""Options of `medical/pretrain`."""

from __future__ import annotations

from pydantic import Field, model_validator

from .classify_config import ImageAugmentOptions, ImageOptions

# moved about, but of its own brightness: what is hidden must follow from what is seen
MOVED = ImageAugmentOptions(contrast=0.0, brightness=0.0, noise=0.0, erase=0.0)


class PretrainOptions(ImageOptions):
    """Options of `medical/pretrain`. Those on data and split mean what they mean in `medical/classify`."""

    augment: ImageAugmentOptions = MOVED
    patch: int = Field(8, ge=2, description="side of the squares that are hidden or seen (pixels of the canvas)")
    hide: float = Field(0.75, gt=0, lt=1, description="share of the squares that is hidden")
    decoder_dim: int = Field(64, ge=16, multiple_of=16, description="width of the decoder, which is thrown away")
    decoder_depth: int = Field(2, ge=1, description="blocks of the decoder")

    @model_validator(mode="after")
    def _whole(self) -> PretrainOptions:
        if self.augment.mixup:
            raise ValueError(
                f"augment.mixup blends labels, which pretraining has not; it must be 0: {self.augment.mixup}"
            )
        return self
