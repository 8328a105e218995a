"""Seconds of a training step of segmentation presets beside MONAI's SegResNet with 8 filters, in turn in one run.

``python -m tests.benchmarks.segment_speed [--threads 1] [--dimensions 2 3]``: 8 images of 256 x 256, a volume of 64^3;
forward, cross-entropy, backward, AdamW. With one thread the process's own CPU time is taken, since other work on the
machine disturbs it least; with more, the clock. Least of the rounds.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from domains.medical.segment_model import Segmenter
from shared_backbones.presets import load_preset

SHAPES = {2: (8, 1, 256, 256), 3: (1, 1, 64, 64, 64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["medical_unet", "light_unet", "plain_unet"])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import SegResNet
    for rank in args.dimensions:
        torch.manual_seed(0)
        nets: dict[str, nn.Module] = {n: Segmenter(load_preset(n), rank, 1, 2, depth=6) for n in args.presets}
        nets["monai SegResNet f8"] = SegResNet(spatial_dims=rank, init_filters=8, in_channels=1, out_channels=2)
        x = torch.randn(SHAPES[rank])
        target = torch.randint(0, 2, (x.shape[0], *x.shape[2:]))
        optimisers = {name: torch.optim.AdamW(net.parameters()) for name, net in nets.items()}
        seconds: dict[str, list[float]] = {name: [] for name in nets}
        for _ in range(args.rounds):
            for name, net in nets.items():
                start = clock()
                loss = F.cross_entropy(net(x), target)
                optimisers[name].zero_grad()
                loss.backward()
                optimisers[name].step()
                seconds[name].append(clock() - start)
        for name, net in nets.items():
            size = sum(p.numel() for p in net.parameters())
            print(f"{rank}-D {tuple(x.shape)} {name}: {min(seconds[name]):.2f} s a step, {size / 1e6:.3f} M parameters")


if __name__ == "__main__":
    main()
