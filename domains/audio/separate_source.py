"""From a source to what can be separated: single speakers that are mixed, or given mixtures. And their splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from shared_backbones.errors import BadInput

from ..task import PARTS, Audit, Manifest, Part, Split
from .clips import Clips, Read, clips_of, poisoned, read_all, refuse_silence
from .data import content_hash, open_audio, read_mono
from .manifests import MANIFESTS, manifest_rows
from .mixtures import Given, GivenItems, MadeItems, Maker, digest, overlap_share
from .separate_config import SeparateOptions
from .simulate import RATE, simulated
from .source import SIMULATED, found_entries
from .splits import audit_split, make_split

NUMBER = {"train": 0, "val": 1, "test": 2}  # of a part, for seeds
UNEQUAL = 1  # samples by which a source may be longer or shorter than its mixture


@dataclass(frozen=True)
class Talk:
    """Single speakers (``clips``), or mixtures that came with their sources (``given``)."""

    manifest: Manifest
    rate: int
    clips: Clips | None
    given: tuple[Given, ...] = ()


def mixture_rows(source: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows of a manifest whose column ``mixture`` names mixtures; none where it is no such manifest."""
    path = Path(source)
    if not source.lower().endswith(MANIFESTS) or not path.is_file():
        return []
    rows = manifest_rows(path)
    return rows if any(k.strip().lower() == "mixture" for k in rows[0][1]) else []


def open_talk(source: str, options: SeparateOptions) -> Talk:
    """Checked recordings. Raises BadInput."""
    if rows := mixture_rows(source):
        return _given(source, rows, options)
    if source == SIMULATED:
        settings = {"speakers": 9, **options.simulated}
        read, rate, licence = [Read(*row) for row in simulated(settings)], RATE, "simulated, free of rights"
    else:
        entries, licence = found_entries(source, options)
        silent = [e for e in entries if not (e.group or e.label)]
        if silent:
            raise BadInput(
                f"{silent[0].where}: no speaker, as {len(silent)} of {len(entries)} clips of {source}. Give a folder "
                "per speaker, the column speaker of a manifest, name_pattern, or a manifest of mixtures with the "
                "columns mixture, source_1, source_2"
            )
        rate, read = read_all(entries, options, source)
        read = refuse_silence(read, options.silence, source)
    named = [replace(r, entry=replace(r.entry, speaker=r.entry.group or r.entry.label)) for r in read]
    named = [replace(r, entry=replace(r.entry, label=r.entry.speaker)) for r in named]
    clips = clips_of(named, rate, source, licence)
    if len(clips.classes) < options.speakers:
        raise BadInput(
            f"{source}: clips of {len(clips.classes)} speaker(s) ({', '.join(clips.classes)}), and a mixture takes "
            f"{options.speakers}. Add speakers, or name them by folder or in the column speaker"
        )
    return Talk(clips.manifest, rate, clips)


def _given(source: str, rows: list[tuple[str, Mapping[str, Any]]], options: SeparateOptions) -> Talk:
    columns = [f"source_{k + 1}" for k in range(options.speakers)]
    folder, paths = Path(source).parent, []
    for where, cells in rows:
        row = {k.strip().lower(): str(v).strip() for k, v in cells.items() if v is not None}
        missing = [c for c in ("mixture", *columns) if not row.get(c)]
        if missing:
            raise BadInput(
                f"{where}: no {', '.join(missing)}. A manifest of mixtures of {options.speakers} speakers has the "
                f"columns mixture, {', '.join(columns)} and, where known, split and group"
            )
        paths.append((where, row, [open_audio(folder / row[c]) for c in ("mixture", *columns)]))
    files = [f for _, _, found in paths for f in found]
    lowest = min(files, key=lambda f: f.rate)
    rate = options.rate or lowest.rate
    if lowest.rate < rate:
        raise BadInput(f"{lowest.path}: {lowest.rate} samples per second, and {rate} are asked for. Set rate lower")
    found = [_one(where, row, own, rate, options.channel) for where, row, own in paths]
    said = "".join(f"{content_hash(g.wave)}{content_hash(g.sources)}{g.split}{g.group}\n" for g in found)
    facts = {
        "mixtures": len(found), "speakers_in_each": options.speakers, "rate": rate,
        "hours": round(sum(len(g.wave) for g in found) / rate / 3600, 4),
        "parts": dict(Counter(g.split or "(none)" for g in found)),
    }  # fmt: skip
    sha256 = hashlib.sha256(f"{rate}\n{said}".encode()).hexdigest()
    return Talk(Manifest(source, sha256, facts=facts), rate, None, tuple(found))


def _one(where: str, row: Mapping[str, str], files: list[Any], rate: int, channel: int | None) -> Given:
    waves = [read_mono(f, rate, channel) for f in files]
    n = len(waves[0])
    for file, wave in zip(files, waves, strict=True):
        if abs(len(wave) - n) > UNEQUAL:
            raise BadInput(
                f"{where}: {file.path.name} lasts {len(wave) / rate:.3f} s and the mixture {n / rate:.3f} s; a source "
                "is as long as its mixture, with silence where it is silent"
            )
    n = min(map(len, waves))
    if not np.abs(waves[0]).max(initial=0.0):
        raise BadInput(f"{where}: the mixture {files[0].path.name} is all silence")
    sources = np.stack([w[:n] for w in waves[1:]])
    if not np.abs(sources).max(initial=0.0):
        raise BadInput(f"{where}: every source is all silence")
    return Given(row["mixture"], waves[0][:n], sources, row.get("split", ""), row.get("group", ""))


# ---------------------------------------------------------------------------------------------- parts


def split_talk(data: Talk, options: SeparateOptions) -> Split:
    """Clips or mixtures of each part; speakers stay whole wherever the protocol allows. Raises BadInput."""
    if data.clips is None:
        split = make_split(_standing(data), options.split)
    else:
        protocol = options.split.protocol
        if protocol == "auto":
            named = options.split.test or options.split.val or not any(data.clips.parts)
            protocol = "groups" if named else "given"
        asked = options.split.model_copy(update={"protocol": protocol})
        split = _by_speaker(data, options) if protocol == "groups" else make_split(data.clips, asked)
        for part in PARTS:
            heard = {data.clips.groups[i] for i in split.parts[part]}
            if len(heard) < (1 if part == "train" else options.speakers):
                raise BadInput(
                    f"{data.manifest.source}: the {part} part has {len(heard)} speaker(s) ({split.protocol}), and a "
                    f"mixture takes {options.speakers}. Set split.test and split.val otherwise"
                )
    items = items_of(data, split, options, "test")
    how = (
        f"; {len(items)} test mixtures of {options.speakers} speakers, {options.mix.seconds:g} s, within +- "
        f"{options.mix.level_db:g} dB, seed {options.mix.seed}" if data.clips is not None else ""
    )  # fmt: skip
    facts = {**split.facts, "test_mixtures_sha256": digest(items), "test_overlap": round(overlap_share(items), 3)}
    return Split(split.protocol + how, split.parts, facts)


def _standing(data: Talk) -> Clips:
    """Given mixtures as clips, so that the splits of clips apply."""
    n = len(data.given)
    waves, hashes = tuple(g.wave for g in data.given), tuple(content_hash(g.wave) for g in data.given)
    names, groups, parts = zip(*((g.name, g.group, g.split) for g in data.given), strict=True)
    return Clips(data.manifest, data.rate, waves, names, np.zeros(n, np.int64), ("mixture",), (None,) * n, groups,
                 parts, hashes)  # fmt: skip


def _by_speaker(data: Talk, options: SeparateOptions) -> Split:
    """Whole speakers to test, and to validate where there are enough; else held-out clips of the training speakers."""
    clips, wanted, least = data.clips, options.split, options.speakers
    assert clips is not None
    names = sorted(set(clips.groups))
    for name in (*wanted.test, *wanted.val):
        if name not in names:
            raise BadInput(f"{data.manifest.source}: no speaker {name!r} to leave out; there are {', '.join(names)}")
    if both := set(wanted.test) & set(wanted.val):
        raise BadInput(f"split.test and split.val both name {', '.join(sorted(both))}")
    random = np.random.default_rng(wanted.seed)
    free = [str(n) for n in random.permutation([n for n in names if n not in (*wanted.test, *wanted.val)])]
    test, val = list(wanted.test), list(wanted.val)
    if not test:
        take = max(least, round(wanted.fractions[2] * len(names)))
        test, free = free[:take], free[take:]
    if not val and len(free) >= 2 * least:
        take = max(least, round(wanted.fractions[1] * len(names)))
        val, free = free[:take], free[take:]
    if not free:
        raise BadInput(
            f"{data.manifest.source}: {len(names)} speakers leave none to train on; set split.test otherwise"
        )
    groups = np.array(clips.groups)
    at: dict[str, Int64[np.ndarray, "n"]] = {
        p: np.flatnonzero(np.isin(groups, who)) for p, who in (("train", free), ("val", val), ("test", test))
    }
    said = f"validation: {', '.join(sorted(val))}"
    if not val:
        rows = random.permutation(at["train"])
        cut = max(1, round(0.15 * len(rows)))
        at["val"], at["train"] = np.sort(rows[:cut]), np.sort(rows[cut:])
        said = "validation: 15 % of the clips of the training speakers, at other pitches"
    heard = {p: {"clips": len(r), "speakers": sorted(set(groups[r]))} for p, r in at.items()}
    protocol = f"speakers stay whole, test: {', '.join(sorted(test))}; {said}; seed {wanted.seed}"
    return Split(protocol, at, heard)


def items_of(data: Talk, split: Split, options: SeparateOptions, part: Part) -> MadeItems | GivenItems:
    """Mixtures of a part: fresh ones to train on, else always the same."""
    rows, mix = split.parts[part], options.mix
    if data.clips is None:
        crop = round(mix.seconds * data.rate) if part == "train" else None
        return GivenItems([data.given[int(i)] for i in rows], crop)
    groups = data.clips.groups
    known = {groups[i] for i in split.parts["train"]}
    varied = part == "train" or (part == "val" and {groups[i] for i in rows} <= known)
    maker = Maker(data.clips, rows, options.speakers, mix, varied)
    count = {"train": mix.train, "val": mix.val, "test": mix.test}[part]
    return MadeItems(maker, count, None if part == "train" else (mix.seed, NUMBER[part]))


def audit_talk(data: Talk, split: Split) -> list[Audit]:
    """Would show that the test part is known from training."""
    return audit_split(_standing(data) if data.clips is None else data.clips, split)


def poison_talk(data: Talk, split: Split) -> Talk:
    """Noise in place of everything of the test part."""
    rows = split.parts["test"]
    if data.clips is not None:
        return replace(data, clips=poisoned(data.clips, rows))
    random, given = np.random.default_rng(0), list(data.given)
    for i in rows:
        noise = random.uniform(-1, 1, given[i].sources.shape).astype(np.float32)
        given[i] = replace(given[i], wave=noise.sum(0), sources=noise)
    return replace(data, given=tuple(given))
