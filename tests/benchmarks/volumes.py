"""Peak memory of segmenting a large volume: ``python -m tests.benchmarks.volumes [--classes 20] [--shape I J K]``.

The volume is int16 voxels, as a CT is held; the network is the default preset, untrained, its windows as many as the
plan asks for. Prints what was held before and at most, and seconds. ``--every N`` runs one window of N through the
network and repeats its answer for the others, which changes the time and not what is held.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch
from torch import Tensor

from domains.medical.plan import Fingerprint, make_plan
from domains.medical.segment_config import SegmentOptions
from domains.medical.segment_model import Segmenter
from domains.medical.segment_windows import Blend, segment
from shared_backbones.presets import load_preset


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 1000))
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--preset", default="medical_unet")
    parser.add_argument("--spacing", type=float, nargs=3, default=(0.8, 0.8, 0.8), help="mm of the volume")
    parser.add_argument("--plan-spacing", type=float, nargs=3, default=(0.8, 0.8, 0.8), help="mm of the network")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    one = (0.0,)
    found = Fingerprint(
        1, tuple(map(float, args.shape)), tuple(args.plan_spacing), 1, (-900.0,), (900.0,), one, (400.0,), -1000.0, one
    )
    plan = make_plan(found, SegmentOptions())
    model = Segmenter(load_preset(args.preset), 3, 1, args.classes, plan.depth).eval()
    if args.every > 1:
        whole, calls = model.forward, 0
        kept: dict[tuple[int, ...], Tensor] = {}

        def sometimes(x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            shape = tuple(x.shape)
            if shape not in kept or calls % args.every == 0:
                kept[shape] = whole(x)
            return kept[shape]

        model.forward = sometimes  # type: ignore[method-assign]
    image = np.empty((1, *args.shape), np.int16)
    for rows in range(args.shape[0]):
        image[0, rows] = np.random.default_rng(rows).integers(-1000, 1000, args.shape[1:], dtype=np.int16)
    before, start = peak_mib(), time.perf_counter()
    said = 0

    def progress(done: int, of: int) -> None:
        nonlocal said
        if done * 20 // of > said:
            said = done * 20 // of
            print(
                f"  {done} of {of} windows, {time.perf_counter() - start:.0f} s, peak {peak_mib():.0f} MiB", flush=True
            )

    answer = segment(model, image, args.spacing, plan, Blend(args.overlap), progress)
    naive = np.prod(args.shape) * args.classes * 4 / 2**20
    print(f"windows of {plan.patch}, {args.classes} classes, {args.shape}: {time.perf_counter() - start:.0f} s")
    print(f"peak {peak_mib():.0f} MiB, of which {before:.0f} before; all probabilities would be {naive:.0f} MiB")
    print(f"labels found: {len(np.unique(answer.labels[::16, ::16, ::16]))}")


if __name__ == "__main__":
    main()
