"""Interactions in time: nothing from the future, negatives of both kinds, patches, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.checks import _Folder
from domains.graph.data.events import Columns, Events, assemble, read_events, simulated
from domains.graph.edgebank import Past, historical_negatives, partners_now, random_negatives
from domains.graph.patches import PatchOptions, joined, past_block
from domains.graph.temporal import Temporal, split_in_time
from domains.graph.temporal_items import Stream
from shared_backbones.backbone import with_mixer
from shared_backbones.errors import BadInput
from shared_backbones.layout import Layout
from shared_backbones.presets import load_preset

SMALL = {"history": 64, "patches": 4, "negatives": 4, "train_negatives": 2, "block": 16}


def made(seed: int, count: int = 60, nodes: int = 8) -> Events:
    """Interactions among few nodes, with equal stamps."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "source": random.integers(0, nodes, count), "target": random.integers(0, nodes, count),
        "time": np.sort(random.integers(0, count // 2, count)), "x": random.normal(size=count),
    })  # fmt: skip
    return assemble("made", frame, Columns())


@given(st.integers(0, 500))
@settings(max_examples=15)
def test_the_past_is_what_a_loop_over_it_finds(seed: int) -> None:
    data, random = made(seed), np.random.default_rng(seed)
    past, scale = Past(data), 3.0
    source, time = random.integers(0, data.nodes, 6), random.integers(0, 35, 6).astype(np.float64)
    candidates = random.integers(0, data.nodes, (6, 3))
    got, bank = past.inputs(source, candidates, time, scale), past.edge_bank(source, candidates, time, 5.0)
    fresh = lambda when, t: 1 / (1 + (t - when[-1]) / scale) if len(when) else 0.0  # noqa: E731
    for i, (s, t) in enumerate(zip(source, time, strict=True)):
        earlier = data.time < t
        own = np.flatnonzero(earlier & (data.source == s))
        for k, v in enumerate(candidates[i]):
            pair = data.time[earlier & (data.source == s) & (data.target == v)]
            other = data.time[earlier & (data.target == v)]
            want = [
                float(len(pair) > 0), np.log1p(len(pair)), fresh(pair, t), len(pair) / (len(own) + 1),
                np.log1p(len(other)), fresh(other, t), fresh(data.time[own], t),
                float(len(own) > 0 and data.target[own[-1]] == v),
            ]  # fmt: skip
            assert np.allclose(got[i, k], want)
            assert bank[i, k] == float(len(pair) > 0 and pair[-1] >= t - 5.0)


@given(st.integers(0, 500))
@settings(max_examples=15)
def test_negatives_are_not_met_then_and_historical_ones_were_met_in_training(seed: int) -> None:
    data, random = made(seed), np.random.default_rng(seed)
    at, until = np.arange(30, 60), 30
    met = {(float(t), int(s), int(v)) for t, s, v in zip(data.time, data.source, data.target, strict=True)}
    trained = {(int(s), int(v)) for s, v in zip(data.source[:until], data.target[:until], strict=True)}
    pool = np.unique(data.target[:until])
    for kind in ("random", "historical"):
        if kind == "random":
            found, there = random_negatives(data, at, pool, 4, random)
        else:
            found, there = historical_negatives(data, at, until, 4, random)
        for i, row, real in zip(at, found, there, strict=True):
            s, t = int(data.source[i]), float(data.time[i])
            assert all((t, s, int(v)) not in met for v in row[real])
            if kind == "historical":
                assert all((s, int(v)) in trained for v in row[real])
                assert len(set(row[real].tolist())) == real.sum()
                possible = [v for a, v in trained if a == s and (t, s, v) not in met]
                assert real.sum() == min(4, len(possible))
            else:
                assert set(row.tolist()) <= set(pool.tolist())
    assert partners_now(data, at, data.target[at][:, None]).all()


def test_patches_hold_equal_numbers_of_interactions_strictly_before() -> None:
    data = made(3, count=200)
    options = PatchOptions(history=40, patches=4, scale=1.0)
    instant = float(data.time[150])
    block = past_block(data, instant, options, data.features)
    end = int((data.time < instant).sum())
    seen = slice(end - 40, end)
    assert block.arcs.shape == (2, 80)
    assert (block.attr[:, 0] > 0).all()  # an age of 0 would be the instant itself
    patch = block.arcs[0] % 4
    assert np.array_equal(patch, block.arcs[1] % 4)  # no arc leaves its patch
    assert np.bincount(patch[:40]).tolist() == [10, 10, 10, 10]
    assert (np.diff(patch[:40]) >= 0).all()
    assert block.nodes[block.arcs[0, :40] // 4].tolist() == data.source[seen].tolist()
    assert block.nodes[block.arcs[1, :40] // 4].tolist() == data.target[seen].tolist()
    for i, node in enumerate(block.nodes):
        for p in range(4):
            there = slice(end - 40 + 10 * p, end - 30 + 10 * p)
            assert block.present[i, p] == ((data.source[there] == node) | (data.target[there] == node)).any()
    later = data.poisoned(int(np.searchsorted(data.time, instant)))
    again = past_block(later, instant, options, later.features)
    assert np.array_equal(again.attr, block.attr)
    assert np.array_equal(again.arcs, block.arcs)


def test_attention_across_patches_reaches_what_messages_inside_one_cannot() -> None:
    """Todyformer's claim: messages see one patch, attention along a node's patches carries the oldest to the newest."""
    data = made(1, count=80)
    task = Temporal(Temporal.Config(**SMALL))
    split = task.split(data)
    fitted = task.fit(data, split)
    instant = float(data.time[-1])
    preset = load_preset("todyformer")
    local = replace(preset, backbone=with_mixer(preset.backbone, "message", edge_features=8))
    changes = {}
    for name, chosen in (("todyformer", preset), ("local", local)):
        torch.manual_seed(0)
        net = task.build(fitted, chosen).past.eval()
        tokens = []
        for shift in (0.0, 1.0):
            block = past_block(data, instant, PatchOptions(64, 4, 3.0), data.features)
            first = block.arcs[0] % 4 == 0
            block.attr[first] += shift  # the oldest patch only
            batch = joined([block], [np.zeros((0, 2), np.int64)])
            with torch.no_grad():
                x = (net.embed(batch["inputs"]) + net.place).flatten(1, 2)
                layout = Layout(
                    (len(block.nodes), 4), mask=batch["present"], edges=batch["edges"],
                    edge_attr=net.edge(batch["edge_attr"]),
                )  # fmt: skip
                tokens.append(net.backbone(layout.clean(x), layout)[0].reshape(len(block.nodes), 4, -1))
        both = torch.from_numpy(block.present[:, 0] & block.present[:, 3])
        assert both.any()
        changes[name] = (tokens[1] - tokens[0])[both].abs().amax(-1)
        assert (changes[name][:, 0] > 1e-4).all()  # where the change was made
    assert (changes["todyformer"][:, 3] > 1e-6).all()
    assert (changes["local"][:, 3] == 0).all()


def test_nothing_of_the_future_reaches_a_score() -> None:
    task = Temporal(Temporal.Config(**SMALL))
    data = simulated(400)
    split = task.split(data)
    fitted = task.fit(data, split)
    torch.manual_seed(0)
    model = task.build(fitted, load_preset("todyformer")).eval()
    first = int(split.parts["val"][0])
    asked = Stream(data, fitted, first).queries(np.arange(first, first + 16), 3, 2, np.random.default_rng(0))
    later = replace(data.poisoned(first + 16), target=data.poisoned(first + 16).target)
    scores = []
    for events in (data, later):
        with torch.no_grad():
            scores.append(model(Stream(events, fitted, first).batch([asked])))
    assert torch.equal(*scores)


def test_one_instant_is_in_one_part() -> None:
    data = made(5)
    split = split_in_time(data, (0.5, 0.25, 0.25))
    assert np.concatenate([split.parts[p] for p in ("train", "val", "test")]).tolist() == list(range(60))
    stamps = [set(data.time[split.parts[p]].tolist()) for p in ("train", "val", "test")]
    assert not (stamps[0] & stamps[1]) | (stamps[1] & stamps[2])


def test_edge_bank_and_both_kinds_are_reported_apart() -> None:
    task = Temporal(Temporal.Config(**SMALL))
    data = task.open("simulated")
    split = task.split(data)
    found = {n: task.metrics(e) for n, e in task.baselines(data, split, task.fit(data, split)).items()}
    bank = found["EdgeBank"]
    assert bank["auc_random"] > 0.55  # pairs come back
    assert bank["auc_historical"] < bank["auc_random"]  # and historical negatives were all seen
    assert bank["auc_historical"] < 0.5


def test_next_partners_of_a_file(tmp_path: Path) -> None:
    task = Temporal(Temporal.Config(**SMALL, top=3))
    data = simulated(300)
    split = task.split(data)
    fitted = task.fit(data, split)
    model = task.build(fitted, load_preset("todyformer")).eval()
    facts = task.predict(model, fitted, "simulated", _Folder(tmp_path))
    table = pd.read_csv(tmp_path / "partners.csv")
    assert facts["rows"] == len(table)
    assert table.groupby("source").size().max() == 3
    assert set(table["source"]) <= set(simulated().names)
    path = tmp_path / "other.csv"
    pd.DataFrame({"source": ["a"], "target": ["b"], "time": [1], "weight": [2]}).to_csv(path, index=False)
    with pytest.raises(BadInput, match="are not those of the training"):
        task.predict(model, fitted, str(path), _Folder(tmp_path))


def test_jodie_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "wiki.csv"
    path.write_text(
        "user_id,item_id,timestamp,state_label,comma_separated_list_of_features\n0,0,0.0,0,-0.1,2.5\n1,0,36.0,1,0,1\n"
    )
    data = read_events(path, Columns())
    assert data.names == ("s:0", "s:1", "t:0")
    assert data.source.tolist() == [0, 1]
    assert data.target.tolist() == [2, 2]
    assert data.label.tolist() == [0.0, 1.0]
    assert np.allclose(data.features, [[-0.1, 2.5], [0, 1]])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("source,target,time\na,b,2\nb,c,1\n", r"row 3: time stamp 1 comes after 2 \(1 of 2 rows step back\)"),
        ("source,target,time\na,b,soon\n", r"row 2: 'soon' is neither a number nor an ISO"),
        ("source,target,time\na,b,1\na,b,2\na,b,noon\n", r"row 4, column 'time': 'noon' is no finite number"),
        ("source,target,time\na,,1\n", r"row 2: the target is empty"),
        ("source,target,when\na,b,1\n", r"no time column 'time'; there are source, target, when"),
        ("source,target,time,x\na,b,1,red\n", r"row 2, column 'x': 'red' is no finite number"),
        ("source,target,time\n", r"holds no interaction"),
    ],
)
def test_bad_interactions_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=says):
        read_events(path, Columns())


def test_iso_stamps_become_seconds(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("source,target,time\na,b,2024-01-01T00:00:00\nb,a,2024-01-01T00:01:00\n")
    data: Any = read_events(path, Columns())
    assert np.diff(data.time).tolist() == [60.0]
    with pytest.raises(BadInput, match="2 interactions leave"):
        split_in_time(data, (0.7, 0.15, 0.15))
