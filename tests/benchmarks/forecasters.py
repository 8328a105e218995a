"""Training speed and test error of the forecasting presets beside neuralforecast's models, in one run.

    python -m tests.benchmarks.forecasters --peer /path/to/its/bin/python [--epochs 3] [--lookback 96] [--horizon 96]
        [--schedule constant] [--precision 32] [--seeds 3]

The peer lives in an environment of its own (``python -m venv X && X/bin/pip install neuralforecast``) and runs as a
subprocess. Both get the same z-scored ETTh1 (12/4/4 months), look-back, horizon, width, depth, batch, learning rate,
epochs, loss (MSE) and threads, and are scored on all test windows. A sample is a window of all series. Speed is taken
between the ends of consecutive training steps, batches included, validation and set-up left out; with one thread in
the process's own CPU time, since other work on the machine disturbs it least. Both train at a constant rate, which
after so few epochs beats our cosine on validation (``--schedule``). The peer keeps its last weights, ours the best
epoch on validation. ``--precision bf16-mixed`` is for ours alone. With ``--seeds`` each trains with several and the
means stand below.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PRESETS = ("itransformer", "patch_tst")
SPEED = "samples_per_second"
MEANT = ("mse", "mae", SPEED)  # over seeds


def own(ask: dict[str, Any]) -> dict[str, Any]:
    """One training by the trainer's own loop."""
    import torch
    from lightning.fabric import Fabric

    from pipelines.config import build_preset, build_task, resolve
    from pipelines.trainer import plan
    from pipelines.trainer.loop import Job, fit

    torch.set_num_threads(ask["threads"])
    clock = time.process_time if ask["threads"] == 1 else time.perf_counter
    sets = [f"lookback={ask['lookback']}", f"horizon={ask['horizon']}", f"train.epochs={ask['epochs']}"]
    sets += ["ets_origins=0", f"train.batch_size={ask['batch']}", f"train.lr={ask['lr']}", "train.patience=null"]
    sets += [f"train.schedule={ask['schedule']}", f"train.precision={ask['precision']}"]
    config = resolve("timeseries/forecast", data="ett_h1", preset=ask["model"], file=None, sets=sets, seed=ask["seed"])
    task: Any = build_task(config)
    data = task.open(config.data)
    split = task.split(data)
    fitted = task.fit(data, split)
    plan.seed_all(ask["seed"], 2)
    model = task.build(fitted, build_preset(config))
    task.initialise(model, data, split)
    train, val = (task.items(data, split, fitted, part) for part in ("train", "val"))
    gaps: list[float] = []
    last: list[Any] = [None, 0.0]  # epoch and time of the step before

    def tick(position: Any, steps: int) -> None:
        now = clock()
        if last[0] == position.epoch:
            gaps.append(now - last[1])
        last[:] = [position.epoch, now]

    with tempfile.TemporaryDirectory() as folder:
        fabric = Fabric(accelerator="cpu", devices=1)
        job = Job(task, train, val, config.train, ask["seed"], Path(folder) / "checkpoint", fabric, tick)
        fit(job, model)
    model.eval()
    task.calibrate(model, data, split, fitted)
    scored = task.metrics(task.evidence(model, data, split, fitted, "test"))
    return {
        "windows": len(task.items(data, split, fitted, "test")),
        "mse": scored["mse"],
        "mae": scored["mae"],
        "steps": len(gaps),
        "samples_per_second": ask["batch"] * len(gaps) / sum(gaps),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "versions": f"torch {torch.__version__}",
    }


def zscored_values() -> tuple[np.ndarray, tuple[int, int, int]]:
    """ETTh1 up to the end of its test part, z-scored by its training part, and the lengths of the parts."""
    from domains.timeseries.forecast import Forecast

    task = Forecast(Forecast.Config())
    panel = task.open("ett_h1")
    train, val, test = (task.split(panel).parts[part] for part in ("train", "val", "test"))
    values = panel.values[: test[-1] + 1]
    return (values - values[train].mean(0)) / values[train].std(0), (len(train), len(val), len(test))


def _run(command: list[str], threads: int) -> dict[str, Any]:
    import os

    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | dict.fromkeys(names, str(threads)))
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="Python of the environment that holds neuralforecast.")
    parser.add_argument("--models", nargs="+", default=list(PRESETS))
    parser.add_argument("--lookback", type=int, default=96)
    parser.add_argument("--horizon", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--schedule", default="constant", choices=("constant", "cosine"))
    parser.add_argument("--precision", default="32", choices=("32", "bf16-mixed"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--own", help=argparse.SUPPRESS)  # a request: this process is one of ours
    a = parser.parse_args()
    if a.own:
        print(json.dumps(own(json.loads(Path(a.own).read_text()))))
        return
    values, parts = zscored_values()
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "values.npy", values)
        for name in a.models:
            rate, batch = {"itransformer": (1e-4, 32), "patch_tst": (1e-3, 128)}[name]
            ask = {"model": name, "values": f"{folder}/values.npy", "parts": parts, "series": values.shape[1]}
            ask |= {"lookback": a.lookback, "horizon": a.horizon, "epochs": a.epochs, "threads": a.threads}
            ask |= {"schedule": a.schedule, "precision": a.precision}
            found: dict[str, list[dict[str, Any]]] = {}
            for seed in range(a.seeds):
                request = Path(folder) / "ask.json"
                request.write_text(json.dumps(ask | {"lr": rate, "batch": batch, "seed": seed}))
                ours = [sys.executable, "-m", "tests.benchmarks.forecasters", "--own", str(request)]
                peer = [a.peer, str(Path(__file__).with_name("_forecasters_peer.py")), str(request)]
                for who, command in {"Cambium": ours, "neuralforecast": peer if a.peer else None}.items():
                    if command:
                        row = _run(command, a.threads)
                        found.setdefault(who, []).append(row)
                        print(f"{name} {who}, seed {seed}: {_told(row)}", flush=True)
            mean = {who: {k: np.mean([row[k] for row in rows]) for k in MEANT} for who, rows in found.items()}
            for who, row in mean.items():
                print(f"{name} {who}, mean: MSE {row['mse']:.4f} MAE {row['mae']:.4f}, {row[SPEED]:.0f} samples/s")
            if a.peer:
                ratio = mean["Cambium"][SPEED] / mean["neuralforecast"][SPEED]
                print(f"{name}: {ratio:.2f} times the peer's samples per second", flush=True)


def _told(row: dict[str, Any]) -> str:
    return (
        f"MSE {row['mse']:.4f} MAE {row['mae']:.4f} over {row['windows']} windows, {row[SPEED]:.0f} samples/s "
        f"over {row['steps']} steps, {row['parameters']:,} parameters, {row['versions']}"
    )


if __name__ == "__main__":
    main()
