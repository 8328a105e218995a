"""Every preset as a network of its own: it runs on each rank that it declares, learns, travels, and can be exported."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch

from shared_backbones.assemble import build_model, count, mixers_of, profile, trial
from shared_backbones.errors import BadRequest
from shared_backbones.heads import ClassHead, LastPool
from shared_backbones.layout import Layout
from shared_backbones.presets import load_preset, parse_preset, preset_names, shallow

SHARES = 4
CLAIMS = [name for name in preset_names() if load_preset(name).published]


@pytest.mark.parametrize("name", preset_names())
def test_preset_runs_learns_and_travels_on_every_rank_that_it_declares(name: str) -> None:
    preset = shallow(load_preset(name))
    for rank in preset.ranks:
        torch.manual_seed(rank)
        trial(preset, rank)


def test_a_trial_finds_a_parameter_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = shallow(load_preset("vit_s"))
    monkeypatch.setattr(ClassHead, "forward", lambda self, x, layout: self.scores(x.detach().mean(1)))
    with pytest.raises(AssertionError, match=r"no finite gradient at \['stem"):
        trial(preset, 2)


TRACE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from dataclasses import replace
from shared_backbones.assemble import exported_difference
from shared_backbones.presets import load_preset, shallow

found = {}
for name in sys.argv[1:]:
    preset = shallow(load_preset(name))
    spec = preset.backbone
    if not spec.decoder and name not in ("poolformer_s12", "cswin_t"):
        preset = replace(preset, backbone=replace(spec, stages=spec.stages[:1]))
    try:
        found[name] = exported_difference(preset)
    except Exception as error:
        found[name] = f"{type(error).__name__}: {str(error)[:300]}"
print(json.dumps(found))
"""


def _parts(name: str) -> frozenset[tuple[str, str]]:
    """What a preset is made of beside its mixers, each of which the laws trace by itself."""
    preset = load_preset(name)
    stages = (*preset.backbone.stages, *preset.backbone.decoder)
    found = {
        ("stem", preset.stem),
        ("pool", str(preset.head.get("pool"))),
        ("decoder", str(bool(preset.backbone.decoder))),
    }
    found |= {("norm", stage.norm) for stage in stages} | {("placement", stage.placement) for stage in stages}
    return frozenset(found | {("channel", layer.channel) for stage in stages[:1] for layer in stage.layers})


def _covering() -> list[str]:
    """Few presets that hold every part of all of them, chosen greedily."""
    parts = {name: _parts(name) for name in preset_names()}
    chosen, left = ["poolformer_s12", "cswin_t"], frozenset().union(*parts.values())
    left -= parts["poolformer_s12"] | parts["cswin_t"]
    while left:
        best = max(parts, key=lambda name: len(parts[name] & left))
        chosen.append(best)
        left -= parts[best]
    return chosen


@pytest.mark.parametrize("share", range(SHARES))
def test_preset_can_be_exported_with_dynamic_sizes(share: int) -> None:
    """Traced at one size and batch, called at another: in a process without jaxtyping's checks.

    A trace takes seconds, one of four stages half a minute: here the first stage of presets that hold every stem, norm,
    placement, channel and head, and whole ones of two pyramids and of what is U-shaped. ``cambium backbones check``
    does all presets whole.
    """
    names = _covering()[share::SHARES]
    run = subprocess.run([sys.executable, "-c", TRACE, *names], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert {n: d for n, d in found.items() if not isinstance(d, float) or not d < 1e-4} == {}


@pytest.mark.parametrize("name", CLAIMS)
def test_parameters_and_multiply_adds_are_those_that_the_paper_states(name: str) -> None:
    preset = load_preset(name)
    said = preset.published
    got = count(preset, tuple(said["input"]), said["channels"], said["classes"])
    stated = [key for key in ("parameters", "macs") if key in said]  # some papers state parameters alone
    assert stated
    assert all(got[key] == pytest.approx(said[key], rel=0.03) for key in stated)


def test_a_rank_that_a_preset_does_not_declare_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"declares lattices of rank \[1\], got 2"):
        build_model(load_preset("patch_tst"), 2)


def test_a_profile_says_where_the_cost_is() -> None:
    parts = {p.name: p for p in profile(load_preset("swin_t"), (224, 224), 3, 1000)}
    assert [(p.axes, p.dim) for n, p in parts.items() if n.startswith("stage")] == [
        ((56, 56), 96),
        ((28, 28), 192),
        ((14, 14), 384),
        ((7, 7), 768),
    ]
    assert parts["head"].parameters == parts["head"].macs + 1000 == 769_000
    assert parts["stem"].macs == 56 * 56 * 96 * 48


def test_mixers_of_nested_sentences_are_found() -> None:
    text = """\
paper: A test
stem: tokens
stages:
  - dim: 8
    layers:
      - {mixer: serial, inner: [{mixer: over, axis: 0, inner: linear}, window]}
      - {mixer: pooling}
"""
    assert mixers_of(parse_preset("test", text)) == ["serial", "over", "linear", "window", "pooling"]


def test_heads_see_real_tokens_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4)
    layout = Layout((5,), mask=torch.tensor([[True] * 3 + [False] * 2, [True] * 5]))
    noisy = x.masked_fill(~layout.mask[..., None], math.nan)  # type: ignore[index]
    for pool in ("mean", "last", "sequence"):
        head = ClassHead(4, 3, pool=pool, hidden=6, norm=True)
        torch.testing.assert_close(head(noisy, layout)[0], head(x[:1, :3], Layout((3,)))[0])
    assert torch.equal(LastPool(4)(noisy, layout), torch.stack([x[0, 2], x[1, 4]]))
    with pytest.raises(BadRequest, match="unknown pool"):
        ClassHead(4, 3, pool="median")
