"""Export with dynamic sizes: a mixer or backbone as a graph of plain tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import config
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from .errors import BadRequest
from .layout import Layout

TENSORS = ("mask", "positions", "edges", "edge_attr")


class OnLattice(nn.Module):
    """Calls ``inner(tokens, layout)`` from plain tensors: the axes of the layout are read off the shape of x.

    x (B, *axes, C), mask (B, *axes), positions (B, *axes, k); edges and edge_attr as :class:`Layout` holds them.
    Returns (B, M, K) tokens.
    """

    def __init__(self, inner: nn.Module, ordered: bool = True) -> None:
        super().__init__()
        self.inner, self.ordered = inner, ordered

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        edges: Tensor | None = None,
        edge_attr: Tensor | None = None,
    ) -> Tensor:
        layout = Layout(
            tuple(x.shape[1:-1]),
            self.ordered,
            None if mask is None else mask.flatten(1),
            None if positions is None else positions.flatten(1, -2),
            edges,
            edge_attr,
        )
        y = self.inner(x.flatten(1, -2), layout)
        return y[0] if isinstance(y, tuple) else y


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """Without jaxtyping's checks, where a test run has them on: a traced size is no plain number."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)


def lattice_inputs(x: Tensor, layout: Layout) -> tuple[Tensor, dict[str, Tensor]]:
    """Arguments of :class:`OnLattice`: x on its lattice, and those tensors that the layout carries."""
    found = {name: t for name in TENSORS if (t := getattr(layout, name)) is not None}
    for name in ("mask", "positions"):
        if name in found:
            found[name] = found[name].unflatten(1, layout.axes)
    return layout.fold(x), found


def export_on_lattice(inner: nn.Module, x: Tensor, layout: Layout) -> ExportedProgram:
    """``torch.export`` of a mixer or backbone; batch, axes and number of edges stay free.

    Raises what torch.export raises where the module fixes one of them.
    """
    lattice, tensors = lattice_inputs(x, layout)
    every = dict.fromkeys(range(lattice.ndim - 1), Dim.DYNAMIC)
    dims = {"mask": every, "positions": every, "edges": {1: Dim.DYNAMIC}, "edge_attr": {0: Dim.DYNAMIC}}
    free: dict[str, Any] = {"x": every, **{name: dims[name] for name in tensors}}
    with torch.no_grad(), unchecked_shapes():
        return torch.export.export(OnLattice(inner, layout.ordered), (lattice,), tensors, dynamic_shapes=free)


def save_onnx(program: ExportedProgram, path: Path) -> None:
    """Write an exported program as ONNX; the file appears whole or not at all.

    The shapes noted for inner values are taken out: the runtime infers them itself, and those of an inverse FFT are
    noted wrongly (torch 2.13), which fails at other sizes than the traced one.
    Raises BadRequest where the ``export`` extra is not installed.
    """
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise BadRequest("export to ONNX needs onnx and onnxscript: pip install 'cambium[export]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch's exporter about its own use of pytrees
        made = torch.onnx.export(program, dynamo=True, verbose=False)
    assert made is not None
    proto = made.model_proto
    del proto.graph.value_info[:]
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(proto.SerializeToString())
    aside.replace(path)


__all__ = ["OnLattice", "export_on_lattice", "lattice_inputs", "save_onnx", "unchecked_shapes"]
