"""A scene larger than memory, classified: ``python -m tests.benchmarks.scene [--gigabytes 8] [--bands 224]``.

Trains the default preset for one epoch on a small simulated scene of the same sensor, writes a large one (EnMAP-like,
int16, not kept), and runs `cambium predict` on it: peak memory of the process, pixels per second, and those of a loop
that cuts a patch around each pixel and gives it to the same model. Then again, killed (-9) half-way, and resumed: the
outputs are compared byte for byte. Seconds are those of the processor, start of the program included.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from domains.hyperspectral.data import open_scene
from domains.hyperspectral.simulate import write_large
from domains.public import sha256_of
from pipelines.runs import load_run
from pipelines.sink import SHELF

CAMBIUM = [sys.executable, "-c", "from pipelines.cli import main; main()"]


def patch_rate(run: Path, scene: Path, pixels: int, batch: int = 64) -> float:
    """Pixels per second of the loop over pixels: one patch of the model's reach around each, in batches."""
    trained = load_run(run)
    model, used = trained.model.eval(), trained.fitted["used"]
    r = model.reach
    side = 2 * r + 1
    values, seen = open_scene(scene).read(slice(0, side + pixels // 16), slice(0, side + 16))
    cube, there = torch.from_numpy(values[used]), torch.from_numpy(seen[used])
    corners = [(i, j) for i in range(pixels // 16) for j in range(16)]
    start = time.process_time()
    with torch.inference_mode():
        for k in range(0, len(corners), batch):
            at = [(slice(None), slice(i, i + side), slice(j, j + side)) for i, j in corners[k : k + batch]]
            model(torch.stack([cube[p] for p in at]), torch.stack([there[p] for p in at]))[:, :, r, r].softmax(1)
    return len(corners) / (time.process_time() - start)


def spent() -> float:
    """Processor seconds of all children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def predict(run: Path, scene: Path, out: Path, *, stop_at: float | None = None) -> tuple[float, float]:
    """Processor seconds and peak GiB; killed once the share ``stop_at`` of the rows is on the shelf."""
    peak, before = 0.0, spent()
    child = subprocess.Popen([*CAMBIUM, "predict", str(run), str(scene), "--out", str(out)], stdout=subprocess.DEVNULL)
    rows = open_scene(scene).shape[0]
    while child.poll() is None:
        time.sleep(0.2)
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
        except OSError:
            break
        peak = max([peak, *(int(line.split()[1]) / 2**20 for line in status.splitlines() if line.startswith("VmHWM"))])
        slabs = sorted(out.glob(f"{SHELF}*/*/windows/*.npy"))
        if stop_at is not None and slabs and len(slabs) * _rows(slabs[0]) >= stop_at * rows:
            os.kill(child.pid, signal.SIGKILL)
    if child.wait() not in (0, -signal.SIGKILL):
        raise SystemExit("the prediction failed, see above")
    return spent() - before, peak


def _rows(slab: Path) -> int:
    import numpy as np

    return int(np.load(slab, mmap_mode="r", allow_pickle=False).shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--bands", type=int, default=224)
    parser.add_argument("--preset", default=None)
    parser.add_argument("--pixels", type=int, default=2048, help="of the loop over pixels")
    parser.add_argument("--scratch", type=Path, default=None, help="a folder with room for the scene")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    side = int((args.gigabytes * 1e9 / 2 / args.bands) ** 0.5) + 1
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        folder = Path(name)
        chosen = ["--set", f"simulated.bands={args.bands}", "--set", "train.epochs=1"]
        preset = ["--preset", args.preset] if args.preset else []
        train = [*CAMBIUM, "train", "hyperspectral/classify", "--data", "simulated", "--out", str(folder / "runs")]
        subprocess.run([*train, *chosen, *preset], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        run = next(p.parent for p in (folder / "runs").rglob("model.safetensors"))
        scene = folder / "scene.tif"
        write_large(scene, shape=(side, side), bands=args.bands, bigtiff="yes", tiled=True)
        size = scene.stat().st_size / 1e9
        print(f"scene: {side} x {side} px, {args.bands} bands, {size:.2f} GB on disk", flush=True)
        loop = patch_rate(run, scene, args.pixels)
        print(f"loop over patches: {loop:.0f} px/s", flush=True)
        seconds, peak = predict(run, scene, folder / "whole")
        rate = side * side / seconds
        print(
            f"whole: {seconds:.0f} s, {rate:.0f} px/s, {rate / loop:.1f} times the loop; peak {peak:.2f} GiB",
            flush=True,
        )
        first, _ = predict(run, scene, folder / "again", stop_at=0.5)
        print(f"killed after {first:.0f} s", flush=True)
        second, peak = predict(run, scene, folder / "again")
        print(f"resumed: {second:.0f} s; peak {peak:.2f} GiB", flush=True)
        rasters = sorted((folder / "whole" / "scene").glob("*.tif"))
        for path in rasters:
            same = sha256_of(path) == sha256_of(folder / "again" / "scene" / path.name)
            print(f"{path.name}: {'the same bytes' if same else 'DIFFERENT'}")
        left = [p.name for p in (folder / "again").iterdir() if p.name.startswith(".")]
        print(f"left behind: {left or 'nothing'}")


if __name__ == "__main__":
    main()
