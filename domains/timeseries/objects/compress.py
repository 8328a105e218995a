"""A trained classifier made small: magnitude pruning, shared weights, packed bits.

"Deep Compression" (Han, Mao and Dally 2016) as used for light curves in "The Tiny Time-series Transformer" (Allam Jr.,
Peloton and McEwen 2023). Eight-bit arithmetic and the runtime are ONNX Runtime's: see tests/benchmarks/compressed.py.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

_MAGIC = b"CMBP"
ROUNDS = 30  # of k-means in one dimension
LEAST = 64  # weights; a smaller tensor is kept in half precision


def prune_masks(model: nn.Module, share: float) -> dict[str, Bool[Tensor, "..."]]:
    """Which weights are kept: within each matrix the ``share`` of least magnitude is not."""
    found = {}
    for name, p in model.named_parameters():
        if p.ndim < 2 or p.numel() < LEAST:
            continue
        count = int(share * p.numel())
        if count:
            found[name] = p.detach().abs() > p.detach().abs().flatten().kthvalue(count).values
    return found


def apply_masks(model: nn.Module, masks: Mapping[str, Bool[Tensor, "..."]]) -> None:
    """Zeros where a mask says so; to be called after every step of fine-tuning."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in masks:
                p.mul_(masks[name])


def cluster(values: Float[np.ndarray, "n"], count: int) -> tuple[Float[np.ndarray, "k"], Int64[np.ndarray, "n"]]:
    """k-means in one dimension: centres (sorted, one of them 0 where a value is 0) and each value's centre."""
    kinds = np.unique(values)
    if len(kinds) <= count and (kinds == kinds.astype(np.float16)).all():  # shared already
        return kinds, np.searchsorted(kinds, values).astype(np.int64)
    nonzero = values[values != 0]
    zeros = len(nonzero) < len(values)
    k = max(1, min(count - zeros, len(np.unique(nonzero)))) if len(nonzero) else 0
    centres = np.linspace(nonzero.min(), nonzero.max(), k) if k else np.zeros(0)  # evenly: the rare large ones matter
    for _ in range(ROUNDS):
        at = np.abs(nonzero[:, None] - centres).argmin(1) if k else np.zeros(0, int)
        size = np.bincount(at, minlength=k)
        moved = np.where(size > 0, np.bincount(at, nonzero, k) / np.maximum(size, 1), centres)
        if np.allclose(moved, centres):
            break
        centres = moved
    centres = np.unique(np.concatenate([[0.0], centres]) if zeros else centres).astype(np.float16).astype(np.float64)
    at = np.abs(values[:, None] - centres).argmin(1)
    if zeros:
        at = np.where(values == 0, int(np.flatnonzero(centres == 0)[0]), at)
    used, at = np.unique(at, return_inverse=True)
    return centres[used], at.astype(np.int64)


def pack(state: Mapping[str, Tensor], names: set[str], clusters: int = 16) -> bytes:
    """Weights named in ``names`` as shared values and packed places, the other floats in half precision; zlib over all.

    ``clusters`` is at most 256.
    """
    head, body = [], []
    for name, tensor in state.items():
        x = tensor.detach().cpu().numpy()
        if name in names:
            centres, at = cluster(x.astype(np.float64).ravel(), clusters)
            places: np.ndarray = at.astype(np.uint8)
            if clusters <= 16:
                places = np.append(places, np.zeros(len(places) % 2, np.uint8))
                places = places[::2] | (places[1::2] << 4)
            data = centres.astype("<f2").tobytes() + places.tobytes()
            head.append([name, "c", list(x.shape), len(centres), str(x.dtype)])
        else:
            half = x.dtype == np.float32
            data = (x.astype("<f2") if half else x).tobytes()
            head.append([name, "h" if half else "r", list(x.shape), 0, str(x.dtype)])
        body.append(data)
    words = json.dumps([clusters, head], separators=(",", ":")).encode()
    return _MAGIC + zlib.compress(struct.pack("<I", len(words)) + words + b"".join(body), 9)


def unpack(raw: bytes) -> dict[str, Tensor]:
    """The state dict of :func:`pack`. Raises ValueError for other bytes."""
    if raw[:4] != _MAGIC:
        raise ValueError("not a packed classifier")
    raw = zlib.decompress(raw[4:])
    size = struct.unpack("<I", raw[:4])[0]
    clusters, head = json.loads(raw[4 : 4 + size])
    at, state = 4 + size, {}
    for name, kind, shape, count, dtype in head:
        n = int(np.prod(shape))
        if kind == "c":
            centres = np.frombuffer(raw, "<f2", count, at).astype(np.float64)
            at += 2 * count
            width = -(-n // 2) if clusters <= 16 else n
            read: np.ndarray = np.frombuffer(raw, np.uint8, width, at)
            at += width
            if clusters <= 16:
                read = np.stack([read & 15, read >> 4], 1).ravel()[:n]
            x = centres[read].astype(dtype)
        else:
            stored = np.dtype("<f2") if kind == "h" else np.dtype(dtype)
            x = np.frombuffer(raw, stored, n, at).astype(dtype)
            at += n * stored.itemsize
        state[name] = torch.from_numpy(x.reshape(shape).copy())
    return state
