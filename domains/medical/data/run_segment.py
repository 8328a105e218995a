"""Labels of images and volumes by an exported `medical/segment`, without Cambium. For research use; no medical device.

    python run_segment.py scan.nii.gz other.nii.gz      # scan_labels.nii.gz beside this file, on the scan's own grid

Lies beside model.onnx or model.pt2 and description.json. Needs numpy; nibabel for volumes, pillow for flat images; and
onnxruntime or torch. Windows that overlap are averaged and reduced to labels slab by slab, so memory holds the stored
image, its labels, and the probabilities of about two windows' rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 4  # of the stored grid that are made at a time


def weights(n: int, m: int) -> tuple[Any, Any]:
    """(m, taps) places and shares: how n voxels become m over the same field of view, a mean where they grow larger."""
    if n == m:
        return np.arange(n)[:, None], np.ones((n, 1), np.float32)
    wide = max(1.0, n / m)
    centre = (np.arange(m)[:, None] + 0.5) * n / m - 0.5
    places = np.floor(centre - wide).astype(int) + 1 + np.arange(int(np.ceil(2 * wide)))
    shares = np.maximum(1 - np.abs(places - centre) / wide, 0) * ((places >= 0) & (places < n))
    return places.clip(0, n - 1), (shares / shares.sum(1, keepdims=True)).astype(np.float32)


def along(x: Any, axis: int, taps: tuple[Any, Any], start: int, stop: int, first: int = 0) -> Any:
    """Places start .. stop of a resampled axis; x begins at the old place ``first``."""
    places, shares = (v[start:stop] for v in taps)
    shape = [1] * x.ndim
    shape[axis] = stop - start
    columns = range(places.shape[1])
    return sum(x.take(places[:, c] - first, axis) * shares[:, c].reshape(shape) for c in columns)


def cut(image: Any, taps: Sequence[Any], window: Sequence[tuple[int, int]]) -> Any:
    """(C, *window) of the resampled image, made of no more of the stored one than it needs."""
    ends = [(int(t[0][a:b].min()), int(t[0][a:b].max()) + 1) for t, (a, b) in zip(taps, window, strict=True)]
    x = image[(slice(None), *(slice(a, b) for a, b in ends))].astype(np.float32)
    for axis, (t, (a, b), (first, _)) in enumerate(zip(taps, window, ends, strict=True), 1):
        x = along(x, axis, t, a, b, first)
    return x


def spans(size: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    """Windows along an axis; the last one ends with it."""
    last, stride = max(size - tile, 0), max(1, int(tile * (1 - overlap)))
    return [(start, min(start + tile, size)) for start in (*range(0, last, stride), last)]


def shares_of(windows: Sequence[tuple[int, int]], blend: str) -> list[Any]:
    """What each window has to say of each of its places; over all windows it sums to one."""
    found, total = [], np.zeros(windows[-1][1])
    for a, b in windows:
        at = np.arange(b - a) - (b - a - 1) / 2
        bell = {
            "gaussian": np.exp(-0.5 * (at / (0.125 * (b - a))) ** 2),
            "hann": np.cos(np.pi * at / (b - a)) ** 2,
            "constant": np.ones(b - a),
        }[blend]
        found.append(np.maximum(bell, 1e-3))
        total[a:b] += found[-1]
    return [f / total[a:b] for f, (a, b) in zip(found, windows, strict=True)]


def loaded(folder: Path) -> Callable[..., Any]:
    """The exported model as a function of an array: (labels, probability)."""
    if (folder / "model.onnx").is_file():
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        return lambda *x: session.run(None, dict(zip(names, x, strict=True)))
    import torch

    module = torch.export.load(folder / "model.pt2").module()
    return lambda *x: [y.detach().numpy() for y in module(*map(torch.from_numpy, x))]


def moments(image: Any) -> Any:
    """(1, C, 2) mean and deviation of every channel as stored, in pieces."""
    count, sums = image[0].size, np.zeros((2, len(image)))
    for at in range(0, image.shape[1], 16):
        part = image[:, at : at + 16].reshape(len(image), -1).astype(np.float64)
        sums += part.sum(1), (part**2).sum(1)
    mean = sums[0] / count
    return np.stack([mean, np.sqrt(np.maximum(sums[1] / count - mean**2, 0))], 1).astype(np.float32)[None]


def slabs(
    model: Callable[..., Any], image: Any, taps: Sequence[Any], about: Any, order: Sequence[int]
) -> Iterator[Any]:
    """(K, rows, *rest) of probabilities at the plan's spacing, in order along the first axis.

    image, taps: with their axes in ``order``; the model takes them as they stand in the patient.
    """
    shape, across = [len(t[0]) for t in taps], about["across"]
    windows = [spans(n, about["patch"][axis], about["overlap"]) for n, axis in zip(shape, order, strict=True)]
    share = [shares_of(w, about["blend"]) for w in windows]
    beside = [moments(image)] if about["normalise"] == "image" else []
    back = [0, *(1 + int(axis) for axis in np.argsort(order))]
    held, first = None, 0  # rows that windows to come have still to complete
    for row, (low, high) in enumerate(windows[0]):
        new = np.zeros((len(about["values"]), high - first, *shape[1:]), np.float32)
        if held is not None:
            new[:, : held.shape[1]] = held
        for index in np.ndindex(*map(len, windows[1:])):
            at = [(low, high), *(w[i] for w, i in zip(windows[1:], index, strict=True))]
            x = cut(image, taps, at).transpose(back)
            x = x if across is None else x.squeeze(across + 1)
            p = model(np.ascontiguousarray(x)[None], *beside)[1][0]
            p = (p if across is None else np.expand_dims(p, across + 1)).transpose(0, *(1 + axis for axis in order))
            for axis, (s, i) in enumerate(zip(share, (row, *index), strict=True), 1):
                p = p * s[i].astype(np.float32).reshape([-1 if a == axis else 1 for a in range(p.ndim)])
            new[(slice(None), slice(low - first, high - first), *(slice(a, b) for a, b in at[1:]))] += p
        ready = shape[0] if row + 1 == len(windows[0]) else windows[0][row + 1][0]
        yield new[:, : ready - first]
        held, first = new[:, ready - first :].copy(), ready


def answered(model: Callable[..., Any], image: Any, spacing: Sequence[float], about: Any) -> Any:
    """(C, *axes) in canonical orientation -> stored label values on the same grid."""
    longest = int(np.argmax(image.shape[1:]))  # slabs along it are small
    order = (longest, *(axis for axis in range(image.ndim - 1) if axis != longest))
    image = image.transpose(0, *(1 + axis for axis in order))
    grid = image.shape[1:]
    shape = [max(1, round(n * spacing[a] / about["spacing"][a])) for n, a in zip(grid, order, strict=True)]
    there = [weights(n, m) for n, m in zip(grid, shape, strict=True)]
    back = [weights(m, n) for n, m in zip(grid, shape, strict=True)]
    values = np.array(about["values"])
    labels = np.empty(grid, np.uint8 if values.min() >= 0 and values.max() < 256 else np.int32)
    held, first, done = None, 0, 0
    for slab in slabs(model, image, there, about, order):
        held = slab if held is None else np.concatenate([held, slab], 1)
        while done < grid[0]:
            stop = min(done + ROWS, grid[0])
            if back[0][0][done:stop].max() >= first + held.shape[1]:
                break
            p = along(held, 1, back[0], done, stop, first)
            for axis in range(2, p.ndim):
                p = along(p, axis, back[axis - 1], 0, grid[axis - 1])
            labels[done:stop] = values[p.argmax(0)]
            done = stop
        needed = first + held.shape[1] if done == grid[0] else min(int(back[0][0][done].min()), first + held.shape[1])
        held, first = held[:, needed - first :].copy(), needed
    return labels.transpose(np.argsort(order))


def volume(path: Path, model: Callable[..., Any], about: Any, out: Path) -> None:
    """A NIfTI file, turned to right, anterior, superior and back."""
    import nibabel
    from nibabel import orientations

    stored: Any = nibabel.load(path)
    turn = orientations.io_orientation(stored.affine)
    voxels = np.asarray(stored.dataobj)  # integers stay integers: a window at a time becomes real
    voxels = voxels.astype(np.float32) if voxels.dtype.kind == "f" else voxels
    inside = orientations.apply_orientation(voxels, turn)
    lengths = np.sqrt((stored.affine[:3, :3] ** 2).sum(0))
    spacing = [float(lengths[list(turn[:, 0]).index(axis)]) for axis in range(3)]
    labels = answered(model, inside[None], spacing, about)
    back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), turn)
    nibabel.save(nibabel.Nifti1Image(orientations.apply_orientation(labels, back), stored.affine), out)


def flat(path: Path, model: Callable[..., Any], about: Any, out: Path) -> None:
    """A picture; its labels as grey values."""
    from PIL import Image

    with Image.open(path) as opened:
        x = np.asarray(opened.convert("RGB") if about["channels"] == 3 else opened, np.float32)
    x = x[None] if x.ndim == 2 else np.moveaxis(x, 2, 0)
    Image.fromarray(answered(model, x, (1.0, 1.0), about).astype(np.uint8)).save(out)


def main() -> None:
    """One file of labels per file."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    folder = Path(__file__).resolve().parent
    about = json.loads((folder / "description.json").read_text(encoding="utf-8"))["about"]
    model = loaded(folder)
    for name in sys.argv[1:]:
        path = Path(name)
        nifti = path.name.endswith((".nii", ".nii.gz"))
        if nifti == (len(about["spacing"]) == 2):
            raise SystemExit(f"{path}: the model takes {'flat images' if nifti else 'volumes (.nii, .nii.gz)'}")
        out = folder / f"{path.name.split('.')[0]}_labels{'.nii.gz' if nifti else '.png'}"
        (volume if nifti else flat)(path, model, about, out)
        print(out)


if __name__ == "__main__":
    main()
