"""A backbone of every rank is the same in eager mode, as an exported program and as ONNX, at sizes not traced."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor

from shared_backbones.backbone import Backbone, BackboneSpec, LayerSpec, StageSpec, Tokens
from shared_backbones.export import OnLattice, export_on_lattice, lattice_inputs, save_onnx
from shared_backbones.layout import Layout

SPECS = {
    1: BackboneSpec(
        (
            StageSpec(
                8, (LayerSpec("fourier"), LayerSpec("linear"), LayerSpec("attention", {"heads": 2}, "glu")), "peri"
            ),
        )
    ),
    2: BackboneSpec(
        (
            StageSpec(8, (LayerSpec("pooling"), LayerSpec("window", {"window": 3, "shift": 1}))),
            StageSpec(12, (LayerSpec("attention"),), "pre", "rms", 2),
        ),
        layer_scale=0.1,
    ),
    3: BackboneSpec((StageSpec(8, (LayerSpec("depthwise", {"kernel": 3}), LayerSpec("attention")), "post"),)),
}
SIZES = {1: ((20,), (33,)), 2: ((9, 10), (13, 8)), 3: ((3, 4, 5), (6, 3, 4))}


def tokens(axes: tuple[int, ...], batch: int, masked: bool) -> tuple[Tensor, Layout]:
    layout = Layout(axes)
    x = torch.randn(batch, layout.size, 8)
    mask = torch.rand(batch, layout.size) > 0.2
    return x, Layout(axes, mask=mask if masked else None)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_eager_equals_export_equals_onnx(rank: int, tmp_path: Path) -> None:
    torch.manual_seed(rank)
    traced, other = SIZES[rank]
    masked = rank != 1  # the Fourier gate groups items by their size: without a mask
    backbone = Backbone(SPECS[rank], Tokens(rank=rank)).eval()
    program = export_on_lattice(backbone, *tokens(traced, 2, masked))
    save_onnx(program, tmp_path / "backbone.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["backbone.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "backbone.onnx", providers=["CPUExecutionProvider"])
    for axes, batch in ((traced, 2), (other, 3)):
        x, layout = tokens(axes, batch, masked)
        lattice, tensors = lattice_inputs(x, layout)
        with torch.no_grad():
            want = backbone(x, layout)[0]
            torch.testing.assert_close(OnLattice(backbone)(lattice, **tensors), want)
            torch.testing.assert_close(program.module()(lattice, **tensors), want, atol=1e-5, rtol=1e-5)
        feed = {"x": lattice.numpy(), **{name: t.numpy() for name, t in tensors.items()}}
        got = torch.from_numpy(session.run(None, feed)[0])
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
