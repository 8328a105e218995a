"""The network of `audio/recognise`: a symbol or the blank for every token.

Shapes: B clips, T samples, M tokens, K symbols with the blank at 0.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from domains.options import model_options
from shared_backbones.blocks import whole_blocks
from shared_backbones.presets import Preset

from ..task import Fitted
from .config import AudioOptions
from .model import AudioNet, strides_of
from .recognise_items import alphabet_of


class SpeechOptions(BaseModel):
    """The ``model:`` options of a preset for recognition."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: tuple[dict[str, Any], ...] = Field((), description="convolutions over time and frequency, see ImageStem")
    layers: tuple[dict[str, Any], ...] = Field((), description="convolutions over time, after those")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the tokens before the head")


class AudioRecogniser(AudioNet):
    """Waveform -> logarithms of the symbols' probabilities over time."""

    def __init__(self, fitted: Fitted, preset: Preset, options: AudioOptions) -> None:
        model_options(SpeechOptions, preset.model, "audio/recognise")
        super().__init__(fitted, preset, options)
        self.strides = strides_of(preset)
        self.alphabet = alphabet_of(fitted)
        self.head = nn.Linear(self.backbone.dim, len(fitted["symbols"]) + 1)

    @property
    def step(self) -> int:
        """Samples from token to token."""
        n = self.front_end.hop
        for stride in self.strides:
            n *= stride
        return n

    def tokens_of(self, samples: int) -> int:
        """Tokens of a clip."""
        n = 1 + samples // self.front_end.hop
        for stride in self.strides:
            n = whole_blocks(n, stride)
        return n

    def forward(
        self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B M K"], Int[Tensor, "B"]]:
        """Samples, zero behind each clip's own ``length`` -> log-probabilities, and how many tokens are real."""
        x, layout = self.tokens(wave, length)
        mask = layout.mask
        count = length.new_full((len(x),), x.shape[1]) if mask is None else mask.sum(1)
        return self.head(layout.clean(x)).float().log_softmax(-1), count
