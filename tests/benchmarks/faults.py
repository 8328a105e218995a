"""Kill at random, run again, and compare with what an undisturbed run leaves.

    python -m tests.benchmarks.faults --kills 20 --inputs 500 --corrupt 5 --seed 0 [--served]

A toy champion stands; one command retrains (a challenger is trained, judged and perhaps promoted) and then predicts a
batch. At random moments one of its processes, whichever, is killed by SIGKILL, and the command is
given again, until it has been killed as often as asked and then left alone. At the end: every output is there and equal
to the undisturbed run's, every corrupt input is refused, every run is one version, and no temporary file is left.

With ``--served`` the same work is two deployments of `cambium flow serve`, and what is killed is its server, its
worker, a flow run, the trainer, a process of the batch, or the command itself: see :mod:`.served_faults`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

PRESET = Path(__file__).parents[1] / "pipelines" / "rows.yaml"
SETS = ["train.epochs=4", "train.checkpoint_every=2", "train.threads=1", "figures=false"]
WORK = f"""
import sys; from pathlib import Path
from pipelines.config import resolve
from pipelines.predict import predict
from pipelines.promotion import Terms
from pipelines.retrain import retrain
if __name__ == "__main__":
    root, inbox, out, preset = map(Path, sys.argv[1:5])
    config = resolve("toy/rows", data="simulated", preset=str(preset), sets={SETS}, seed=1)
    found = retrain(config, root, terms=Terms(draws=200, slower=1e6), quiet=True)
    sys.exit(predict(root / "toy-rows" / found["champion"], [str(inbox)], out, workers=int(sys.argv[5])).exit_code)
"""


@dataclass
class Place:
    """One root of runs with its champion, and the batch's output."""

    folder: Path
    inbox: Path
    script: Path
    env: dict[str, str]
    workers: int
    killed: Counter[str] = field(default_factory=Counter)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def done(self) -> int:
        """Lines of the ledger so far."""
        path = self.out / "ledger.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    def start(self) -> subprocess.Popen[bytes]:
        words = [
            sys.executable,
            str(self.script),
            self.folder / "runs",
            self.inbox,
            self.out,
            PRESET,
            str(self.workers),
        ]
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(words, env=self.env, stdout=log, stderr=log, start_new_session=True)


def make_inputs(folder: Path, inputs: int, corrupt: int, seed: int) -> list[str]:
    """Files of rows, some of them cut short; returns the names of those."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(inputs):
        np.save(folder / f"n{i:04d}.npy", rng.normal(size=(20, 4)))
    torn = sorted(folder.iterdir())
    chosen = [torn[i] for i in sorted(rng.choice(inputs, corrupt, replace=False))]
    for path in chosen:
        path.write_bytes(path.read_bytes()[:-9])
    return [path.name for path in chosen]


def _what(process: psutil.Process, top: int) -> str:
    words = " ".join(process.cmdline())
    return "command" if process.pid == top else "trainer" if "pipelines.train" in words else "worker"


def _trained(place: Place) -> bool:
    return bool(list((place.folder / "runs" / "toy-rows").glob("*/reference.safetensors")))


def strike(place: Place, rng: np.random.Generator, left: int, kills: int, total: int) -> bool:
    """Start the command, kill one of its processes at a random moment; False where it ended before.

    The first third of all kills falls on the retraining, the others on the batch as its ledger grows, and some of them
    on the way there, where what is done already is found.
    """
    process = place.start()
    goal = place.done + rng.uniform(0, 1.6 * max(1, total - place.done) / left)
    early = (left > kills * 2 / 3 and not _trained(place)) or place.done >= total or rng.random() < 0.15
    until = time.monotonic() + (rng.uniform(0.5, 15.0) if early else 600.0)
    while process.poll() is None and time.monotonic() < until and not (place.done > goal and _trained(place)):
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.05))
    if process.poll() is not None:
        return False
    with suppress(psutil.Error):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        victim = family[int(rng.integers(len(family)))]
        what = _what(victim, process.pid)
        victim.send_signal(signal.SIGKILL)
        place.killed[what] += 1
    if process.poll() is None:
        # of a worker's death the command is to recover by itself; a stop here only ends the round
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 2))
    if process.poll() is None:
        process.kill()
    process.wait()
    return True


def given_again(place: Place, rng: np.random.Generator, kills: int, inputs: int) -> int:
    """Strike until it was killed as often as asked, then leave it alone; how often the command was given."""
    rounds = 1
    while sum(place.killed.values()) < kills:
        rounds += 1
        assert rounds < 5 * kills, "the command ends before it can be killed"
        strike(place, rng, kills - sum(place.killed.values()), kills, inputs)
    again = place.start().wait()
    assert again in (0, 3), (place.folder / "log.txt").read_text()[-3000:]
    return rounds


def _tree(out: Path) -> dict[str, bytes]:
    """Outputs, but for the digest of a model's description, which holds the seconds that its training took."""
    found = {}
    for path in sorted(out.glob("*/*")):
        content = path.read_bytes()
        if path.name == "lineage.json":
            card = {k: v for k, v in json.loads(content).items() if k != "model"}
            content = json.dumps(card, sort_keys=True).encode()
        found[str(path.relative_to(out))] = content
    return found


def compare(place: Place, other: Place, torn: list[str], inputs: int) -> dict[str, Any]:
    """What the disturbed place holds, held against the undisturbed one. Raises AssertionError at the first fault."""
    from pipelines.ledger import read
    from pipelines.registry import versions
    from pipelines.retrain import decisions

    rows = read(place.out / "ledger.jsonl").values()
    refused = sorted(Path(row.input).name for row in rows if row.state == "refused")
    assert refused == torn, refused
    assert sum(row.state == "done" for row in rows) == inputs - len(torn)
    assert _tree(place.out) == _tree(other.out)
    roots = [p.folder / "runs" for p in (place, other)]
    held = [sorted((v["version"], v["run"], tuple(v["aliases"])) for v in versions(root)) for root in roots]
    assert held[0] == held[1], held
    verdicts = [[(d["promote"], d["challenger_run"]) for d in decisions(root)] for root in roots]
    assert verdicts[0] == verdicts[1], verdicts
    left = [
        str(p) for p in place.folder.rglob(".*") if p.name.startswith((".writing", ".lock", ".staging", ".partial"))
    ]
    assert not left, left
    return {"done": inputs - len(torn), "refused": len(refused), "versions": len(held[0]), "promoted": verdicts[0]}


def faults(
    folder: Path,
    env: dict[str, str],
    *,
    kills: int,
    inputs: int,
    corrupt: int,
    seed: int,
    nap: float,
    workers: int = 2,
    database: Path | None = None,
    disturb: Callable[[Place, np.random.Generator, int, int], int] | None = None,
) -> dict[str, Any]:
    """The whole experiment below ``folder``; plain facts.

    nap: seconds that a batch of training and an input take longer. database: an empty registry to start from.
    disturb: what does the work and kills, from (place, random numbers, kills, inputs) to how often it was started.
    """
    from pipelines.registry import record

    from ..pipelines.made import make_run

    rng = np.random.default_rng(seed)
    torn = make_inputs(folder / "in", inputs, corrupt, seed)
    (folder / "work.py").write_text(WORK)
    env = env | {"TOY_SLEEP": str(nap), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    calm, stormy = (Place(folder / n, folder / "in", folder / "work.py", env, workers) for n in ("calm", "stormy"))
    for place in (calm, stormy):
        champion = make_run(place.folder / "runs" / "toy-rows" / ("a" * 12))
        if database is not None:
            shutil.copy(database, place.folder / "runs")
        record(champion, place.folder / "runs")
    start = time.monotonic()
    assert calm.start().wait() == (3 if corrupt else 0), (calm.folder / "log.txt").read_text()[-3000:]
    undisturbed, start = time.monotonic() - start, time.monotonic()
    rounds = (disturb or given_again)(stormy, rng, kills, inputs)
    found = compare(stormy, calm, torn, inputs)
    seconds = {"undisturbed": round(undisturbed, 1), "disturbed": round(time.monotonic() - start, 1)}
    return {**found, "killed": dict(stormy.killed), "rounds": rounds, "seconds": seconds}


def main() -> None:
    """The full experiment, as JSON on stdout."""
    from ..pipelines.conftest import link_rows

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("kills", 20), ("inputs", 500), ("corrupt", 5), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--nap", type=float, default=0.05)
    parser.add_argument("--served", action="store_true")
    options = vars(parser.parse_args())
    if options.pop("served"):
        from .served_faults import served

        options["disturb"] = served
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        path = link_rows(Path(folder) / "site")
        sys.path.insert(0, path.split(os.pathsep)[0])
        print(json.dumps(faults(Path(folder), os.environ | {"PYTHONPATH": path}, **options)))


if __name__ == "__main__":
    main()
