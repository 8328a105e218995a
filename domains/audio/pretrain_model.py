"""The network of `audio/pretrain`: frames of which spans are hidden -> what stood there.

Shapes: B clips, T samples, N frames, F features of a frame, M tokens, K values told of a frame, D width of the encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared_backbones.errors import BadRequest
from shared_backbones.heads import MeanPool
from shared_backbones.presets import Preset

from ..task import Fitted
from .elastic import said_alike
from .frontend import FrontEnd
from .model import AudioNet, strides_of
from .pretrain_config import PretrainOptions
from .pretrain_masks import heard_samples


class RandomCodes(nn.Module):
    """Frames -> numbers of the nearest codes: argmin_k |norm(c_k) - norm(x A)| with A and c drawn once, never learned.

    The random-projection quantiser of "Self-supervised Learning with Random-projection Quantizer for Speech
    Recognition" (Chiu et al. 2022).
    """

    projection: Tensor
    book: Tensor

    def __init__(self, features: int, options: PretrainOptions) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(options.code_seed)
        bound = math.sqrt(6 / (features + options.code_dim))  # Xavier
        projection = bound * (2 * torch.rand(features, options.code_dim, generator=drawn) - 1)
        book = torch.randn(options.codes, options.code_dim, generator=drawn)
        self.register_buffer("projection", projection)
        self.register_buffer("book", F.normalize(book, dim=-1))

    def forward(self, x: Float[Tensor, "*B F"]) -> Int[Tensor, "*B"]:
        """Of unit vectors, the nearest has the largest product."""
        return (F.normalize(x @ self.projection, dim=-1) @ self.book.mT).argmax(-1)


@dataclass(frozen=True)
class Restored:
    """What is told of every frame, the frame itself (in deviations of training), and where it was real but hidden.

    told: frames themselves, or logits of codes where ``codes`` says which were right.
    """

    told: Float[Tensor, "B N K"]
    truth: Float[Tensor, "B N F"]
    unseen: Bool[Tensor, "B N"]
    codes: Int[Tensor, "B N"] | None = None

    def cost(self) -> Float[Tensor, "B"]:
        """Sum over the hidden frames of each clip: squared error, as a mean over features; or nats."""
        if self.codes is None:
            each = (self.told - self.truth).square().mean(-1)
        else:
            each = F.cross_entropy(self.told.transpose(1, 2), self.codes, reduction="none")
        return (each * self.unseen).sum(1)

    def apart(self, teacher: Restored) -> Float[Tensor, ""]:
        """Mean over hidden frames of how far this is from what the teacher tells, whom it does not reach."""
        want = teacher.told.detach()
        if self.codes is None:
            return replace(self, truth=want).cost().sum() / self.count().sum().clamp_min(1)
        return said_alike(self.told[self.unseen], want[self.unseen])

    def count(self) -> Float[Tensor, "B"]:
        """Hidden frames of each clip."""
        return self.unseen.sum(1).to(self.truth.dtype)


def seen_frames(
    front: FrontEnd, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"], hidden: Bool[Tensor, "B N"]
) -> tuple[Float[Tensor, "B N F"], Bool[Tensor, "B N"]]:
    """Frames, and which are real; a clip's level is taken from what is seen of it."""
    return front(wave, length, heard=heard_samples(hidden, length, wave.shape[1], front.hop))


class MaskedFrames(AudioNet):
    """Waveforms and which of their frames are hidden -> what those held. A learned frame stands where nothing is seen.

    probe: linear maps from features to the classes, where there are labels; set after training, nothing learns from it.
    """

    probe: Tensor

    def __init__(self, fitted: Fitted, preset: Preset, options: PretrainOptions) -> None:
        if preset.stem != "frames":
            raise BadRequest(
                f"preset {preset.name!r} has the stem {preset.stem!r}; pretraining hides frames of 'frames'"
            )
        super().__init__(fitted, preset, options)
        features = self.front_end.features
        self.step = math.prod(strides_of(preset))  # frames of a token
        self.codes = RandomCodes(features, options) if options.target == "codes" else None
        self.hidden_frame = nn.Parameter(torch.zeros(features))
        self.told = nn.Linear(self.backbone.dim, self.step * (options.codes if self.codes else features))
        self.pool = MeanPool(self.backbone.dim)
        self.register_buffer("probe", torch.zeros(len(fitted["classes"]), self.backbone.dim + 1))
        self.make_narrow(fitted, preset, options)

    def outputs(
        self, x: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"], hidden: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "B N K"]:
        """Normalised frames -> what is told of all of them; hidden ones are never read."""
        shown = torch.where((hidden & mask)[..., None], self.hidden_frame.to(x.dtype), x)
        tokens, layout = self.backbone(*self.stem(shown, mask))
        return self.told(layout.clean(tokens)).unflatten(-1, (self.step, -1)).flatten(1, 2)[:, : x.shape[1]]

    def forward(self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"], hidden: Bool[Tensor, "B N"]) -> Restored:
        """Samples, zero behind each clip's own ``length`` -> what is told of the frames."""
        return self.every(wave, length, hidden)[0]

    def every(
        self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"], hidden: Bool[Tensor, "B N"]
    ) -> tuple[Restored, list[Restored]]:
        """What this network tells, and what the narrower ones within it do, of the same frames."""
        heard = heard_samples(hidden, length, wave.shape[1], self.front_end.hop)
        x, mask = self.frames(wave, length, heard)
        codes = None if self.codes is None else self.codes(x)
        wide = Restored(self.outputs(x, mask, hidden).float(), x, hidden & mask, codes)
        return wide, [replace(wide, told=net.within(self, x, mask, hidden).float()) for net in self.narrow]

    def features(self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """Whole clips -> the mean of their tokens, as `audio/classify` would hear them."""
        return self.pool(*self.tokens(wave, length)).float()
