"""Presets: YAML sentences, with errors that name the nearest word."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_backbones.errors import BadRequest
from shared_backbones.presets import adjust, load_preset, parse_preset, preset_names

TEXT = """\
# Paper: A test
# Command: none
paper: A test, Nobody, 2026
stem: patches
layer_scale: 0.1
drop_path: 0.2
stages:
  - dim: 16
    placement: peri
    norm: rms
    layers:
      - {mixer: pooling, times: 2, window: 5, channel: glu, channel_options: {ratio: 2.0}}
      - {mixer: attention, heads: 2}
model: {skip: none}
train: {lr: 1.0e-3}
"""


def test_a_sentence_is_read_as_written() -> None:
    preset = parse_preset("test", TEXT)
    (stage,) = preset.backbone.stages
    assert [(x.mixer, dict(x.mixer_options), x.channel) for x in stage.layers] == [
        ("pooling", {"window": 5}, "glu"),
        ("pooling", {"window": 5}, "glu"),
        ("attention", {"heads": 2}, "mlp"),
    ]
    assert (stage.dim, stage.placement, stage.norm, stage.stride) == (16, "peri", "rms", 1)
    assert (preset.backbone.layer_scale, preset.backbone.drop_path) == (0.1, 0.2)
    assert preset.notes == "Paper: A test\nCommand: none"
    assert dict(preset.train) == {"lr": 1e-3}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("layer_scale: 0.1", "layer_scal: 0.1", "did you mean 'layer_scale'"),
        ("placement: peri", "placment: peri", "did you mean 'placement'"),
        ("- {mixer: attention, heads: 2}", "- {heads: 2}", "names its mixer"),
    ],
)
def test_mistakes_are_named(old: str, new: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        parse_preset("test", TEXT.replace(old, new))


def test_changes_are_laid_over() -> None:
    preset = parse_preset("test", TEXT)
    changed = adjust(
        preset,
        dim=32,
        depth=5,
        drop_path=0.0,
        layer_scale=None,
        placement="pre",
        norm="layer",
        channel="mlp",
        skip="linear",
    )
    (stage,) = changed.backbone.stages
    assert (stage.dim, len(stage.layers), stage.placement, stage.norm) == (32, 5, "pre", "layer")
    assert [x.mixer for x in stage.layers] == ["pooling", "pooling", "attention", "pooling", "pooling"]
    assert {x.channel for x in stage.layers} == {"mlp"}
    assert changed.model["skip"] == "linear"
    assert preset.model["skip"] == "none"  # the original stays


@pytest.mark.parametrize("mixer", ["identity", "pooling", "depthwise", "attention"])
def test_ladder_by_one_word(mixer: str) -> None:
    changed = adjust(parse_preset("test", TEXT), mixer=mixer)
    assert {(x.mixer, len(x.mixer_options)) for s in changed.backbone.stages for x in s.layers} == {(mixer, 0)}


def test_impossible_changes_are_refused() -> None:
    preset = parse_preset("test", TEXT)
    with pytest.raises(BadRequest, match="at least 1"):
        adjust(preset, depth=0)
    two = parse_preset("two", TEXT.replace("model:", "  - {dim: 32, stride: 2, layers: [{mixer: pooling}]}\nmodel:"))
    with pytest.raises(BadRequest, match="one stage"):
        adjust(two, dim=8)


def test_shipped_presets_load_and_name_their_paper() -> None:
    for name in preset_names():
        preset = load_preset(name)
        assert preset.paper
        assert preset.backbone.stages


def test_unknown_and_missing_presets(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="unknown preset"):
        load_preset("no_such_preset")
    with pytest.raises(BadRequest, match="no preset file"):
        load_preset(str(tmp_path / "none.yaml"))
    (tmp_path / "mine.yaml").write_text(TEXT)
    assert load_preset(str(tmp_path / "mine.yaml")).name == "mine"
