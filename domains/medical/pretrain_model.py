"""The network of `medical/pretrain`: the stem and backbone of `medical/classify`, and a small decoder.

"Masked Autoencoders Are Scalable Vision Learners" (He et al. 2022), for any mixers. Hidden pixels are zero before the
stem, and tokens that stand on hidden pixels alone are masked in the layout, which no mixer reads: nothing of what is
hidden reaches the encoder, not even through the image's mean. Tokens are not dropped: lattices and pyramids stay.

Shapes: B images, C channels, S side of the canvas, P squares, N tokens, D width of the backbone, L labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, BackboneSpec, LayerSpec, StageSpec, Tokens, build_backbone
from shared_backbones.errors import BadRequest
from shared_backbones.heads import MeanPool
from shared_backbones.layout import Layout
from shared_backbones.positions import LearnedPositions
from shared_backbones.presets import Preset

from ..task import Fitted
from .canvas import letterbox
from .classify_model import ImageFront, build_stem, head_options
from .pretrain_config import PretrainOptions
from .pretrain_masks import unseen_pixels

LEAST = 0.05  # deviation of what is seen, at least: next to nothing is seen of an image that is darker


@dataclass(frozen=True)
class Restored:
    """What the decoder makes of an image, the image itself, both in deviations of what was seen; and where it was not.

    scale: one such deviation, of full scale.
    """

    made: Float[Tensor, "B C S S"]
    truth: Float[Tensor, "B C S S"]
    unseen: Bool[Tensor, "B 1 S S"]
    mean: Float[Tensor, "... 1 1"]
    scale: Float[Tensor, "... 1 1"]

    def squares(self) -> Float[Tensor, "B"]:
        """Sum over the hidden pixels of each image of the squared error."""
        return ((self.made - self.truth) * self.unseen).square().sum((1, 2, 3))

    def count(self) -> Float[Tensor, "B"]:
        """Hidden values of each image."""
        return (self.unseen.sum((1, 2, 3)) * self.truth.shape[1]).to(self.truth.dtype)


def seen_scale(x: Float[Tensor, "B C S S"], unseen: Bool[Tensor, "B 1 S S"]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of what is seen of each image, (B, 1, 1, 1)."""
    seen = (~unseen).to(x.dtype)
    n = seen.sum((1, 2, 3), keepdim=True) * x.shape[1]
    mean = (x * seen).sum((1, 2, 3), keepdim=True) / n
    square = (x.square() * seen).sum((1, 2, 3), keepdim=True) / n
    return mean, (square - mean.square()).clamp_min(LEAST**2).sqrt()


def prepared(front: ImageFront, image: Float[Tensor, "B C H W"], hidden: Bool[Tensor, "B P"]) -> Restored:
    """Images in the units in which they are restored, with zeros for what is made of them."""
    x = letterbox(image, front.side)
    unseen = unseen_pixels(hidden, front.side)
    mean, scale = seen_scale(x, unseen) if front.own else (front.mean, front.std)
    truth = (x - mean) / scale
    return Restored(torch.zeros_like(truth), truth, unseen, mean, scale)


class MaskedAutoencoder(nn.Module):
    """Images and which squares of them are hidden -> the whole images.

    probe: linear maps from features to the labels, where there are labels; set after training, nothing learns from it.
    """

    probe: Tensor

    def __init__(self, fitted: Fitted, preset: Preset, options: PretrainOptions) -> None:
        super().__init__()
        if 2 not in preset.ranks:
            raise BadRequest(f"preset {preset.name!r} is for lattices of rank {list(preset.ranks)}; images have rank 2")
        head_options({k: v for k, v in {**preset.head, **preset.model}.items() if k not in ("act", "classifiers")})
        self.front = ImageFront(fitted, options.intensity == "image")
        self.stem = build_stem(preset, self.front.channels, preset.backbone.stages[0].dim)
        self.backbone = build_backbone(preset.backbone, self.stem.tokens)  # type: ignore[arg-type]
        self.pool = MeanPool(self.backbone.dim)
        self.lattice = self._lattice(preset.name)
        width, self.cell = options.decoder_dim, tuple(self.front.side // n for n in self.lattice)
        self.join = nn.Linear(self.backbone.dim, width)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = LearnedPositions(width, max(self.lattice), 2)
        layers = (LayerSpec("attention", {"heads": width // 16}),) * options.decoder_depth
        self.decoder = Backbone(BackboneSpec((StageSpec(width, layers),)), Tokens(rank=2))
        self.to_pixels = nn.Linear(width, self.cell[0] * self.cell[1] * self.front.channels)
        self.register_buffer("probe", torch.zeros(len(fitted["labels"]), self.backbone.dim + 1))

    @torch.no_grad()
    def _lattice(self, preset: str) -> tuple[int, int]:
        """The tokens along each axis behind the backbone. Raises BadRequest where they do not divide the canvas."""
        side, was = self.front.side, self.training
        self.eval()
        tokens, layout = self.stem(torch.zeros(1, self.front.channels, side, side))
        axes = self.backbone(tokens, layout)[1].axes if len(layout.axes) == 2 else layout.axes
        self.train(was)
        if len(axes) != 2:
            raise BadRequest(
                f"the stem of preset {preset!r} makes {len(axes)} axes of an image; masks need one lattice"
            )
        if side % axes[0] or side % axes[1]:
            raise BadRequest(
                f"preset {preset!r} has {axes[0]} x {axes[1]} tokens for a canvas of {side} pixels, which is no whole "
                "number of pixels each; set size= to a multiple of them"
            )
        return axes[0], axes[1]

    def encode(
        self, z: Float[Tensor, "B C S S"], unseen: Bool[Tensor, "B 1 S S"]
    ) -> tuple[Float[Tensor, "B N D"], Layout]:
        """Normalised images -> tokens of what is seen; masked where nothing is."""
        tokens, layout = self.stem(z.masked_fill(unseen, 0.0))
        real = F.adaptive_max_pool2d((~unseen).to(z.dtype), layout.axes) > 0
        return self.backbone(tokens, replace(layout, mask=real.flatten(1)))

    def decode(self, tokens: Float[Tensor, "B N D"], layout: Layout) -> Float[Tensor, "B C S S"]:
        """Tokens of what is seen -> whole images; the mask token stands where nothing was."""
        y = self.join(layout.clean(tokens))
        if layout.mask is not None:
            y = torch.where(layout.mask[..., None], y, self.mask_token.to(y.dtype))
        whole = Layout(layout.axes)
        y, _ = self.decoder(self.positions(y, whole), whole)
        (h, w), (a, b) = layout.axes, self.cell
        x = self.to_pixels(y).view(len(y), h, w, self.front.channels, a, b)
        return x.permute(0, 3, 1, 4, 2, 5).reshape(len(y), self.front.channels, h * a, w * b)

    def forward(self, image: Float[Tensor, "B C H W"], hidden: Bool[Tensor, "B P"]) -> Restored:
        """Images within 0 .. 1 -> restored from the squares that are not hidden."""
        plain = prepared(self.front, image, hidden)
        return replace(plain, made=self.decode(*self.encode(plain.truth, plain.unseen)).float())

    def features(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Whole images within 0 .. 1 -> the mean of their tokens, as `medical/classify` would see them."""
        return self.pool(*self.backbone(*self.stem(self.front(image)))).float()
