"""One batch by every engine with one and two workers: equal outputs, inputs per second, and what Prefect adds.

    python -m tests.benchmarks.engines --inputs 500 --nap 0.02

The task is a toy whose inputs take ``nap`` seconds each, so the table shows the engines and the ledger, not a model.
Each batch runs in a process of its own, whose start is in its seconds and stated apart. Prefect's part is the flow
``predict`` against the plain function on the same inputs, without the start of its server, which serves all flows: in
seconds on the clock, and in seconds of processor time (this process' and the server's), which a busy machine leaves as
they are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .faults import make_inputs

PLAIN = """
import sys, time; from pathlib import Path
start = time.perf_counter()
from pipelines.predict import predict
imported = time.perf_counter() - start
if __name__ == "__main__":
    run, inbox, out, engine, workers = sys.argv[1:6]
    start, spent = time.perf_counter(), time.process_time()
    summary = predict(run, [inbox], Path(out), workers=int(workers), engine=engine, lone=False)
    print(time.perf_counter() - start, imported, summary.exit_code, time.process_time() - spent)
"""
FLOW = """
import sys, time; from pathlib import Path
if __name__ == "__main__":
    run, inbox, out, engine, workers = sys.argv[1:6]
    import psutil
    from flows.server import loopback_server
    def used(pid):
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system
    with loopback_server(Path(out).parent / "prefect") as server:
        from flows.predict import predict
        from pipelines.predict import predict as imported
        start, spent = time.perf_counter(), time.process_time() + used(server.pid)
        found = predict(run, [inbox], out, workers=int(workers), engine=engine, root=str(Path(run).parents[1]))
        spent = time.process_time() + used(server.pid) - spent
        print(time.perf_counter() - start, 0.0, found["exit_code"], spent)
"""


def digest(out: Path) -> str:
    """Of all outputs but their lineage, which names the seconds of the day."""
    h = hashlib.sha256()
    for path in sorted(p for p in out.glob("*/*") if p.name != "lineage.json"):
        h.update(str(path.relative_to(out)).encode() + path.read_bytes())
    return h.hexdigest()[:12]


def once(folder: Path, script: str, run: Path, engine: str, workers: int, env: dict[str, str]) -> dict[str, Any]:
    """One batch in a process of its own: seconds, seconds of its imports, digest of the outputs."""
    kind = "flow" if script is FLOW else "plain"
    name, out = f"{kind}-{engine}-{workers}", folder / f"{kind}-{engine}-{workers}" / "out"
    out.parent.mkdir()
    (folder / f"{name}.py").write_text(script)
    words = [sys.executable, folder / f"{name}.py", run, folder / "in", out, engine, str(workers)]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    seconds, imported, code, spent = done.stdout.strip().splitlines()[-1].split()
    assert code == "0", done.stderr[-3000:]
    return {"seconds": float(seconds), "imports": float(imported), "processor": float(spent), "outputs": digest(out)}


def measure(folder: Path, env: dict[str, str], inputs: int, nap: float) -> dict[str, Any]:
    """The table and Prefect's seconds per input."""
    from ..pipelines.made import make_run

    make_inputs(folder / "in", inputs, 0, 0)
    run = make_run(folder / "runs" / "toy-rows" / ("a" * 12))
    env = env | {"TOY_SLEEP": str(nap), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    rows = [
        {"engine": engine, "workers": workers, **once(folder, PLAIN, run, engine, workers, env)}
        for engine in ("local", "dask", "ray")
        for workers in (1, 2)
    ]
    flow = once(folder, FLOW, run, "local", 2, env)
    plain = next(r for r in rows if (r["engine"], r["workers"]) == ("local", 2))
    assert len({row["outputs"] for row in [*rows, flow]}) == 1, rows
    for row in rows:
        row["inputs_per_second"] = inputs / row["seconds"]
    return {
        "rows": rows,
        "flow_seconds": flow["seconds"],
        "added_ms": 1e3 * (flow["seconds"] - plain["seconds"]) / inputs,
        "added_processor_ms": 1e3 * (flow["processor"] - plain["processor"]) / inputs,
    }


def main() -> None:
    """The table on stdout."""
    from ..pipelines.conftest import link_rows

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=500)
    parser.add_argument("--nap", type=float, default=0.02)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="engines-") as folder:
        path = link_rows(Path(folder) / "site")
        sys.path.insert(0, path.split(os.pathsep)[0])
        found = measure(Path(folder), os.environ | {"PYTHONPATH": path}, options.inputs, options.nap)
    print(json.dumps({k: v for k, v in found.items() if k != "rows"}))
    for row in found["rows"]:
        print(f"{row['engine']:6s} {row['workers']} workers  {row['inputs_per_second']:7.1f} inputs/s  "
              f"{row['seconds']:6.1f} s  outputs {row['outputs']}")  # fmt: skip


if __name__ == "__main__":
    main()
