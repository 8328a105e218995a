"""Set5 beside bicubic: ``python -m tests.benchmarks.set5 [--scale 2] [--presets scene_restorer rgt ...]``.

The ordinary task on the public data set "set5" (luma, BT.601, 16 to 235): every image is left out in turn, another one
validates, three train; 8-bit values, as many pixels shaved as the scale. The field trains on hundreds of other images
and for days: what stands here says what minutes on three images give. PSNR in dB, mean over the five images.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from domains.hyperspectral.datasets import SET5
from pipelines.config import resolve

from .few_pixels import trained

NAMES = tuple(Path(name).stem for name in sorted(SET5.files))
SMALL: dict[str, list[str]] = {  # as in the presets, but narrower and less deep: a training of seconds
    "scene_restorer": [],
    "hsdt": [],
    "rgt": ["model.dim=36", "model.depth=2"],
    "catanet": ["model.depth=4"],
    "dlgsanet": ["model.dim=36", "model.depth=5"],
    "hat": ["model.dim=36", "model.depth=7"],
    "essa_former": [],
}


def scored(preset: str, name: str, scale: int, sets: list[str], seed: int, with_baselines: bool) -> dict[str, Any]:
    """Metrics of one training that never saw an image, on that image."""
    own = [
        f"test=['{name}']",
        f"scale={scale}",
        "block=48",
        "crops=1",
        "train.threads=1",
        *SMALL.get(preset, []),
        *sets,
    ]
    config = resolve("hyperspectral/superres", data=SET5.name, preset=preset, seed=seed, sets=own)
    return trained(config, with_baselines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["scene_restorer", "hsdt", "rgt"])
    parser.add_argument("--scale", type=int, default=2, choices=(2, 3, 4, 8))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    logging.disable(logging.INFO)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for preset in asked.presets:
        seconds = 0.0
        for name in NAMES:
            row = scored(preset, name, asked.scale, asked.sets, asked.seed, preset == asked.presets[0])
            seconds += row["seconds"]
            for method, metrics in row["scores"].items():
                found.setdefault(preset if method == "model" else method, {})[name] = metrics
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=1))
        print(f"{preset}: {seconds:.0f} CPU seconds for five trainings", flush=True)
    print(f"\nset5 x{asked.scale}, luma\n{'':18}" + "".join(f"{n:>11}" for n in NAMES) + f"{'mean':>9}{'SSIM':>8}")
    for method, by_name in found.items():
        values = [by_name[n]["psnr"] for n in NAMES]
        similar = np.mean([by_name[n]["ssim"] for n in NAMES])
        print(f"{method:18}" + "".join(f"{v:11.2f}" for v in values) + f"{np.mean(values):9.2f}{similar:8.4f}")


if __name__ == "__main__":
    main()
