"""The peer's half of :mod:`tests.benchmarks.forecasters`: neuralforecast in an environment of its own; no Cambium here.

``python _forecasters_peer.py REQUEST.json``: trains one model on z-scored series, prints one line of JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def _model(ask: dict[str, Any], steps: int, callback: Any) -> Any:
    from neuralforecast.losses.pytorch import MSE
    from neuralforecast.models import PatchTST, iTransformer

    windows = ask["batch"] * (1 if ask["model"] == "itransformer" else ask["series"])  # PatchTST takes one series each
    common: dict[str, Any] = {
        "h": ask["horizon"], "input_size": ask["lookback"], "loss": MSE(), "max_steps": steps,
        "random_seed": 1 + ask["seed"], "learning_rate": ask["lr"], "batch_size": ask["series"],
        "windows_batch_size": windows, "scaler_type": "identity", "inference_windows_batch_size": 256,
        "val_check_steps": steps, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False, "callbacks": [callback],
    }  # fmt: skip
    if ask["model"] == "itransformer":
        size = {"hidden_size": 256, "n_heads": 8, "e_layers": 2, "d_ff": 256, "dropout": 0.1, "use_norm": True}
        return iTransformer(n_series=ask["series"], **size, **common)
    size = {"hidden_size": 16, "n_heads": 4, "linear_hidden_size": 128, "encoder_layers": 3}
    patches = {"patch_len": 16, "stride": 8, "dropout": 0.3, "fc_dropout": 0.3, "revin": True}
    return PatchTST(**size, **patches, **common)


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import neuralforecast
    import pandas as pd
    import torch
    from pytorch_lightning import Callback

    ask = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(ask["threads"])
    clock = time.process_time if ask["threads"] == 1 else time.perf_counter
    values = np.load(ask["values"])  # (T, V), z-scored
    train, val, test = ask["parts"]
    steps = ask["epochs"] * -(-(train - ask["lookback"] - ask["horizon"] + 1) // ask["batch"])

    class Ends(Callback):  # type: ignore[misc]
        at: list[float] = []  # noqa: RUF012 - one training in this process

        def on_train_batch_end(self, *_: Any) -> None:
            self.at.append(clock())

    times = pd.date_range("2016-07-01", periods=len(values), freq="h")
    frame = pd.concat(pd.DataFrame({"unique_id": f"s{v}", "ds": times, "y": y}) for v, y in enumerate(values.T))
    model = _model(ask, steps, Ends())
    nf = neuralforecast.NeuralForecast(models=[model], freq="h")
    found = nf.cross_validation(df=frame, val_size=val, test_size=test, n_windows=None, step_size=1, refit=False)
    error = found["y"].to_numpy() - found[type(model).__name__].to_numpy()
    gaps = np.diff(Ends.at)
    print(
        json.dumps(
            {
                "windows": int(found["cutoff"].nunique()),
                "mse": float((error**2).mean()),
                "mae": float(np.abs(error).mean()),
                "steps": len(Ends.at),
                "samples_per_second": float(ask["batch"] * len(gaps) / gaps.sum()),
                "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
                "versions": f"neuralforecast {neuralforecast.__version__}, torch {torch.__version__}",
            }
        )
    )


if __name__ == "__main__":
    main()
