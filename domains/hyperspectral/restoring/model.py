"""The restorer: a closed form in the space of principal spectra, and a preset's network that corrects it.

Shapes: B windows, b bands, k principal spectra, d width. Values are scaled to a usual range of 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.backbone import build_backbone
from shared_backbones.errors import BadRequest, unknown
from shared_backbones.presets import Preset
from shared_backbones.stems import ImageStem

from ..model import box_mean

RADII = (0, 1, 2, 4)  # the closed form sees averages over squares of these: smoothing and sharpening are sums of them
MODEL_OPTIONS = {"dropout"}


class Restorer(nn.Module):
    """Spoilt windows -> restored ones, on the same lattice.

    z = components of the given spectra; the linear part is a map of z's means over squares (see :mod:`.linear`), and
    what z leaves out is kept in part, as suits the training blocks; the
    network sees both and adds a correction, 0 at first. A preset of rank 2 works on images of components, one of rank
    3 on the volume (bands, rows, columns), whatever the number of bands.
    """

    mean: Tensor
    basis: Tensor
    weight: Tensor
    bias: Tensor
    rest: Tensor

    def __init__(self, mean: Sequence[float], basis: Sequence[Sequence[float]], preset: Preset) -> None:
        super().__init__()
        if preset.stem != "image":
            raise unknown(f"stem of preset {preset.name!r} for restoring", preset.stem, ["image"])
        for option in preset.model:
            if option not in MODEL_OPTIONS:
                raise unknown("option of the model", option, MODEL_OPTIONS)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("basis", torch.tensor(basis, dtype=torch.float32))  # (k, b)
        k = len(basis)
        self.register_buffer("weight", torch.cat([torch.eye(k), torch.zeros((len(RADII) - 1) * k, k)]))
        self.register_buffer("bias", torch.zeros(k))
        self.register_buffer("rest", torch.zeros(()))  # share of what lies outside the principal spectra that is kept
        spec = preset.backbone
        self.volume = preset.ranks[0] == 3
        options: dict[str, Any] = dict(preset.stem_options)
        if any(int(row.get("stride", 1)) != 1 for row in options.get("layers", ({"stride": 4},))):
            raise BadRequest(
                f"preset {preset.name!r}: a restorer answers for every pixel, so its stem has stride 1: "
                "stem_options: {layers: [{kernel: 3, stride: 1}]}"
            )
        self.stem = ImageStem(2 if self.volume else 2 * k, spec.stages[0].dim, rank=3 if self.volume else 2, **options)
        self.net = build_backbone(spec, self.stem.tokens)
        self.dropout = nn.Dropout(float(preset.model.get("dropout", 0.0)))
        self.head = nn.Linear(self.net.dim, 1 if self.volume else k)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def components(self, x: Float[Tensor, "B b rows cols"], seen: Bool[Tensor, "B b rows cols"]) -> Tensor:
        """(B, k, rows, cols): a band that was not measured counts as its mean."""
        centred = (x - self.mean[:, None, None]) * seen
        return torch.einsum("kb,nbrc->nkrc", self.basis, centred)

    def outside(self, x: Tensor, seen: Tensor, z: Float[Tensor, "B k rows cols"]) -> Float[Tensor, "B b rows cols"]:
        """What of the measured values no principal spectrum explains."""
        return (x - self.cube(z)) * seen

    def cube(self, z: Float[Tensor, "B k rows cols"]) -> Float[Tensor, "B b rows cols"]:
        return torch.einsum("kb,nkrc->nbrc", self.basis, z) + self.mean[:, None, None]

    def features(
        self, x: Float[Tensor, "B b rows cols"], seen: Bool[Tensor, "B b rows cols"]
    ) -> Float[Tensor, "B m rows cols"]:
        """Components and their means over squares, side by side."""
        z, valid = self.components(x, seen), seen.any(1)
        return torch.cat([box_mean(z, valid, r) for r in RADII], 1)

    def linear(self, features: Float[Tensor, "B m rows cols"]) -> Float[Tensor, "B k rows cols"]:
        """The closed form's components."""
        return torch.einsum("mk,nmrc->nkrc", self.weight, features) + self.bias[:, None, None]

    def forward(
        self, x: Float[Tensor, "B b rows cols"], seen: Bool[Tensor, "B b rows cols"]
    ) -> Float[Tensor, "B b rows cols"]:
        """Restored cubes. What stands where ``seen`` is False has no effect."""
        valid = seen.any(1, keepdim=True)
        features = self.features(x, seen)
        z, given = self.linear(features) * valid, features[:, : len(self.basis)]
        start = self.cube(z) + self.rest * self.outside(x, seen, given)
        if self.volume:
            inputs = torch.stack([(x - self.mean[:, None, None]) * seen, (start - self.mean[:, None, None]) * valid], 1)
            tokens, layout = self.stem(inputs)
            out, _ = self.net(tokens, layout)
            return start + self.head(self.dropout(out))[..., 0].reshape(start.shape)
        scale = self.basis.shape[1] ** 0.5  # components grow with the number of bands
        tokens, layout = self.stem(torch.cat([given, z], 1) / scale)
        out, _ = self.net(tokens, layout)
        return start + torch.einsum(
            "kb,nkrc->nbrc", self.basis, scale * self.head(self.dropout(out)).mT.reshape(z.shape)
        )
