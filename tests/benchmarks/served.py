"""`cambium flow serve` here, `prefect deployment run` there: every domain's retrain and batch on its simulator, twice.

    python -m tests.benchmarks.served [--domains timeseries,graph] [--runs DIR]

The deployments are those of ``prefect.yaml``. The second time each says that what is unchanged was found. Prints a line
per run: round, deployment, state, seconds from the command to the end, and what its artifact says.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from flows.deploying import FILE

from ..flows.serving import Serving

FOUND = ("found, not trained again", "all ", "nothing to predict yet")  # what an unchanged request says


def domains() -> list[str]:
    """Those that ``prefect.yaml`` deploys."""
    names = [entry["name"] for entry in yaml.safe_load(FILE.read_text())["deployments"]]
    return [name.removeprefix("retrain-") for name in names if name.startswith("retrain-")]


def run_deployment(serving: Serving, name: str) -> str:
    """``prefect deployment run``, as a person would; the run's id."""
    env = dict(os.environ) | {"PREFECT_API_URL": serving.api, "DO_NOT_TRACK": "1"}
    words = [sys.executable, "-m", "prefect", "deployment", "run", name]
    subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    short = name.partition("/")[2]
    wanted = {"deployments": {"name": {"any_": [short]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 50}
    return str(max(serving.asked("/flow_runs/filter", wanted), key=lambda run: str(run["created"]))["id"])


def rounds(serving: Serving, wanted: list[str]) -> Iterator[dict[str, Any]]:
    """A row per run, two rounds. Raises AssertionError where a run fails or the second round does something again."""
    serving.deployments(len(yaml.safe_load(FILE.read_text())["deployments"]))
    for number in (1, 2):
        for domain in wanted:
            for name in (f"retrain/retrain-{domain}", f"batch_predict/predict-{domain}"):
                start = time.monotonic()
                run = run_deployment(serving, name)
                state = serving.wait(run)
                said = " ".join(serving.said(run))
                row = {"round": number, "name": name, "state": state, "seconds": time.monotonic() - start, "said": said}
                yield row
                assert state == "COMPLETED", row
                assert number == 1 or any(words in said for words in FOUND), row


def main() -> None:
    """Both rounds, a line per run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--domains", default=",".join(domains()))
    parser.add_argument("--runs", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="served-") as folder:
        work = (options.runs or Path(folder)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(FILE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        serving = Serving(work / "runs", work, env=dict(os.environ) | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
        serving.start()
        try:
            for row in rounds(serving, options.domains.split(",")):
                line = f"{row['round']}  {row['name']:40s} {row['state']} {row['seconds']:5.0f} s  {row['said']}"
                print(line, flush=True)
        finally:
            print("serve ended with", serving.stop(), flush=True)


if __name__ == "__main__":
    main()
