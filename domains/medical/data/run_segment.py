"""Labels of images and volumes by an exported `medical/segment`, without Cambium. For research use; no medical device.

    python run_segment.py scan.nii.gz other.nii.gz      # scan_labels.nii.gz beside this file, on the scan's own grid

Lies beside model.onnx or model.pt2 and description.json. Needs numpy; nibabel for volumes, pillow for flat images; and
onnxruntime or torch. An image goes through the network as a whole: one that does not fit into memory has to be cut.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def weights(n: int, m: int) -> Any:
    """(m, n): how n voxels become m over the same field of view; linear, and a mean where voxels become larger."""
    wide = max(1.0, n / m)
    centre = (np.arange(m)[:, None] + 0.5) * n / m - 0.5
    found = np.maximum(1 - np.abs(np.arange(n) - centre) / wide, 0)
    return np.eye(n) if n == m else found / found.sum(1, keepdims=True)


def resampled(x: Any, shape: Sequence[int]) -> Any:
    """(C, *axes) at other extents."""
    for axis, m in enumerate(shape, 1):
        x = np.moveaxis(np.tensordot(weights(x.shape[axis], m), x, (1, axis)), 0, axis)
    return x.astype(np.float32)


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


def answered(model: Callable[..., Any], image: Any, spacing: Sequence[float], about: Any) -> Any:
    """(C, *axes) in canonical orientation -> stored label values on the same grid."""
    grid = image.shape[1:]
    shape = [max(1, round(n * s / w)) for n, s, w in zip(grid, spacing, about["spacing"], strict=True)]
    x, across, rows = resampled(image, shape), about["across"], image.reshape(len(image), -1).astype(np.float64)
    x = x[None] if across is None else np.ascontiguousarray(np.moveaxis(x, across + 1, 0))  # or slice by slice
    own = np.stack([rows.mean(1), rows.std(1)], 1).astype(np.float32)
    p = model(x, np.repeat(own[None], len(x), 0))[1] if about["normalise"] == "image" else model(x)[1]
    p = p[0] if across is None else np.moveaxis(p, 0, across + 1)
    return np.array(about["values"])[resampled(p, grid).argmax(0)]


def volume(path: Path, model: Callable[..., Any], about: Any, out: Path) -> None:
    """A NIfTI file, turned to right, anterior, superior and back."""
    import nibabel
    from nibabel import orientations

    stored: Any = nibabel.load(path)
    turn = orientations.io_orientation(stored.affine)
    inside = orientations.apply_orientation(np.asarray(stored.dataobj, np.float32), turn)
    lengths = np.sqrt((stored.affine[:3, :3] ** 2).sum(0))
    spacing = [float(lengths[list(turn[:, 0]).index(axis)]) for axis in range(3)]
    labels = answered(model, inside[None], spacing, about)
    back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), turn)
    voxels = orientations.apply_orientation(labels, back).astype(np.int32)
    nibabel.save(nibabel.Nifti1Image(voxels, stored.affine), out)


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
