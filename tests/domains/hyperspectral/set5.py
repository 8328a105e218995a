"""Set5 at x2 beside bicubic: each image restored by what the other four taught (run by hand, not a test).

    CAMBIUM_DATA=... python -m tests.domains.hyperspectral.set5 [STEPS]

Luma of cset5 (BT.601, 16 to 235 of 255, as the field counts), cropped to even sizes; PSNR with 2 px shaved; mean over
the five images. The network's steps are fixed beforehand: nothing is chosen on the image that is scored.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from torch import Tensor

from domains.hyperspectral.restoring.degrade import coarser, finer
from domains.hyperspectral.restoring.linear import start_linear
from domains.hyperspectral.restoring.model import Restorer
from domains.public import data_home
from shared_backbones.presets import load_preset

SCALE, CROP, BATCH = 2, 32, 8


def images() -> dict[str, Tensor]:
    """Name -> (1, 1, rows, columns) in 0..1, sizes multiples of the scale."""
    from PIL import Image

    found = {}
    for path in sorted((data_home() / "images" / "cset5").glob("*.png")):
        rgb = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) / 255
        luma = np.round(16 + rgb @ [65.481, 128.553, 24.966]) / 255
        x = torch.from_numpy(luma.astype(np.float32))
        found[path.stem] = x[: x.shape[0] // SCALE * SCALE, : x.shape[1] // SCALE * SCALE][None, None]
    return found


def psnr(found: Tensor, clean: Tensor) -> float:
    """As the field counts it: rounded to 8 bits, the border shaved."""
    inner = slice(SCALE, -SCALE)
    error = (found.clamp(0, 1) * 255).round() - (clean * 255).round()
    return float(10 * torch.log10(255**2 / error[..., inner, inner].square().mean()))


def given(x: Tensor) -> Tensor:
    """Interpolated from 8-bit coarse pixels."""
    return finer((coarser(x, SCALE).clamp(0, 1) * 255).round() / 255, SCALE)


def main(steps: int) -> None:
    """Print a line per image, and the means."""
    whole, rows = images(), []
    for name, clean in whole.items():
        start = time.perf_counter()
        others = [(given(x), x, torch.ones_like(x, dtype=torch.bool)) for n, x in whole.items() if n != name]
        torch.manual_seed(0)
        model = Restorer([0.5], [[1.0]], load_preset("scene_restorer"))
        start_linear(model, others[1:], others[:1])
        seen = torch.ones_like(clean, dtype=torch.bool)
        with torch.no_grad():
            closed = model.eval()(given(clean), seen)
        optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
        model.train()
        for _ in range(steps):
            batch = [_crop(*others[int(torch.randint(0, 4, ()))][:2]) for _ in range(BATCH)]
            a, b = (torch.cat(part) for part in zip(*batch, strict=True))
            optimiser.zero_grad()
            (1e4 * (model(a, torch.ones_like(a, dtype=torch.bool)) - b).square().mean()).backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            found = model.eval()(given(clean), seen)
        rows.append([psnr(x, clean) for x in (given(clean), closed, found)])
        print(name, *(f"{v:.2f}" for v in rows[-1]), f"{time.perf_counter() - start:.0f} s", flush=True)
    print("mean: bicubic, closed form, preset:", *(f"{v:.2f}" for v in np.mean(rows, 0)))


def _crop(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r, c = (int(torch.randint(0, n - CROP + 1, ())) for n in a.shape[-2:])
    a, b = (x[..., r : r + CROP, c : c + CROP] for x in (a, b))
    turns = int(torch.randint(0, 4, ()))
    return torch.rot90(a, turns, (-2, -1)), torch.rot90(b, turns, (-2, -1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
