"""Audio models as functions of samples: what is traced says what the model says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from domains.audio.classify import Classify
from domains.audio.config import ClassifyOptions
from domains.audio.recognise import Recognise
from domains.audio.recognise_config import RecogniseOptions
from domains.audio.regress import Regress
from domains.audio.regress_config import RegressOptions
from domains.audio.separate import Separate
from domains.audio.separate_config import SeparateOptions
from shared_backbones.presets import adjust, load_preset

from .conftest import SMALL

SPOKEN = {"speakers": 3, "strings": 4}
TASKS = {
    "classify": (Classify, ClassifyOptions(simulated=SMALL), {}),
    "regress": (Regress, RegressOptions(simulated=SMALL), {}),
    "recognise": (Recognise, RecogniseOptions(simulated=SPOKEN), {}),
    "separate": (Separate, SeparateOptions.model_validate({"simulated": SMALL}), {"start": "fixed"}),
}


@pytest.mark.parametrize("name", TASKS)
def test_what_is_traced_says_what_the_model_says(name: str) -> None:
    kind, options, changes = TASKS[name]
    task: Any = kind(options)  # type: ignore[call-arg]
    data = task.open("simulated")
    split = task.split(data)
    fitted = json.loads(json.dumps(task.fit(data, split)))
    torch.manual_seed(0)
    model = task.build(fitted, adjust(load_preset(task.default_preset), **changes)).eval()
    task.initialise(model, data, split)
    found = task.portable(model, fitted)
    with torch.no_grad():  # at the example's size alone: the type checks of these tests know no symbolic numbers
        traced = torch.export.export(found.module, found.example).module()
    torch.testing.assert_close(traced(*found.example), found.module(*found.example), atol=1e-5, rtol=1e-5)
    wave, length = found.example
    plain = model(wave, length)
    if name == "classify":
        plain = (plain / model.temperature).softmax(1)
    elif name == "regress":
        plain = plain * torch.tensor(fitted["scale"]) + torch.tensor(fitted["centre"])
    with torch.no_grad():
        torch.testing.assert_close(found.module(wave, length), plain)
    assert json.dumps(found.about)
    assert len(found.outputs) == (2 if name == "recognise" else 1)
