"""The fault experiment of :mod:`.faults` on `cambium flow serve`: server, worker, flow run, trainer and command die.

Two deployments do the work. A run that ended otherwise than well is asked for again, as the next night would; a command
that was killed is given again. Everything else is for Cambium to mend.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from ..flows.serving import ENDED, Serving
from .faults import PRESET, SETS, Place

MEAN = 6.0  # seconds between kills in which a flow run is at work


def deployments(place: Place, prefect: Path) -> Path:
    """A prefect.yaml of the place's retraining and of its batch, as :data:`tests.benchmarks.faults.WORK` does them."""
    terms = {"draws": 200, "slower": 1e6}
    retrain: dict[str, Any] = {"task": "toy/rows", "data": "simulated", "preset": str(PRESET), "sets": SETS, "seed": 1}
    retrain |= {"out": str(place.folder / "runs"), "terms": terms}
    batch = {"model": "toy-rows@champion", "inbox": [str(place.inbox)], "out": str(place.out), "settle": 0}
    batch |= {"root": str(place.folder / "runs"), "workers": place.workers}
    entries = [
        {
            "name": name,
            "flow": flow,
            "entrypoint": f"flows.jobs.{flow}",
            "parameters": parameters,
            "work_pool": {"name": "cambium"},
            "concurrency_limit": {"limit": 1, "collision_strategy": strategy},
        }
        for name, flow, parameters, strategy in (
            ("again", "retrain", retrain, "ENQUEUE"),
            ("batch", "batch_predict", batch, "CANCEL_NEW"),
        )
    ]
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $CAMBIUM_WORK }}"}}]
    prefect.write_text(yaml.safe_dump({"name": "faults", "pull": pull, "deployments": entries}))
    return prefect


def kill_one(serving: Serving, place: Place, rng: np.random.Generator) -> None:
    """SIGKILL to a process of the command: each kind as likely as another. A command that died is given again."""
    family = serving.family()
    kinds = sorted(set(family.values()))
    if not kinds:
        return
    kind = kinds[int(rng.integers(len(kinds)))]
    members = [process for process, name in family.items() if name == kind]
    with suppress(psutil.Error):
        members[int(rng.integers(len(members)))].send_signal(signal.SIGKILL)
        place.killed[kind] += 1
    if kind == "command":
        assert serving.process is not None
        serving.process.wait()
        serving.start()


def served(place: Place, rng: np.random.Generator, kills: int, inputs: int) -> int:
    """Retrain, then predict, served, while one process after the other dies; how many flow runs were asked for."""
    work = place.folder / "work"
    work.mkdir()
    serving = Serving(place.folder / "runs", work, deployments(place, place.folder / "prefect.yaml"), place.env)
    serving.start()
    asked = 0
    try:
        names = serving.deployments(2)
        left = rng.uniform(0, 2 * MEAN)
        done: list[str] = []
        while len(done) < 2 or sum(place.killed.values()) < kills:  # what is done is asked for again: it is found
            name = "again" if len(done) % 2 == 0 else "batch"
            asked += 1
            assert asked < 10 + 5 * kills, f"{dict(place.killed)}, {done}; {serving.log.read_text()[-3000:]}"
            run = serving.create(names[name])
            while (state := serving.state(run)) not in ENDED:
                time.sleep(0.1)
                left -= 0.1 * (state == "RUNNING")
                if sum(place.killed.values()) < kills and left < 0:
                    kill_one(serving, place, rng)
                    left = rng.uniform(0, 2 * MEAN)
            if state == "COMPLETED":
                done.append(run)
    finally:
        code = serving.stop()
    assert code == 0, serving.log.read_text()[-3000:]
    return asked
