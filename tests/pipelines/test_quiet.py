"""Nothing that Cambium imports reports home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_training_leaves_no_device_id_of_a_library_that_reports_home(tmp_path: Path) -> None:
    """lightning imports ONNX Runtime, which would make one before it uploads: seen in 1.31 on Linux."""
    said = ("ORT_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
    env = {name: value for name, value in os.environ.items() if name not in said}
    env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    script = f"import os, pipelines.trainer.loop; assert all(os.environ[name] in ('1', 'true') for name in {said})"
    subprocess.run([sys.executable, "-c", script], env=env, check=True, cwd=Path(__file__).parents[2])
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in str(path)]
