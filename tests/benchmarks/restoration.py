"""Noise and coarse pixels on real scenes: ``python -m tests.benchmarks.restoration [--presets scene_restorer hsdt]``.

Denoising (Gaussian, sigma of 255) and super-resolution of held-back blocks, by the ordinary tasks: the trained presets
beside the given cube, low rank, total variation, the collaborative filter, bicubic and the closed form. PSNR in dB,
SSIM, spectral angle in rad. Deviations are over ``--seeds``, each with a draw of the blocks of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import resolve

from .few_pixels import trained

JOBS = {
    **{f"sigma{s}": ("hyperspectral/denoise", [f"sigma={s}"]) for s in (30, 50, 70)},
    **{f"x{s}": ("hyperspectral/superres", [f"scale={s}"]) for s in (2, 4, 8)},
}
METRICS = (("psnr", 2), ("ssim", 4), ("sam", 4))


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds, and deviations where there are several."""
    lines = [f"{'':18}" + "".join(f"{m:>18}" for m, _ in METRICS)]
    for name in dict.fromkeys(n for row in rows for n in row):
        cells = []
        for metric, digits in METRICS:
            values = np.array([row[name][metric] for row in rows if name in row])
            spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.{digits}f}{spread}")
        lines.append(f"{name:18}" + "".join(f"{c:>18}" for c in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["samson", "salinas_a"])
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=["sigma30", "sigma50", "sigma70", "x2", "x4"])
    parser.add_argument("--presets", nargs="+", default=["scene_restorer"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    logging.disable(logging.INFO)
    kept: dict[str, list[dict[str, Any]]] = {}
    for data in asked.data:
        for job in asked.jobs:
            task, own = JOBS[job]
            rows: list[dict[str, Any]] = []
            for seed in range(asked.seeds):
                row: dict[str, Any] = {}
                for preset in asked.presets:
                    sets = [*own, f"draw={seed}", "train.threads=1", *asked.sets]
                    done = trained(resolve(task, data=data, preset=preset, seed=seed, sets=sets), not row)
                    row |= {preset if n == "model" else n: v for n, v in done["scores"].items()}
                    print(f"{data}, {job}, seed {seed}, {preset}: {done['seconds']:.0f} CPU s", flush=True)
                rows.append(row)
            kept[f"{data} {job}"] = rows
            if asked.json:
                asked.json.write_text(json.dumps(kept, indent=1))
            print(f"\n{data}, {job}: {asked.seeds} seed{'s' * (asked.seeds > 1)}\n{table(rows)}\n", flush=True)


if __name__ == "__main__":
    main()
