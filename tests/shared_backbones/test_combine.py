"""Combinations are what their sentences say, and refuse at build time what their parts cannot do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shared_backbones.backbone import Backbone, Tokens
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers import build_mixer
from shared_backbones.presets import parse_preset

WINDOW = {"mixer": "window", "window": 3}


def tokens(*axes: int, dim: int = 12) -> tuple[Tensor, Layout]:
    generator = torch.Generator().manual_seed(0)
    layout = Layout(axes)
    return torch.randn(2, layout.size, dim, generator=generator), layout


def test_over_is_the_inner_mixer_on_every_row_alone() -> None:
    x, layout = tokens(4, 3, 5)
    mixer = build_mixer("over", 12, rank=3, axis=1)
    want = torch.empty(2, 4, 3, 5, 12)
    for i in range(4):
        for j in range(5):
            want[:, i, :, j] = mixer.inner(layout.fold(x)[:, i, :, j], Layout((3,)))
    torch.testing.assert_close(mixer(x, layout), layout.unfold(want))


def test_over_two_axes_is_the_inner_mixer_on_every_slice() -> None:
    x, layout = tokens(4, 3, 5)
    mixer = build_mixer("over", 12, rank=3, axis=(0, 2), inner=WINDOW)
    want = torch.stack(
        [layout_unfold(mixer.inner(flat(layout.fold(x)[:, :, j]), Layout((4, 5))), (4, 5)) for j in range(3)], 2
    )
    torch.testing.assert_close(mixer(x, layout), layout.unfold(want))


def flat(x: Tensor) -> Tensor:
    return x.flatten(1, -2)


def layout_unfold(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.reshape(len(x), *axes, -1)


def test_over_keeps_each_row_to_its_own_mask_and_positions() -> None:
    x, layout = tokens(4, 3)
    mask = torch.rand(2, 12, generator=torch.Generator().manual_seed(1)) > 0.3
    positions = torch.rand(2, 12, 2)
    mixer = build_mixer("over", 12, rank=2, axis=0, inner="decay", causal_axes=(0,))
    y = mixer(x, Layout((4, 3), mask=mask, positions=positions))
    for j in range(3):
        row = Layout((4,), mask=mask.view(2, 4, 3)[:, :, j], positions=positions.view(2, 4, 3, 2)[:, :, j])
        alone = mixer.inner(layout.fold(x)[:, :, j], row)
        torch.testing.assert_close(layout.fold(y)[:, :, j][row.mask], alone[row.mask])


def test_over_the_second_axis_hands_that_coordinate_first() -> None:
    view = Layout((4, 3), positions=torch.arange(24.0).view(1, 12, 2)).over(1)
    assert view.layout.positions is not None
    assert view.layout.positions[0, :, 0].tolist() == [1.0, 3.0, 5.0]  # the coordinates along axis 1


def test_serial_and_parallel_compose() -> None:
    x, layout = tokens(4, 6)
    for name in ("serial", "parallel"):
        mixer = build_mixer(name, 12, rank=2, inner=[WINDOW, {"mixer": "over", "axis": 1}, "pooling"])
        a, b, c = mixer.inner
        want = c(b(a(x, layout), layout), layout) if name == "serial" else sum(m(x, layout) for m in (a, b, c))
        torch.testing.assert_close(mixer(x, layout), want)


def test_split_gives_each_part_its_channels() -> None:
    x, layout = tokens(4, 6)
    mixer = build_mixer("split", 12, rank=2, inner=["pooling", "attention", WINDOW], shares=(1, 1, 2))
    want = [m(x[..., a:b], layout) for m, a, b in zip(mixer.inner, (0, 3, 6), (3, 6, 12), strict=True)]
    torch.testing.assert_close(mixer(x, layout), torch.cat(want, -1))


def test_coarse_mixes_the_means_of_blocks() -> None:
    x, layout = tokens(5, 6)
    mixer = build_mixer("coarse", 12, rank=2, factor=2)
    grid = layout.fold(x)
    means = torch.stack([grid[:, i : i + 2, j : j + 2].mean((1, 2)) for i in (0, 2, 4) for j in (0, 2, 4)], 1)
    y = layout_unfold(mixer.inner(means, Layout((3, 3))), (3, 3))
    want = y.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :5, :6]
    torch.testing.assert_close(mixer(x, layout), layout.unfold(want))


def test_facts_follow_from_the_parts() -> None:
    mixer = build_mixer("serial", 12, inner=["linear", {"mixer": "split", "inner": ["decay", "linear"]}])
    assert mixer.needs == {"positions"}
    assert mixer.sets
    assert mixer.cost == "O(N d^2 + N^2 d)"
    assert not build_mixer("parallel", 12, inner=["attention", "pooling"]).sets
    assert build_mixer("over", 12, axis=1).ranks == {2, 3}
    assert build_mixer("serial", 12, rank=2, inner=["attention", "depthwise"]).rank == 2
    causal = build_mixer("parallel", 12, rank=1, causal_axes=(0,), inner=["attention", {"mixer": "linear"}])
    assert causal.causal == {0}
    assert [m.causal for m in causal.inner] == [{0}, {0}]
    assert causal.state_size(7) == sum(m.state_size(7) for m in causal.inner)


@pytest.mark.parametrize(
    ("name", "options", "asked", "said"),
    [
        ("over", {"axis": 2}, {"rank": 2}, "lie in 0 .. 1"),
        ("over", {"axis": (1, 0)}, {}, "ascending"),
        ("over", {"inner": "message"}, {}, "edges do not carry over"),
        ("over", {"inner": {"mixer": "over", "axis": 1}}, {"rank": 2}, "inside 'over'"),
        ("serial", {"inner": ["window"]}, {"ordered": False}, "inside 'serial'.*ordered"),
        ("serial", {"inner": {"mixer": "attention"}}, {}, "is a list of mixers"),
        ("serial", {"inner": []}, {}, "is a list of mixers"),
        ("serial", {"inner": [{"window": 3}]}, {}, "names its mixer"),
        ("split", {"inner": ["atention"]}, {}, "did you mean 'attention'"),
        ("split", {"inner": [{"mixer": "window", "size": 3}]}, {}, "option of mixer 'window'"),
        ("split", {"shares": (1, 2, 1)}, {}, "shares must be 2"),
        ("split", {"shares": (1, 4)}, {}, "whole"),
        ("parallel", {"inner": ["message", "attention"]}, {"provides": {"positions"}}, "edges"),
        ("parallel", {"inner": ["linear"]}, {"rank": 2, "causal_axes": (1,)}, "causal along axes"),
        ("serial", {"inner": [{"mixer": "window", "rank": 2}]}, {}, "cannot be set"),
        ("coarse", {"factor": 0}, {}, "factor must be at least 1"),
        ("coarse", {"inner": "message"}, {}, "edges do not carry over"),
    ],
)
def test_refusals_at_build_time(name: str, options: dict, asked: dict, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        build_mixer(name, 12, **asked, **options)


SENTENCES = {
    "DaViT (266): positions and channels in turn, each after a convolution that tells places": """
      - {mixer: convolution, channel: none}
      - {mixer: window, window: 4}
      - {mixer: convolution, channel: none}
      - {mixer: channels}
    """,
    "Inception transformer (259): part of the channels local, part global, then fused": """
      - mixer: serial
        inner:
          - mixer: split
            shares: [1, 1, 2]
            inner:
              - {mixer: serial, inner: [max_pooling, {mixer: pointwise, act: gelu}]}
              - {mixer: serial, inner: [pointwise, convolution]}
              - {mixer: coarse, factor: 2, inner: attention}
          - {mixer: parallel, inner: [convolution, pointwise]}
          - pointwise
    """,
    "UniFormer (327): local in shallow layers, global in deep ones": """
      - {mixer: convolution, channel: none}
      - {mixer: separable, kernel: 5, times: 2}
      - {mixer: attention, times: 2}
    """,
    "HiLo (305)": "- {mixer: hilo, window: 2, times: 2}",
    "a hybrid by layer ratio (235): mixers and channel layers as sub-blocks of their own": """
      - {mixer: linear, times: 3, channel: none}
      - {mixer: attention, channel: none}
      - {mixer: identity, channel: mlp, times: 4}
    """,
    "Axial attention": "- {mixer: serial, inner: [{mixer: over, axis: 0}, {mixer: over, axis: 1}]}",
    "GLMix (269): slots beside a convolution": "- {mixer: parallel, inner: [semantic_slots, separable]}",
}


@pytest.mark.parametrize("sentence", SENTENCES.values(), ids=list(SENTENCES))
def test_papers_are_sentences_in_yaml(sentence: str) -> None:
    text = f"paper: test\nstem: image\nstages:\n  - dim: 16\n    layers:\n{indented(sentence)}"
    net = Backbone(parse_preset("test", text).backbone, Tokens(rank=2)).eval()
    x, mask = torch.randn(2, 30, 16), torch.rand(2, 30, generator=torch.Generator().manual_seed(0)) > 0.3
    y, _ = net(x.masked_fill(~mask[..., None], 0.0), Layout((5, 6), mask=mask))
    z, _ = net(torch.where(mask[..., None], x, 99.0), Layout((5, 6), mask=mask))
    torch.testing.assert_close(y[mask], z[mask], rtol=1e-4, atol=1e-5)
    net(x, Layout((5, 6)))[0].square().sum().backward()
    assert all(p.grad is not None or "mix.norm" in name or "channel.norm" in name for name, p in net.named_parameters())


def indented(sentence: str) -> str:
    lines = [line for line in sentence.splitlines() if line.strip()]
    cut = min(len(line) - len(line.lstrip()) for line in lines)
    return "\n".join("      " + line[cut:] for line in lines) + "\n"
