"""Recordings of noise that training clips are mixed with: part of the data, so in its digest and its card."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ..task import Manifest
from .clips import Clips, read_all, refuse_silence
from .config import AudioOptions
from .data import content_hash
from .source import found_entries


def with_noises(clips: Clips, options: AudioOptions) -> Clips:
    """Clips with the recordings of ``augment.noise`` beside them, at their rate. Raises BadInput as for clips."""
    source = options.augment.noise
    if source is None:
        return clips
    rate, read = read_all(found_entries(source, options)[0], options.model_copy(update={"rate": clips.rate}), source)
    read = refuse_silence(read, options.silence, source)
    said = "".join(content_hash(r.wave) for r in read)
    old = clips.manifest
    facts = {**old.facts, "noise": {
        "source": source, "recordings": len(read), "seconds": round(sum(len(r.wave) for r in read) / rate, 1),
    }}  # fmt: skip
    sha256 = hashlib.sha256(f"{old.sha256}{said}".encode()).hexdigest()
    manifest = Manifest(old.source, sha256, old.licence, facts)
    return replace(clips, manifest=manifest, noises=tuple(r.wave for r in read))
