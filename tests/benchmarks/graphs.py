"""Graphs beyond one batch: measured memory and speed, each contestant in a process of its own.

    python -m tests.benchmarks.graphs large [--nodes 1000000] [--arcs 10000000] [--features 100] [--peer PYTHON]
    python -m tests.benchmarks.graphs cost [--nodes 1000 10000 100000] [--mixers message linear attention]

``large``: a generated graph (features in a file, mapped into memory) trains one epoch on sampled neighbourhoods and is
predicted whole, block by block. Beside it the same network on the whole graph in one batch, ours and, where ``--peer``
names a Python that has torch-geometric, PyG's SAGEConv (both in CPU seconds). ``cost``: seconds and memory of one
training step against N.

Peak memory is what the process held at most (VmHWM), less what it held before it began. A mapped file counts while its
pages are held, though the system may take them back.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = "tests.benchmarks.graphs"
DIM, CLASSES, LAYERS = 64, 10, 2
STEPS = 2  # of a whole graph in one batch; the faster one counts


def resident_mb() -> float:
    """Memory of this process now."""
    import psutil

    return float(psutil.Process().memory_info().rss / 2**20)


def peak_mb() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def anonymous_mb() -> float:
    """Memory of this process that is no mapped file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return float(line.split()[1]) / 2**10
    return float("nan")


def generate(folder: Path, nodes: int, arcs: int, features: int, seed: int = 0) -> None:
    """Communities of some 100 nodes that most arcs stay in; features and classes follow them. Written in pieces."""
    import numpy as np

    from domains.graph.store import write_rows

    random = np.random.default_rng(seed)
    group = np.arange(nodes) // 100
    source = random.integers(0, nodes, arcs)
    near = np.minimum(source // 100 * 100 + random.integers(0, 100, arcs), nodes - 1)
    target = np.where(random.random(arcs) < 0.8, near, random.integers(0, nodes, arcs))
    label = random.integers(0, CLASSES, int(group[-1]) + 1)[group]
    np.save(folder / "edges.npy", np.stack([source, target]))
    np.save(folder / "label.npy", label)
    centres = random.normal(size=(CLASSES, features)).astype(np.float32)
    at = range(0, nodes, 50_000)
    blocks = (
        0.3 * centres[label[i : i + 50_000]] + random.normal(size=(min(50_000, nodes - i), features)).astype(np.float32)
        for i in at
    )
    write_rows(folder / "features.npy", blocks, nodes, features)


def network(features: int) -> Any:
    """(stem, backbone, head) of mean message passing."""
    import torch
    from torch import nn

    from shared_backbones.backbone import Backbone, BackboneSpec, LayerSpec, StageSpec, Tokens

    torch.manual_seed(0)
    layers = (LayerSpec("message", {}, "mlp", {"ratio": 1.0}),) * LAYERS
    tokens = Tokens(rank=1, ordered=False, provides=frozenset({"edges"}))
    backbone = Backbone(BackboneSpec((StageSpec(DIM, layers),)), tokens)
    return nn.Linear(features, DIM), backbone, nn.Linear(DIM, CLASSES)


def load(folder: Path) -> tuple[Any, Any, Any, Any]:
    """(features mapped, arcs, labels, training nodes): nine nodes of ten train."""
    import numpy as np

    from domains.graph.store import open_rows

    features = open_rows(folder / "features.npy")
    train = np.flatnonzero(np.random.default_rng(1).random(len(features)) < 0.9)
    return features, np.load(folder / "edges.npy"), np.load(folder / "label.npy"), train


def sampled(folder: Path, fanouts: Sequence[int], batch: int) -> dict[str, Any]:
    """One epoch on sampled neighbourhoods, then the whole graph block by block."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from domains.graph.budget import budget
    from domains.graph.large import sampled_tokens, whole_graph
    from domains.graph.neighbours import csr
    from domains.graph.sampling import Sampler, shuffled
    from domains.graph.store import rows_of

    features, edges, label, train = load(folder)
    stem, backbone, head = network(features.shape[1])
    said = budget(len(features), edges.shape[1], features.shape[1], backbone, seeds=batch, fanouts=fanouts)
    print(said, file=sys.stderr, flush=True)
    before = resident_mb()
    clock = time.perf_counter()
    graph = csr(edges, len(features))
    del edges
    listed = time.perf_counter() - clock
    parameters = [p for m in (stem, backbone, head) for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    sampler, arcs, losses, most = Sampler(graph, fanouts), 0, [], 0.0
    clock, busy = time.perf_counter(), time.process_time()
    for seeds, random in shuffled(train, batch, seed=0):
        part = sampler.sample(seeds, random)
        x = stem(torch.from_numpy(rows_of(features, part.n_id)))
        tokens = sampled_tokens(backbone, x, part)
        loss = F.cross_entropy(head(tokens), torch.from_numpy(label[seeds]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        arcs += len(part.e_id)
        losses.append(float(loss))
        most = max(most, anonymous_mb())
    trained, busy = time.perf_counter() - clock, time.process_time() - busy
    clock = time.perf_counter()
    out = whole_graph(lambda at: stem(torch.from_numpy(rows_of(features, at))), backbone, head, graph)
    predicted = time.perf_counter() - clock
    held = np.setdiff1d(np.arange(len(features)), train)
    return {
        "train_seconds": trained,
        "train_cpu_seconds": busy,
        "train_arcs": arcs,
        "train_arcs_per_second": arcs / trained,
        "csr_seconds": listed,
        "predict_seconds": predicted,
        "predict_arcs_per_second": LAYERS * len(graph.source) / predicted,
        "peak_mb": peak_mb(),
        "peak_over_start_mb": peak_mb() - before,
        "peak_anonymous_mb": most,
        "estimated_step_mb": said.step / 2**20,
        "last_loss": float(np.mean(losses[-20:])),
        "held_out_accuracy": float((out[held].argmax(1) == label[held]).mean()),
    }


def full_batch(folder: Path) -> dict[str, Any]:
    """Steps of the same network on the whole graph at once."""
    import torch
    import torch.nn.functional as F

    from domains.graph.budget import budget
    from shared_backbones.layout import Layout

    features, edges, label, train = load(folder)
    stem, backbone, head = network(features.shape[1])
    said = budget(len(features), edges.shape[1], features.shape[1], backbone)
    before = resident_mb()
    x, y, rows = torch.tensor(features), torch.from_numpy(label), torch.from_numpy(train)
    layout = Layout((len(x),), ordered=False, edges=torch.from_numpy(edges))
    optimizer = torch.optim.Adam([p for m in (stem, backbone, head) for p in m.parameters()], lr=3e-3)
    seconds = []
    for _ in range(STEPS):
        clock = time.process_time()
        tokens, _ = backbone(stem(x)[None], layout)
        loss = F.cross_entropy(head(tokens[0])[rows], y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - clock)
    return {
        "step_seconds": min(seconds),
        "train_arcs_per_second": LAYERS * edges.shape[1] / min(seconds),
        "peak_mb": peak_mb(),
        "peak_over_start_mb": peak_mb() - before,
        "estimated_step_mb": said.step / 2**20,
        "loss_after_steps": float(loss),
    }


PEER = """
import json, resource, sys, time
import numpy as np, torch, torch.nn.functional as F
from torch_geometric.nn import SAGEConv
torch.set_num_threads(1)
folder, dim, classes, layers, steps = sys.argv[1], *map(int, sys.argv[2:])
x = torch.tensor(np.load(folder + "/features.npy", mmap_mode="r"))
edges, y = torch.from_numpy(np.load(folder + "/edges.npy")), torch.from_numpy(np.load(folder + "/label.npy"))
rows = torch.from_numpy(np.flatnonzero(np.random.default_rng(1).random(len(x)) < 0.9))
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = torch.nn.ModuleList(SAGEConv(x.shape[1] if i == 0 else dim, dim) for i in range(layers))
        self.head = torch.nn.Linear(dim, classes)
    def forward(self, x):
        for conv in self.convs:
            x = F.relu(conv(x, edges))
        return self.head(x)
net = Net(); optimizer = torch.optim.Adam(net.parameters(), lr=3e-3); seconds = []
for _ in range(steps):
    clock = time.process_time()
    loss = F.cross_entropy(net(x)[rows], y[rows]); optimizer.zero_grad(); loss.backward(); optimizer.step()
    seconds.append(time.process_time() - clock)
print(json.dumps({"step_seconds": min(seconds), "train_arcs_per_second": layers * edges.shape[1] / min(seconds),
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "loss_after_steps": float(loss)}))
"""


def step_cost(mixer: str, nodes: int, backward: bool) -> dict[str, Any]:
    """CPU seconds and memory of one pass of one mixer over a graph of mean degree 10."""
    import torch

    from shared_backbones.layout import Layout
    from shared_backbones.mixers import build_mixer

    torch.manual_seed(0)
    block = build_mixer(mixer, DIM, rank=1, ordered=False, provides=frozenset({"edges"}))
    edges = torch.randint(0, nodes, (2, 10 * nodes))
    x = torch.randn(1, nodes, DIM, requires_grad=backward)
    small = Layout((64,), ordered=False, edges=torch.randint(0, 64, (2, 640)))
    block(torch.randn(1, 64, DIM), small).sum().backward()  # what is loaded once is not the step's
    before, clock = peak_mb(), time.process_time()
    with torch.set_grad_enabled(backward):
        y = block(x, Layout((nodes,), ordered=False, edges=edges))
        if backward:
            y.sum().backward()
    return {"seconds": time.process_time() - clock, "peak_mb": max(0.0, peak_mb() - before)}


def apart(*command: str, python: str = sys.executable) -> dict[str, Any]:
    """The JSON that a process of its own ends with; "failed" with its reason where it does not."""
    run = subprocess.run([python, *command], capture_output=True, text=True, check=False)
    if run.returncode:
        why = run.stderr.strip().splitlines()[-1:] or [f"ended with {run.returncode} (killed for memory?)"]
        return {"failed": why[0]}
    said = [line for line in run.stderr.splitlines() if line.startswith("memory:")]
    return {**({"said": said[0]} if said else {}), **json.loads(run.stdout.strip().splitlines()[-1])}


def large(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All contestants on one generated graph."""
    rows = []
    with TemporaryDirectory(dir=options.folder) as aside:
        folder = Path(aside)
        generate(folder, options.nodes, options.arcs, options.features)
        size = (folder / "features.npy").stat().st_size / 2**20
        print(f"{options.nodes} nodes, {options.arcs} arcs, {options.features} features ({size:.0f} MB on disk)")
        runs = {"sampled, then layer by layer": (sys.executable, ["-m", HERE, "one", "sampled", aside])}
        if not options.only_sampled:
            runs["whole graph in one batch"] = (sys.executable, ["-m", HERE, "one", "full", aside])
        if options.peer:
            runs["PyG, whole graph in one batch"] = (
                options.peer, ["-c", PEER, aside, str(DIM), str(CLASSES), str(LAYERS), str(STEPS)],
            )  # fmt: skip
        for name, (python, command) in runs.items():
            rows.append({"what": name, **apart(*command, python=python)})
            facts = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()]
            print("; ".join(facts), flush=True)
    return rows


def cost(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A table of seconds and memory against N, and the exponent of each step from one N to the next."""
    import math

    rows: list[dict[str, Any]] = []
    for mixer in options.mixers:
        for nodes in options.nodes:
            got = apart("-m", HERE, "one", "step", mixer, str(nodes), "" if options.forward else "backward")
            row = {"mixer": mixer, "nodes": nodes, **got}
            last = rows[-1] if rows and rows[-1]["mixer"] == mixer else None
            for name in ("seconds", "peak_mb"):
                if last and name in row and name in last and min(row[name], last[name]) > 0:
                    growth = math.log(row[name] / last[name]) / math.log(nodes / last["nodes"])
                    row[f"{name}_exponent"] = round(growth, 2)
            rows.append(row)
            facts = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()]
            print("; ".join(facts), flush=True)
    return rows


def one(words: list[str]) -> dict[str, Any]:
    """One contestant, in this process."""
    import torch

    torch.set_num_threads(1)
    if words[0] == "step":
        return step_cost(words[1], int(words[2]), "backward" in words)
    folder = Path(words[1])
    return sampled(folder, (10, 5), 1024) if words[0] == "sampled" else full_batch(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    big = commands.add_parser("large")
    big.add_argument("--nodes", type=int, default=1_000_000)
    big.add_argument("--arcs", type=int, default=10_000_000)
    big.add_argument("--features", type=int, default=100)
    big.add_argument("--peer", help="a Python with torch-geometric")
    big.add_argument("--folder", help="where the generated files go for a while")
    big.add_argument("--only-sampled", action="store_true")
    table = commands.add_parser("cost")
    table.add_argument("--nodes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    table.add_argument("--mixers", nargs="+", default=["message", "linear", "virtual_node", "codebook", "attention"])
    table.add_argument("--forward", action="store_true", help="without gradients")
    single = commands.add_parser("one")
    single.add_argument("words", nargs="+")
    for command in (big, table):
        command.add_argument("--json", action="store_true")
    options = parser.parse_args(sys.argv[1:] or ["cost"])
    if options.command == "one":
        print(json.dumps(one(options.words)))
        return
    rows = large(options) if options.command == "large" else cost(options)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
