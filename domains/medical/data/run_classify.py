"""Images -> probabilities by an exported `medical/classify`, without Cambium. For research use; not a medical device.

    python run_classify.py scan.png other.jpg > predictions.csv

Lies beside model.onnx or model.pt2 and description.json. Needs numpy and pillow, and onnxruntime or torch.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

FULL = 65535.0  # of 16 bits


def colours(path: Path) -> Any:
    """(1, 3, rows, columns) float32 within 0 .. 1; transparent pixels are black."""
    with Image.open(path) as opened:
        if getattr(opened, "n_frames", 1) > 1:
            raise SystemExit(f"{path}: several pages; write each to a file of its own")
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16 bits
            grey: Any = (np.asarray(image) / FULL).astype(np.float32)
        elif image.mode in ("1", "L"):
            grey = np.asarray(image.convert("L"), np.float32) / 255
        elif image.mode == "F":
            raise SystemExit(f"{path}: real numbers have no full scale; write 8 or 16 bits")
        else:
            x = np.asarray(image.convert("RGBA"), np.float32) / 255
            return np.moveaxis(x[..., :3] * x[..., 3:], 2, 0)[None].copy()
    return np.repeat(grey[None, None], 3, 1)


def loaded(folder: Path) -> Callable[[Any], Any]:
    """The exported model as a function of an array."""
    if (folder / "model.onnx").is_file():
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"image": x})
    import torch

    module = torch.export.load(folder / "model.pt2").module()
    return lambda x: [y.detach().numpy() for y in module(torch.from_numpy(x))]


def main() -> None:
    """One row per file."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    folder = Path(__file__).resolve().parent
    about = json.loads((folder / "description.json").read_text(encoding="utf-8"))["about"]
    model, table = loaded(folder), csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["file", "prediction", *(f"p_{name}" for name in about["labels"])])
    for name in sys.argv[1:]:
        probability, called = model(colours(Path(name)))
        said = "|".join(label for label, yes in zip(about["labels"], called[0], strict=True) if yes)
        table.writerow([name, said, *(f"{p:.6g}" for p in probability[0])])


if __name__ == "__main__":
    main()
