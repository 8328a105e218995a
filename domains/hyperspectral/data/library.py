"""Spectral libraries: ENVI .sli with its header, or a .csv of spectra."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from shared_backbones.errors import BadInput

from ..bands import parse_numbers, to_nanometres

_TYPES = {"1": "u1", "2": "i2", "3": "i4", "4": "f4", "5": "f8", "12": "u2", "13": "u4"}


@dataclass(frozen=True)
class Library:
    """Spectra as rows, in the library's own numbers divided by its scale where the header states one."""

    where: str
    spectra: Float[np.ndarray, "n bands"]
    wavelength_nm: tuple[float, ...]
    names: tuple[str, ...]

    def on(self, nm: tuple[float, ...] | list[float]) -> Float[np.ndarray, "n b"]:
        """The spectra at other wavelengths (nm), linearly between their own. Raises BadInput beyond their range."""
        low, high = min(self.wavelength_nm), max(self.wavelength_nm)
        step = (high - low) / max(1, len(self.wavelength_nm) - 1)
        if min(nm) < low - step or max(nm) > high + step:
            raise BadInput(
                f"{self.where}: covers {low:g} to {high:g} nm, the scene's bands {min(nm):g} to {max(nm):g} nm; choose "
                "bands inside with --set ranges_nm"
            )
        order = np.argsort(self.wavelength_nm)
        own = np.array(self.wavelength_nm)[order]
        return np.stack([np.interp(nm, own, s[order]) for s in self.spectra])


def read_library(path: str | Path) -> Library:
    """A library from ENVI (.sli or its .hdr) or .csv (first column wavelength, one spectrum per further column).

    Raises BadInput for a missing, damaged or unsuitable file.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        return _csv(path)
    data = path.with_suffix(".sli") if path.suffix.lower() == ".hdr" else path
    for file in (data, data.with_suffix(".hdr")):
        if not file.is_file():
            raise BadInput(f"{file}: no such file; an ENVI spectral library is a .sli with its .hdr beside it")
    return _envi(data, header_fields(data.with_suffix(".hdr")))


def header_fields(path: Path) -> dict[str, str]:
    """Fields of an ENVI header, names in lower case, braces taken off."""
    lines = path.read_text(errors="replace").splitlines()
    if not lines or lines[0].strip() != "ENVI":
        raise BadInput(f"{path}: not an ENVI header: its first line must be ENVI")
    found: dict[str, str] = {}
    name, held = "", ""
    for line in lines[1:]:
        if not name:
            key, equals, value = line.partition("=")
            if not equals:
                continue
            name, held = key.strip().lower(), value.strip()
        else:
            held += " " + line.strip()
        if not held.startswith("{") or held.rstrip().endswith("}"):
            found[name] = held.strip().removeprefix("{").removesuffix("}").strip()
            name = ""
    if name:
        raise BadInput(f"{path}: the field {name!r} has no closing brace")
    return found


def _envi(path: Path, fields: dict[str, str]) -> Library:
    try:
        samples, lines = int(fields["samples"]), int(fields["lines"])
        kind = np.dtype(_TYPES[fields["data type"]]).newbyteorder(">" if fields.get("byte order") == "1" else "<")
    except (KeyError, ValueError) as e:
        raise BadInput(f"{path}: its header lacks samples, lines or a data type that is read here: {e}") from e
    raw = path.read_bytes()[int(fields.get("header offset", "0") or 0) :]
    if len(raw) != samples * lines * kind.itemsize:
        raise BadInput(f"{path}: {len(raw)} bytes, its header says {lines} spectra of {samples} bands of {kind}")
    spectra = np.frombuffer(raw, kind).reshape(lines, samples).astype(np.float64)
    if "wavelength" not in fields:
        raise BadInput(f"{path}: its header states no wavelengths")
    values = parse_numbers(f"{path}: wavelength", fields["wavelength"])
    if len(values) != samples:
        raise BadInput(f"{path}: {samples} bands but {len(values)} wavelengths")
    nm = to_nanometres(f"{path}: wavelength", values, fields.get("wavelength units"))
    names = tuple(n.strip() for n in fields.get("spectra names", "").split(",") if n.strip())
    if len(names) != lines:
        names = tuple(f"spectrum {i + 1}" for i in range(lines))
    factor = float(fields.get("reflectance scale factor", "1") or 1)
    return _checked(Library(str(path), spectra / factor, nm, names))


def _csv(path: Path) -> Library:
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    with path.open(newline="") as f:
        rows = [row for row in csv.reader(f) if row]
    try:
        table = np.array([[float(v) for v in row] for row in rows[1:]])
    except ValueError as e:
        raise BadInput(f"{path}: after its heading a library holds numbers only: {e}") from e
    if table.ndim != 2 or table.shape[1] < 2 or table.shape[1] != len(rows[0]):
        raise BadInput(f"{path}: expected a heading and rows of a wavelength and one value per spectrum")
    nm = to_nanometres(f"{path}: wavelength", [float(v) for v in table[:, 0]], None)
    return _checked(Library(str(path), table[:, 1:].T.copy(), nm, tuple(n.strip() for n in rows[0][1:])))


def _checked(library: Library) -> Library:
    bad = ~np.isfinite(library.spectra).all(1) | ~(np.abs(library.spectra).max(1) > 0)
    if bad.any():
        raise BadInput(f"{library.where}: spectrum {library.names[int(bad.argmax())]!r} holds no finite values above 0")
    return library
