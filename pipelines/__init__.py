"""Pipelines: from raw files to a defended score and to predictions. Importing any of it asks for no network.

Libraries below report home unless told not to: MLflow, Ray, and ONNX Runtime, which lightning imports through
torchmetrics, and which (1.31, on Linux) writes a device id and uploads when imported. Who wants that sets the variable
to another value before.
"""

import os as _os

for _name, _value in {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    _os.environ.setdefault(_name, _value)
