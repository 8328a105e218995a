"""Sparse-GIN tuning: it starts from the very function that was trained, and only what was added learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from domains.graph.graphs import Graphs
from domains.graph.tuning import SparseGin
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import load_preset

SIMULATED = {"graphs": 30}


def finished(folder: Path, preset: str = "graph_gps") -> tuple[Any, Any, Any, torch.nn.Module]:
    """(data, split, fitted, model) of a run whose weights lie in a folder."""
    task = Graphs(Graphs.Config(simulated=SIMULATED))
    data = task.open("simulated")
    split = task.split(data)
    fitted = task.fit(data, split)
    torch.manual_seed(0)
    model = task.build(fitted, load_preset(preset))
    save_file({n: v.contiguous() for n, v in model.state_dict().items()}, folder / "model.safetensors")
    return data, split, fitted, model.eval()


def test_it_starts_where_the_run_ended_and_leaves_that_as_it_was(tmp_path: Path) -> None:
    data, split, fitted, base = finished(tmp_path)
    task = Graphs(Graphs.Config(simulated=SIMULATED, tune_from=str(tmp_path)))
    torch.manual_seed(1)
    model = task.build(fitted, load_preset("graph_gps"))
    task.initialise(model, data, split)
    batch = task.items(data, split, fitted, "train").batch(range(8))
    assert torch.equal(model.eval()(batch), base(batch))
    learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {n.rpartition(".")[2] for n in learned if ".mlp." not in n} == {"scale", "own", "threshold"}
    assert sum(p.numel() for p in learned.values()) < 0.1 * sum(p.numel() for p in model.parameters())
    before = {n: v.clone() for n, v in model.state_dict().items()}
    optimizer = torch.optim.Adam(learned.values(), lr=0.02)
    model.train()
    losses = []
    for _ in range(15):
        loss, _ = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])} == set(learned)
    assert not torch.equal(model.eval()(batch), base(batch))


def test_the_graph_is_sparse_and_within_the_own_graph(tmp_path: Path) -> None:
    data, split, fitted, _ = finished(tmp_path)
    task = Graphs(Graphs.Config(simulated=SIMULATED, tune_from=str(tmp_path)))
    model = task.build(fitted, load_preset("graph_gps")).eval()
    task.initialise(model, data, split)
    part = next(m for m in model.modules() if isinstance(m, SparseGin))
    batch = task.items(data, split, fitted, "train").batch(range(8))
    x, layout = model.stem(batch)
    a = part.adjacency(x, layout)
    real = batch["mask"]
    assert not a.masked_fill(real[:, None], 0).any()
    assert 0 < float((a[real] > 0).float().mean()) < 0.7
    part.threshold.data.fill_(1.3)
    assert (part.adjacency(x, layout) > 0).sum() < (a > 0).sum()


def test_what_cannot_be_tuned_is_refused(tmp_path: Path) -> None:
    data, split, fitted, _ = finished(tmp_path)
    tuned = Graphs(Graphs.Config(simulated=SIMULATED, tune_from=str(tmp_path)))
    with pytest.raises(BadRequest, match="the preset has none"):
        tuned.build(fitted, load_preset("graph_isomorphism"))
    other = tuned.build(fitted, load_preset("graph_hierarchy"))
    with pytest.raises(BadInput, match="weights of another preset or of other data"):
        tuned.initialise(other, data, split)
    lost = Graphs(Graphs.Config(simulated=SIMULATED, tune_from=str(tmp_path / "nowhere")))
    with pytest.raises(BadInput, match="tune_from is the folder of a finished run"):
        lost.initialise(lost.build(fitted, load_preset("graph_gps")), data, split)
