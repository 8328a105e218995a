"""A run's model for use without Cambium: ONNX or a torch.export program, checked against the original.

A task says how, in one optional method ``portable(model, fitted) -> domains.task.Portable``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from domains.public import sha256_of
from domains.task import Portable
from shared_backbones.errors import BadRequest, unknown

from .runs import Trained, load_run
from .store import atomic_folder, finite, write_json

FORMATS = {"onnx": "model.onnx", "torch": "model.pt2"}
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # float32 on another runtime: products are summed in another order
CHECKED_BATCH = 3  # the example has two items: the batch size must not be built in


class ExportError(RuntimeError):
    """The exported model does not do what the original does, or could not be made."""


def _tuple(value: Any) -> tuple[Tensor, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _batch_of(example: Sequence[Tensor], n: int) -> tuple[Tensor, ...]:
    """``n`` items made from the example's: repeated, and the float ones shifted a little so that no two are equal."""
    made = []
    for x in example:
        index = torch.arange(n) % len(x)
        y = x[index].clone()
        if y.is_floating_point():
            y = y + 0.01 * torch.arange(n, dtype=y.dtype).reshape(-1, *[1] * (y.ndim - 1))
        made.append(y)
    return tuple(made)


def _program(portable: Portable) -> tuple[ExportedProgram, bool]:
    """The exported graph, and whether its batch size is free. Raises ExportError."""
    names = list(portable.inputs)
    batch = Dim("batch", min=1)
    reasons = []
    for free in (True, False):
        shapes = tuple(
            {**({0: batch} if free else {}), **dict.fromkeys(portable.free.get(name, ()), Dim.AUTO)} for name in names
        )
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.export.export(portable.module, portable.example, dynamic_shapes=shapes), free
        except Exception as error:  # torch.export raises many kinds
            reasons.append(str(error).strip().splitlines()[0])
    raise ExportError(f"torch.export cannot trace this model: {reasons[-1]}")


def _write_onnx(program: ExportedProgram, portable: Portable, path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells that torchvision is not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            program,
            input_names=list(portable.inputs),
            output_names=list(portable.outputs),
            dynamo=True,
            verbose=False,
        )
        assert made is not None
        made.save(str(path), external_data=False)


def _run_onnx(path: Path, portable: Portable, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    fed = dict(zip(portable.inputs, inputs, strict=True))
    taken = {i.name for i in session.get_inputs()}  # an input that has no effect is dropped by the exporter
    return tuple(torch.from_numpy(y) for y in session.run(None, {k: v.numpy() for k, v in fed.items() if k in taken}))


def _run_torch(path: Path, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return _tuple(torch.export.load(path).module()(*inputs))


def parity(module: nn.Module, exported: tuple[Tensor, ...], inputs: Sequence[Tensor]) -> dict[str, Any]:
    """The largest differences between the original and the exported model. Raises ExportError beyond the tolerance."""
    with torch.no_grad():
        wanted = _tuple(module(*inputs))
    if [tuple(a.shape) for a in wanted] != [tuple(b.shape) for b in exported]:
        raise ExportError(f"exported shapes differ: {[tuple(b.shape) for b in exported]}")
    worst = max(
        (float((a.double() - b.double()).abs().max()) for a, b in zip(wanted, exported, strict=True)), default=0.0
    )
    for a, b in zip(wanted, exported, strict=True):
        if not torch.allclose(a, b, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True):
            raise ExportError(
                f"exported values differ by up to {worst:g}, allowed {RELATIVE:g} relative + {ABSOLUTE:g}"
            )
    return {"largest_difference": worst, "relative_tolerance": RELATIVE, "absolute_tolerance": ABSOLUTE}


def _checked(portable: Portable, path: Path, to: str, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """What the written model does with some inputs, against the original. Raises ExportError."""
    try:
        got = _run_onnx(path, portable, inputs) if to == "onnx" else _run_torch(path, inputs)
    except Exception as error:  # each runtime raises its own kinds
        shapes = [tuple(x.shape) for x in inputs]
        raise ExportError(f"the exported model does not take {shapes}: {str(error).strip().splitlines()[0]}") from error
    return parity(portable.module, got, inputs)


def _portable(trained: Trained) -> Portable:
    make = getattr(trained.task, "portable", None)
    if make is None:
        raise BadRequest(f"task {trained.task.name!r} cannot be exported: it has no portable(model, fitted)")
    found: Portable | None = make(trained.model, trained.fitted)
    if found is None:
        raise BadRequest(f"this model of {trained.task.name!r} takes inputs that plain tensors cannot describe")
    if len(found.inputs) != len(found.example):
        raise ExportError(f"{trained.task.name}: {len(found.inputs)} inputs named, {len(found.example)} in the example")
    found.module.eval()
    return found


def _described(trained: Trained, portable: Portable, free_batch: bool, to: str) -> dict[str, Any]:
    def tensor(x: Tensor, name: str, meaning: str) -> dict[str, Any]:
        loose = {0} if free_batch else set()
        loose |= set(portable.free.get(name, ()))
        shape = [None if d in loose else n for d, n in enumerate(x.shape)]
        return {"name": name, "dtype": str(x.dtype).removeprefix("torch."), "shape": shape, "meaning": meaning}

    with torch.no_grad():
        outputs = _tuple(portable.module(*portable.example))
    return {
        "format": to,
        "task": trained.task.name,
        "run": trained.meta.get("run"),
        "weights_sha256": trained.meta["weights_sha256"],
        "inputs": [tensor(x, n, m) for x, (n, m) in zip(portable.example, portable.inputs.items(), strict=True)],
        "outputs": [tensor(y, n, m) for y, (n, m) in zip(outputs, portable.outputs.items(), strict=True)],
        "preprocessing": "inside the model: inputs are in the units of the training data",
        **({"about": dict(portable.about)} if portable.about else {}),
        "schema": trained.fitted,
        "config": trained.config.to_dict(),
        "versions": trained.meta.get("versions", {}),
    }


def export(run: Path, to: str, out: Path | None = None) -> dict[str, Any]:
    """Write ``model.onnx`` or ``model.pt2`` with ``description.json`` into ``out`` (default: ``RUN/export-FORMAT``).

    Nothing is written unless outputs agree with the original at another batch size than it was traced with. Raises
    BadRequest where the request cannot be met, ExportError where the model cannot be exported or differs.
    """
    if to not in FORMATS:
        raise unknown("format", to, FORMATS)
    if to == "onnx" and any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise BadRequest("ONNX needs packages that are not installed: pip install 'cambium[export]'")
    trained = load_run(run)
    portable = _portable(trained)
    folder = out or run / f"export-{to}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadRequest(f"{folder} holds something already: give another --out, or remove it")
    program, free_batch = _program(portable)
    inputs = _batch_of(portable.example, CHECKED_BATCH) if free_batch else portable.example
    if folder.exists():
        folder.rmdir()
    with atomic_folder(folder) as aside:
        path = aside / FORMATS[to]
        if to == "onnx":
            _write_onnx(program, portable, path)
        else:
            torch.export.save(program, path)
        checks = [_checked(portable, path, to, given) for given in (inputs, portable.other) if given]
        agreement = {"checked_batch": len(inputs[0]), "free_batch": free_batch, **checks[0]}
        if portable.other:
            agreement["other_size"] = {"shapes": [list(x.shape) for x in portable.other], **checks[1]}
        for name, text in portable.files.items():
            (aside / name).write_text(text, encoding="utf-8")
        described = _described(trained, portable, free_batch, to) | {"parity": agreement, "sha256": sha256_of(path)}
        write_json(aside / "description.json", finite(described))
    files = [str(folder / name) for name in (FORMATS[to], "description.json", *portable.files)]
    return {"task": trained.task.name, "run": str(run), "format": to, "files": files, "parity": agreement}
