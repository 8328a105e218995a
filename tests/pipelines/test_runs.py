"""Runs: named by what decides them, kept without anything that executes, refused when they do not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from domains.task import Manifest
from pipelines import runs
from pipelines.config import RunConfig, build_preset, build_task, resolve
from pipelines.runs import code_version, load_run, preset_from_dict, preset_to_dict, run_key, save_model
from shared_backbones.errors import BadInput
from shared_backbones.presets import load_preset, preset_names

HERE = Path(__file__).parent
MANIFEST = Manifest("simulated", "0" * 64)


@pytest.fixture(autouse=True)
def _toy(toy_task: str) -> None:
    """Every test here uses the toy task."""


def request_(*sets: str, **more: Any) -> RunConfig:
    return resolve("toy/line", sets=sets, **more)


def key(*sets: str, manifest: Manifest = MANIFEST, **more: Any) -> str:
    return run_key(request_(*sets, **more), manifest)


def test_the_key_follows_what_decides_the_result() -> None:
    base = key()
    assert len(base) == 12
    assert int(base, 16) >= 0
    others = [
        key("train.lr=0.5"),
        key("rows=50"),
        key("model.dim=4"),
        key(seed=1),
        key(manifest=replace(MANIFEST, sha256="1" * 64)),
    ]
    assert len({base, *others}) == 6


def test_the_key_ignores_what_does_not(tmp_path: Path) -> None:
    base = key()
    copy = tmp_path / "copy.yaml"
    copy.write_text("# other words\n" + (HERE / "toy.yaml").read_text())
    assert key(preset=str(copy)) == base
    assert key(data="elsewhere", manifest=replace(MANIFEST, source="elsewhere", licence="other")) == base
    assert key("train.ablation=true") == base
    assert key("train.lr=0.003") == base  # said aloud what was the default


def test_the_key_follows_the_sentence_and_not_its_name(tmp_path: Path) -> None:
    other = tmp_path / "toy.yaml"
    other.write_text((HERE / "toy.yaml").read_text().replace("dim: 8", "dim: 12"))
    assert key(preset=str(other)) != key()


def test_the_code_version_follows_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = code_version("toy/line")
    code_version.cache_clear()
    assert code_version("toy/line") == before
    copy = tmp_path / "shared_backbones"
    copy.mkdir()
    (copy / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(runs.shared_backbones, "__path__", [str(copy)])
    code_version.cache_clear()
    one = code_version("toy/line")
    (copy / "a.py").write_text("x = 2\n")
    code_version.cache_clear()
    assert len({before, one, code_version("toy/line")}) == 3
    code_version.cache_clear()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_survives_as_plain_data(name: str) -> None:
    preset = load_preset(name)
    plain = json.loads(json.dumps(preset_to_dict(preset)))
    assert preset_to_dict(preset_from_dict(plain)) == plain
    assert preset_from_dict(plain).backbone.stages == preset_from_dict(preset_to_dict(preset)).backbone.stages


def saved(folder: Path, **more: Any) -> Mapping[str, Any]:
    config = request_()
    model = build_task(config).build({"mean": 0.5}, build_preset(config))
    torch.nn.init.constant_(model.skip.weight, 3.0)
    return save_model(folder, config, build_preset(config), {"mean": 0.5}, model, **more)


def test_a_model_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    saved(tmp_path, train_seconds=2.0)
    before = torch.get_rng_state()
    trained = load_run(tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert trained.config == request_()
    assert preset_to_dict(trained.preset) == preset_to_dict(build_preset(request_()))
    assert (trained.fitted, trained.meta["train_seconds"]) == ({"mean": 0.5}, 2.0)
    assert trained.model.skip.weight.eq(3.0).all()
    assert not trained.model.training


def test_a_model_needs_no_preset_file_any_more(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text((HERE / "toy.yaml").read_text())
    config = request_(preset=str(preset))
    model = build_task(config).build({"mean": 0.5}, build_preset(config))
    save_model(tmp_path, config, build_preset(config), {"mean": 0.5}, model)
    preset.unlink()
    assert load_run(tmp_path).preset.stem == "scalar"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run at"):
        load_run(tmp_path / "none")
    with pytest.raises(BadInput, match=r"not a finished run: it holds no model\.json"):
        load_run(tmp_path)
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"it holds no model\.safetensors"):
        load_run(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read"):
        load_run(tmp_path)


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BadInput, match="has changed since training"):
        load_run(tmp_path)


def rewritten(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def test_another_format_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    rewritten(tmp_path, format=99)
    with pytest.raises(BadInput, match=r"has format 99 .* reads format 1: train again"):
        load_run(tmp_path)


def test_weights_that_do_not_fit_the_code_are_refused(tmp_path: Path) -> None:
    meta = saved(tmp_path)
    preset = json.loads(json.dumps(meta["preset"]))
    preset["backbone"]["stages"][0]["dim"] = 12
    rewritten(tmp_path, preset=preset)
    with pytest.raises(BadInput, match="does not fit the model that this code builds"):
        load_run(tmp_path)


def test_statistics_that_json_cannot_hold_are_an_error(tmp_path: Path) -> None:
    config = request_()
    model = build_task(config).build({"mean": 0.5}, build_preset(config))
    with pytest.raises(ValueError, match="JSON"):
        save_model(tmp_path, config, build_preset(config), {"mean": float("nan")}, model)
