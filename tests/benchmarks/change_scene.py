"""Two large dates compared: ``python -m tests.benchmarks.change_scene [--gigabytes 2] [--bands 60] [--workers 1 2]``.

Trains `hyperspectral/change` by the command line on a small simulated pair, writes a large one (both dates together of
the size asked for, int16, not kept), and runs `cambium predict` on a list that names it: peak memory of all processes
together, pixels per second of the clock and of the processor. With several numbers of workers the maps are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from domains.hyperspectral.changing.simulate import write_large_pair
from domains.public import sha256_of

from .scene import CAMBIUM, spent


def predict(run: Path, pairs: Path, out: Path, workers: int) -> tuple[float, float, float]:
    """Seconds of the clock, of the processor, and the peak in GiB of all processes together."""
    peak, before, begun = 0, spent(), time.perf_counter()
    command = [*CAMBIUM, "predict", str(run), str(pairs), "--out", str(out), "--workers", str(workers)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    watched = psutil.Process(child.pid)
    while child.poll() is None:
        time.sleep(0.2)
        total = 0
        try:
            for process in (watched, *watched.children(recursive=True)):
                total += process.memory_info().rss
        except psutil.Error:
            continue
        peak = max(peak, total)
    if child.wait() != 0:
        raise SystemExit("the prediction failed, see above")
    return time.perf_counter() - begun, spent() - before, peak / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--bands", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--scratch", type=Path, default=None, help="a folder with room for the pair")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    side = int((args.gigabytes * 1e9 / 4 / args.bands) ** 0.5) + 1
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        folder = Path(name)
        chosen = ["--set", f"simulated.bands={args.bands}", "--set", f"train.epochs={args.epochs}"]
        train = [*CAMBIUM, "train", "hyperspectral/change", "--data", "simulated", "--out", str(folder / "runs")]
        subprocess.run([*train, *chosen], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        run = next(p.parent for p in (folder / "runs").rglob("model.safetensors"))
        metrics = json.loads((run / "metrics.json").read_text())
        print("trained:", json.dumps(metrics.get("metrics", metrics))[:2000], flush=True)
        files = folder / "before.tif", folder / "after.tif"
        write_large_pair(*files, shape=(side, side), bands=args.bands, tiled=True, bigtiff="yes")
        pairs = folder / "pairs.csv"
        pairs.write_text("before,after\nbefore.tif,after.tif\n")
        size = sum(f.stat().st_size for f in files) / 1e9
        print(f"pair: {side} x {side} px, {args.bands} bands, {size:.2f} GB on disk", flush=True)
        maps: dict[int, dict[str, str]] = {}
        for workers in args.workers:
            out = folder / f"maps-{workers}"
            clock, processor, peak = predict(run, pairs, out, workers)
            rates = f"{side * side / clock:.0f} px/s of the clock, {side * side / processor:.0f} of the processor"
            print(f"{workers} workers: {clock:.0f} s, {processor:.0f} CPU s, {rates}; peak {peak:.2f} GiB", flush=True)
            maps[workers] = {p.name: sha256_of(p) for p in sorted((out / "pairs").glob("*.tif"))}
        if len(maps) > 1:
            same = all(m == maps[args.workers[0]] for m in maps.values())
            print(f"maps of all numbers of workers: {'the same bytes' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
