"""Data sets that are folders: files of several roles (image, label; before, after, change) that belong together.

Either a subfolder for each role with files of the same stem, or one folder with files ``<name>_<role>.<ending>``, or a
CSV list with a column for each role and paths that are relative to it. A ``split.csv`` in the folder (columns ``tile``
and ``part``, perhaps ``scene``), or these columns in the list, say which part each belongs to.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared_backbones.errors import BadInput, unknown

SPLIT = "split.csv"
PARTS = ("train", "val", "test")
_PART_OF = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2, "testing": 2}
_IGNORED = {".hdr", ".xml", ".json", ".csv", ".txt", ".md", ".aux"}
Roles = Mapping[str, Sequence[str]]  # role -> the names that folders and endings of it have; the first is shown


@dataclass(frozen=True)
class Member:
    """Files of one tile or pair by role. ``part``: 0, 1 or 2, None where nothing says. ``scene``: what it is cut of."""

    name: str
    files: Mapping[str, Path]
    part: int | None = None
    scene: str = ""


def members(source: Path, roles: Roles, needed: Sequence[str]) -> list[Member]:
    """The members of a folder or a list, by name. Raises BadInput where a needed file is missing, or none is there."""
    found = _of_list(source, roles, needed) if source.is_file() else _of_folder(source, roles, needed)
    if not found:
        raise BadInput(f"{source}: holds nothing; {_wanted(roles)}")
    return found


def _wanted(roles: Roles) -> str:
    shown = [names[0] for names in roles.values()]
    return (
        f"expected folders {', '.join(f'{n}/' for n in shown)} with files of the same names, files "
        f"{', '.join(f'NAME_{n}.tif' for n in shown)}, or a CSV list with the columns {', '.join(roles)}"
    )


def _scenes_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.suffix.lower() not in _IGNORED)


def _of_folder(folder: Path, roles: Roles, needed: Sequence[str]) -> list[Member]:
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder or list")
    by_name = {p.name.lower(): p for p in folder.iterdir() if p.is_dir()}
    own = {role: next((by_name[n] for n in names if n in by_name), None) for role, names in roles.items()}
    files: dict[str, dict[str, Path]] = {}
    if any(own.values()):
        for role in needed:
            if own[role] is None:
                raise BadInput(f"{folder}: no folder {roles[role][0]}/ in it; {_wanted(roles)}")
        for role, place in own.items():
            for path in [] if place is None else _scenes_in(place):
                if role in files.setdefault(path.stem, {}):
                    raise BadInput(f"{place}: {path.stem} is there twice, as {path.name} too; keep one")
                files[path.stem][role] = path
    else:
        for path in _scenes_in(folder):
            for role, names in roles.items():
                ending = next((n for n in names if path.stem.lower().endswith(f"_{n}")), None)
                if ending is not None and path.is_file():
                    files.setdefault(path.stem[: -len(ending) - 1], {})[role] = path
    for name, known in files.items():
        for role in needed:
            if role not in known:
                there = next(iter(known.values()))
                raise BadInput(f"{there}: has no {roles[role][0]} of the same name ({name}) in {folder}")
    return with_parts(folder, [Member(name, known) for name, known in sorted(files.items())])


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [(i + 2, {k.strip(): (v or "").strip() for k, v in row.items() if k}) for i, row in
                    enumerate(csv.DictReader(file))]  # fmt: skip
    except (UnicodeDecodeError, csv.Error) as e:
        raise BadInput(f"{path}: not a CSV table in UTF-8: {e}") from e


def _part(path: Path, line: int, text: str) -> int:
    if text.lower() not in _PART_OF:
        raise BadInput(f"{path}: row {line}: {unknown('part', text, PARTS)}")
    return _PART_OF[text.lower()]


def with_parts(folder: Path, found: list[Member]) -> list[Member]:
    """Members with the parts that ``split.csv`` of their folder names, where there is one. Raises BadInput."""
    path = folder / SPLIT
    if not path.is_file():
        return found
    rows, at = _rows(path), {m.name: m for m in found}
    if not rows or not {"tile", "part"} <= set(rows[0][1]):
        raise BadInput(f"{path}: must have the columns tile and part, has {', '.join(rows[0][1]) if rows else 'none'}")
    said: dict[str, Member] = {}
    for line, row in rows:
        name = row["tile"] if row["tile"] in at else Path(row["tile"]).stem
        if name not in at:
            raise BadInput(f"{path}: row {line}: {unknown('tile', row['tile'], at)}")
        if name in said:
            raise BadInput(f"{path}: row {line}: tile {name} is named twice; a tile is never divided")
        said[name] = Member(name, at[name].files, _part(path, line, row["part"]), row.get("scene", ""))
    return [said[m.name] for m in found if m.name in said]  # what the table leaves out is left out


def _of_list(path: Path, roles: Roles, needed: Sequence[str]) -> list[Member]:
    found, names = [], set()
    for line, row in _rows(path):
        lacking = [role for role in needed if not row.get(role)]
        if lacking:
            raise BadInput(f"{path}: row {line}: no {lacking[0]} file; the columns are {', '.join(roles)}")
        files = {role: path.parent / row[role] for role in roles if row.get(role)}
        for role, file in files.items():
            if not file.exists():
                raise BadInput(f"{path}: row {line}, column {role}: {file}: no such file")
        name = row.get("name") or files[needed[-1]].stem
        if name in names:
            raise BadInput(f"{path}: row {line}: a second {name}; give each row a name of its own (column name)")
        names.add(name)
        part = _part(path, line, row["part"]) if row.get("part") else None
        found.append(Member(name, files, part, row.get("scene", "")))
    if len({m.part is None for m in found}) > 1:
        raise BadInput(f"{path}: some rows name a part and others none; name it in all or in none")
    return found
