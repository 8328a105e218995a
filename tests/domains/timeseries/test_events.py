"""Sequences of events: reading, words that training did not have, whole entities, and both kinds of example."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from domains.checks import _Folder, check_law, subject
from domains.timeseries.events import EventClasses
from domains.timeseries.sequences.baselines import bags
from domains.timeseries.sequences.config import EventOptions
from domains.timeseries.sequences.data import from_frame
from domains.timeseries.sequences.items import EventItems, coded
from shared_backbones.errors import BadInput
from shared_backbones.presets import load_preset

SMALL: dict[str, Any] = {"simulated": {"people": 40, "events": 8}}


def task(**options: Any) -> EventClasses:
    return EventClasses(EventOptions(**{**SMALL, **options}))


def flows(hosts: int = 20, each: int = 12, seed: int = 0) -> pd.DataFrame:
    """Records of hosts: a scan is a fast run of small packets to ports that change."""
    random = np.random.default_rng(seed)
    rows = []
    for h in range(hosts):
        t = 0.0
        for i in range(each):
            bad = h % 2 == 0 and i > each // 2
            t += random.exponential(0.1 if bad else 5.0)
            protocol = str(random.choice(["tcp", "udp"]))
            rows.append((f"h{h}", t, protocol, random.lognormal(3 if bad else 6), "scan" if bad else "benign"))
    return pd.DataFrame(rows, columns=["host", "start", "protocol", "bytes", "label"])


def test_rows_are_put_in_order_and_examples_are_the_newest_events() -> None:
    frame = flows(4, 6)
    options = EventOptions(unit="record", window=3)
    data = from_frame(frame.sample(frac=1, random_state=0), "a.csv", options)
    again = from_frame(frame, "a.csv", options)
    assert data.manifest.sha256 == again.manifest.sha256
    assert (np.diff(data.time)[np.diff(data.entity) == 0] >= 0).all()
    spans = data.examples[:, 1] - data.examples[:, 0] + 1
    assert spans[:6].tolist() == [1, 2, 3, 3, 3, 3]
    assert data.categories == ("protocol",)
    assert data.number_names == ("bytes",)
    whole = from_frame(frame.assign(label="x"), "a.csv", EventOptions(window=4))
    assert len(whole) == 4
    assert (whole.examples[:, 1] - whole.examples[:, 0] == 3).all()


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (lambda f: f.drop(columns="start"), {}, "no column for time"),
        (lambda f: f, {}, "several classes.*unit=record"),
        (lambda f: f, {"categories": ("prot",), "unit": "record"}, "no column 'prot'"),
        (lambda f: f.assign(start=f.start.where(f.index != 2)), {"unit": "record"}, "row 4: no time"),
        (
            lambda f: f.assign(bytes=f.bytes.where(f.index != 2, np.inf)),
            {"unit": "record"},
            "row 4, column 'bytes': inf",
        ),
        (lambda f: f[["host", "start", "label"]], {"unit": "record"}, "what happened"),
        (lambda f: f.drop(columns="label"), {"unit": "record"}, "have no class"),
    ],
)
def test_bad_tables_say_where(tmp_path: Path, change: Any, options: dict[str, Any], says: str) -> None:
    change(flows()).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(BadInput, match=says):
        task(**options).open(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("law", ["split", "poison", "build", "loss", "predict"])
def test_records_of_a_stream_keep_the_laws(tmp_path: Path, law: str) -> None:
    flows().to_csv(tmp_path / "a.csv", index=False)
    options = EventOptions(unit="record", window=5)
    of = subject(EventClasses, options, source=str(tmp_path / "a.csv"), preset=load_preset("flow_transformer"))
    assert check_law(law, of)


def test_entities_stay_whole_and_time_splits_in_order(tmp_path: Path) -> None:
    flows().to_csv(tmp_path / "a.csv", index=False)
    t = task(unit="record")
    data = t.open(str(tmp_path / "a.csv"))
    split = t.split(data)
    sides = [set(data.entity[data.examples[split.parts[p], 1]].tolist()) for p in ("train", "val", "test")]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert t.audit(data, split)[0].passed
    late = task(unit="record", split={"protocol": "time"})
    parts = late.split(data).parts
    ends = data.time[data.examples[:, 1]]
    assert ends[parts["train"]].max() <= ends[parts["val"]].min()
    assert ends[parts["val"]].max() <= ends[parts["test"]].min()


def test_words_without_training_are_unknown_and_counted(tmp_path: Path) -> None:
    t = task()
    data = t.open("simulated")
    split = t.split(data)
    fitted = t.fit(data, split)
    assert all("work:lost" in v or "north" in v for v in fitted["vocabulary"])
    model = t.build(fitted, load_preset("event_mixer"))
    frame = pd.DataFrame({"entity": "z", "time": ["2020-01-01", "2020-02-01"], "event": ["work:lost", "moon:landing"],
                          "place": "north", "income": [90.0, np.nan]})  # fmt: skip
    frame.to_csv(tmp_path / "new.csv", index=False)
    facts = t.predict(model, fitted, str(tmp_path / "new.csv"), _Folder(tmp_path))
    assert facts["unknown_words"] == 1
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [r["entity"] for r in rows] == ["z"]
    assert rows[0]["prediction"] in ("well", "at risk")
    frame.drop(columns="place").to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(BadInput, match="trained on"):
        t.predict(model, fitted, str(tmp_path / "new.csv"), _Folder(tmp_path))


@pytest.mark.parametrize("preset", ["event_mixer", "life2vec", "flow_transformer"])
def test_a_ragged_batch_equals_each_example_alone(preset: str) -> None:
    t = task()
    data = t.open("simulated")
    fitted = t.fit(data, t.split(data))
    model = t.build(fitted, load_preset(preset)).eval()
    items = EventItems(data, np.arange(4), coded(data, fitted))
    with torch.no_grad():
        together = model(items.batch(range(4)))
        alone = torch.cat([model(items.batch([i])) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_bags_count_what_is_there() -> None:
    t = task()
    data = t.open("simulated")
    fitted = t.fit(data, t.split(data))
    codes = coded(data, fitted)
    found = bags(data, codes, fitted, np.array([3]))[0]
    first, last = data.examples[3]
    assert found[: 2 + len(fitted["vocabulary"][0])].sum() == last - first + 1
    assert found[-2] == last - first + 1


def test_records_are_told_from_those_before(tmp_path: Path) -> None:
    flows(30, 10).to_csv(tmp_path / "a.csv", index=False)
    t = task(unit="record", window=6)
    data = t.open(str(tmp_path / "a.csv"))
    split = t.split(data)
    fitted = t.fit(data, split)
    torch.manual_seed(0)
    model = t.build(fitted, load_preset("flow_transformer")).train()
    items = t.items(data, split, fitted, "train")
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(8):
        for rows in torch.randperm(len(items)).split(32):
            optimiser.zero_grad()
            t.loss(model, items.batch(rows.tolist()))[0].backward()
            optimiser.step()
    t.calibrate(model, data, split, fitted)
    assert t.metrics(t.evidence(model, data, split, fitted, "test"))["auroc"] > 0.9
