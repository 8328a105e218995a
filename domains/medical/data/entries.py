"""What there is to read: folders with a folder per class, and manifests (CSV) with one image a row."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from shared_backbones.errors import BadInput

MEANINGS = {
    "image": ("image", "path", "file", "filename", "file_name", "image_path", "img"),
    "mask": ("mask", "segmentation", "seg", "mask_path"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "pid", "case", "case_id"),
    "site": ("site", "hospital", "centre", "center", "scanner"),
    "fold": ("fold",),
    "split": ("split", "part", "subset"),
}  # column names by meaning; all others are labels
_MEANING = {name: meaning for meaning, names in MEANINGS.items() for name in names}
NAMED = re.compile(r"(?:^|[^a-z])((?:patient|pat|subject|subj|sub|case|pid|person)[-_ ]?\d+)", re.IGNORECASE)
COUNTED = re.compile(r"^(.+?)[-_]\w{1,4}$")  # one name, and a number or a letter for each of its images


@dataclass(frozen=True)
class Entry:
    """One image and what is said about it. Empty: not said."""

    path: Path
    where: str  # for messages: the manifest and its row, or the path
    labels: Mapping[str, str] = field(default_factory=dict)  # column -> cell
    patient: str = ""
    site: str = ""
    fold: str = ""
    split: str = ""
    mask: Path | None = None


def entries_of(source: Path, endings: Sequence[str], label_columns: Sequence[str] = ()) -> list[Entry]:
    """The images of a manifest, a folder or one file. Raises BadInput."""
    if source.is_dir():
        return _folder(source, endings)
    if source.suffix.lower() == ".csv":
        return _manifest(source, label_columns)
    if source.is_file():
        return [Entry(source, str(source))]
    raise BadInput(
        f"{source}: no such file or folder. Give a folder with a folder per class, a manifest (.csv), a MedMNIST "
        f"archive (.npz) or an image ({', '.join(endings)})"
    )


def _folder(folder: Path, endings: Sequence[str]) -> list[Entry]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in endings)
    below = [p.relative_to(folder) for p in files]
    kept = [(p, r) for p, r in zip(files, below, strict=True) if not any(part.startswith(".") for part in r.parts)]
    if not kept:
        raise BadInput(f"{folder}: no image ({', '.join(endings)}) in this folder or below it")
    parts = {r.parts[0].lower() for _, r in kept}
    given = bool(parts & {"train", "test"}) and parts <= {"train", "val", "valid", "validation", "test"}
    found = []
    for path, inside in kept:
        folders = inside.parts[:-1]
        split, folders = (folders[0].lower(), folders[1:]) if given else ("", folders)
        found.append(Entry(path, str(path), {"class": folders[0]} if folders else {}, split=split))
    return found


def _manifest(path: Path, label_columns: Sequence[str]) -> list[Entry]:
    if not path.is_file():
        raise BadInput(f"{path}: no such manifest")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not text in UTF-8 (byte {error.start}); write the manifest in UTF-8") from None
    reader = csv.DictReader(text.splitlines(), strict=True)
    columns = [c.strip() for c in reader.fieldnames or ()]
    meaning = _columns(path, columns, label_columns)
    found = []
    try:
        for row in reader:
            where = f"{path}, row {reader.line_num}"
            if None in row or None in row.values():
                raise BadInput(f"{where}: another number of cells than the header has ({len(columns)})")
            cells = {name: str(cell).strip() for name, cell in zip(columns, row.values(), strict=True)}
            found.append(_entry(path, where, cells, meaning))
    except csv.Error as error:
        raise BadInput(f"{path}, row {reader.line_num}: {error}") from None
    if not found:
        raise BadInput(f"{path}: the manifest holds no rows")
    return found


def _columns(path: Path, columns: Sequence[str], label_columns: Sequence[str]) -> dict[str, str]:
    """Column -> its meaning ("label" for the rest). Raises BadInput."""
    unknown = [c for c in label_columns if c not in columns]
    if unknown:
        raise BadInput(f"{path}: label_columns names {', '.join(unknown)}; the columns are {', '.join(columns)}")
    meaning: dict[str, str] = {}
    for column in columns:
        of = "label" if column in label_columns else _MEANING.get(column.lower(), "" if label_columns else "label")
        if of not in ("", "label") and of in meaning.values():
            raise BadInput(f"{path}: two columns say {of}: {column} and another. Rename one, or name label_columns")
        meaning[column] = of
    if "image" not in meaning.values():
        raise BadInput(
            f"{path}: no column with the images' paths ({', '.join(MEANINGS['image'])}), got {', '.join(columns)}"
        )
    return meaning


def _entry(path: Path, where: str, cells: Mapping[str, str], meaning: Mapping[str, str]) -> Entry:
    said = {of: cells[c] for c, of in meaning.items() if of not in ("", "label")}
    if not said["image"]:
        raise BadInput(f"{where}: no image path")
    labels = {c: cells[c] for c, of in meaning.items() if of == "label"}
    image, mask = path.parent / said.pop("image"), said.pop("mask", "")
    return Entry(image, where, labels, mask=path.parent / mask if mask else None, **said)


def with_patients(entries: Sequence[Entry], pattern: str | None, base: Path) -> list[Entry]:
    """Entries with the patient that their paths name. Raises BadInput where a path does not match."""
    if pattern is None:
        return list(entries)
    found = []
    for entry in entries:
        text = str(entry.path.relative_to(base)) if entry.path.is_relative_to(base) else str(entry.path)
        match = re.search(pattern, text)
        if match is None or not match["patient"]:
            raise BadInput(f"{entry.where}: its path does not match patient_pattern {pattern!r}")
        found.append(replace(entry, patient=match["patient"]))
    return found


def suspected_patients(names: Sequence[str]) -> dict[str, int]:
    """Names of patients that files seem to be called by -> images; empty where names say nothing of the kind.

    names: paths below the source. Half of the files must look so, and some patient must have two of them.
    """
    for guess in (_by_word, _by_count):
        found: dict[str, int] = {}
        for name in names:
            if who := guess(name):
                found[who] = found.get(who, 0) + 1
        enough = sum(found.values()) >= max(4, len(names) / 2)
        if enough and len(found) >= 3 and sum(found.values()) >= 1.5 * len(found):
            return found
    return {}


def _by_word(name: str) -> str:
    match = NAMED.search(name)
    return match[1].lower() if match else ""


def _by_count(name: str) -> str:
    match = COUNTED.match(Path(name).stem)
    return match[1].lower() if match and any(c.isdigit() for c in match[1]) else ""
