"""A graph saved as plain tensors: ``torch.save(data.to_dict(), path)`` of a PyG ``Data``, or safetensors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared_backbones.errors import BadInput

from .assemble import Rules, assemble
from .graph import Given, Graph
from .plain import classes_of, pairs_of, rows_of_numbers

_MASKS = ("train", "val", "test")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a safetensors file. Raises BadInput where it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a safetensors file ({error})") from None


def read_tensors(path: Path, rules: Rules) -> Graph:
    """A graph from tensors named as PyG names them: x, edge_index, edge_attr, edge_weight, y, train_mask ...

    Nothing is unpickled but tensors and plain containers. Raises BadInput for anything else.
    """
    if path.suffix == ".safetensors":
        found: Any = read_weights(path)
    else:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            reason = str(error).splitlines()[0][:200]
            raise BadInput(
                f"{path}: holds more than tensors, and reading it could run programs ({reason}). Save plain tensors: "
                "torch.save(data.to_dict(), path)"
            ) from None
    if not isinstance(found, dict) or "edge_index" not in found:
        raise BadInput(f"{path}: a mapping with at least edge_index is wanted, got {_what(found)}")
    array = {k: v.detach().cpu().numpy() for k, v in found.items() if isinstance(v, torch.Tensor)}
    edges = array["edge_index"]
    if edges.ndim != 2 or edges.shape[0] != 2:
        raise BadInput(f"{path}: edge_index must be (2, E), got {edges.shape}")
    edges = pairs_of(path, "edge_index", edges if edges.shape[1] != 2 else edges.T)
    n = len(array["x"]) if "x" in array else int(found.get("num_nodes") or edges.max(initial=-1) + 1)
    target: Any = None
    classes: tuple[str, ...] = ()
    if "y" in array:
        target, classes = classes_of(path, array["y"].squeeze(-1) if array["y"].ndim == 2 else array["y"])
        if target is not None and len(target) != n:
            raise BadInput(f"{path}: {len(target)} targets 'y' for {n} nodes")
    given = None
    if all(f"{m}_mask" in array for m in _MASKS):
        for m in _MASKS:
            if len(array[f"{m}_mask"]) != n:
                raise BadInput(f"{path}: {m}_mask is {len(array[f'{m}_mask'])} long for {n} nodes")
        masks = {m: array[f"{m}_mask"].reshape(n, -1) for m in _MASKS}
        if len({mask.shape[1] for mask in masks.values()}) > 1:
            raise BadInput(f"{path}: train, val and test masks of different numbers of splits; give as many of each")
        splits = tuple({m: np.flatnonzero(masks[m][:, s]) for m in _MASKS} for s in range(masks["train"].shape[1]))
        given = Given(f"{len(splits)} given masks", splits)
    attr = array.get("edge_attr")
    return assemble(
        str(path),
        rows_of_numbers(path, "x", array["x"]) if "x" in array else np.ones((n, 1), np.float32),
        edges,
        rules,
        edge_attr=None if attr is None else rows_of_numbers(path, "edge_attr", attr),
        weight=rows_of_numbers(path, "edge_weight", array["edge_weight"])[:, 0] if "edge_weight" in array else None,
        target=target,
        classes=classes,
        given=given,
    )


def _what(value: Any) -> str:
    return (
        f"{type(value).__name__}({', '.join(map(str, list(value)[:10]))})"
        if isinstance(value, dict)
        else str(type(value))
    )
