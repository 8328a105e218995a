"""States of nodes at interactions: their history against a loop, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from domains.checks import _Folder
from domains.graph.data.events import simulated
from domains.graph.state import State, state_history
from domains.graph.temporal_items import Stream
from shared_backbones.errors import BadInput
from shared_backbones.presets import load_preset

SMALL = {"history": 64, "patches": 4}


def test_the_history_of_a_source_is_what_a_loop_finds() -> None:
    task, data = State(State.Config(**SMALL)), simulated(400)
    data.label[::7] = np.nan
    stream = Stream(data, task.fit(data, task.split(data)), 280)
    at = np.arange(0, 400, 13)
    got = state_history(stream, data.source[at], data.time[at])
    for i, row in zip(at, got, strict=True):
        own = np.flatnonzero((data.time < data.time[i]) & (data.source == data.source[i]))
        states = data.label[own][np.isfinite(data.label[own])]
        newest = np.nan_to_num(data.label[own[-1]]) if len(own) else 0.0
        fresh = 1 / (1 + (data.time[i] - data.time[own[-1]]) / stream.options.scale) if len(own) else 0.0
        want = [newest, states.mean() if len(states) else 0.0, float(len(states) > 0), np.log1p(len(own)), fresh]
        assert np.allclose(row, want)


def test_states_are_predicted_for_every_source_of_the_newest_past(tmp_path: Path) -> None:
    task = State(State.Config(**SMALL))
    data = task.open("simulated")
    fitted = task.fit(data, task.split(data))
    model = task.build(fitted, load_preset("todyformer")).eval()
    facts = task.predict(model, fitted, "simulated", _Folder(tmp_path))
    table = pd.read_csv(tmp_path / "states.csv")
    assert facts["nodes"] == len(table) == len(set(data.source[-64:].tolist()))
    assert table["probability"].between(0, 1).all()


@pytest.mark.parametrize(("label", "says"), [("2", "holds 2; a state is 0 or 1"), ("1", "has a source in state 0")])
def test_bad_states_are_refused(tmp_path: Path, label: str, says: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("source,target,time,label\n" + "".join(f"a,b,{i},{label}\n" for i in range(40)))
    task = State(State.Config(**SMALL))

    def split() -> None:
        task.split(task.open(str(path)))

    with pytest.raises(BadInput, match=says):
        split()
