"""Physiological signals on disk: WFDB records with their beats, and waveforms in DICOM. Any span, in bounded memory.

What a header says of the patient (age, sex, medication, names) is not read on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from shared_backbones.errors import BadInput

from .dicom_file import DAMAGE, discreet, open_file
from .images import DICOMS
from .volume import missing_extra

# Marks of MIT-BIH beats by the classes of ANSI/AAMI EC57: normal, supraventricular, ventricular, fusion, other
AAMI = ("N", "S", "V", "F", "Q")
BEATS = {
    **dict.fromkeys("NLRej", "N"), **dict.fromkeys("AaJS", "S"), **dict.fromkeys("VE", "V"), "F": "F",
    **dict.fromkeys(("/", "f", "Q"), "Q"),
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One recording, from its header. leads: names; source: the path without an ending (WFDB), or the file (DICOM)."""

    source: Path
    rate: float  # samples per second
    length: int  # samples of each lead
    leads: tuple[str, ...]
    form: str  # "WFDB" or "DICOM"
    group: int = 0  # DICOM: which multiplex group

    @property
    def name(self) -> str:
        return self.source.name


def _wfdb() -> Any:
    try:
        import wfdb
    except ImportError:
        raise missing_extra("wfdb") from None
    return wfdb


def records_of(source: Path) -> list[Record]:
    """The records of a folder (every .hea in it), or the one that a path names, with or without its ending.

    Raises BadInput for one that is missing, damaged, or cut.
    """
    if source.is_dir():
        heads = sorted(source.glob("*.hea"))
        if not heads:
            raise BadInput(f"{source}: no WFDB record (.hea) in this folder")
        return [open_record(head) for head in heads]
    return [open_record(source)]


def open_record(path: Path) -> Record:
    """One record from its header. Raises BadInput."""
    if path.suffix.lower() in DICOMS:
        return _open_waveform(path)
    base = path.with_suffix("") if path.suffix in (".hea", ".dat", ".atr") else path
    head = base.with_name(base.name + ".hea")
    if not head.is_file():
        raise BadInput(
            f"{path}: no such record ({head.name} is not there). Give a WFDB record, a folder of them, or a DICOM file"
        )
    try:
        found = _wfdb().rdheader(str(base))
    except DAMAGE as error:
        raise BadInput(f"{head}: not a WFDB header that can be read ({type(error).__name__})") from None
    if not found.n_sig or not found.fs or found.sig_len == 0:
        raise BadInput(f"{head}: names no signal, no rate or no samples")
    for name in {n for n in found.file_name or () if n}:
        if not (base.parent / name).is_file():
            raise BadInput(f"{head}: its samples are not there ({name})")
    record = Record(base, float(found.fs), int(found.sig_len or 0), tuple(map(str, found.sig_name)), "WFDB")
    read_span(record, 0, record.length - 1, record.length)  # a file that was cut lacks its end
    return record


def _open_waveform(path: Path) -> Record:
    found = open_file(path)
    if "WaveformSequence" not in found:
        raise BadInput(f"{path}: holds no waveform")
    group = found.WaveformSequence[0]
    leads = []
    for i, channel in enumerate(group.ChannelDefinitionSequence):
        codes = channel.get("ChannelSourceSequence")
        leads.append(str(codes[0].get("CodeMeaning", i)) if codes else str(i))
    return Record(path, float(group.SamplingFrequency), int(group.NumberOfWaveformSamples), tuple(leads), "DICOM")


def read_span(record: Record, lead: int, start: int, stop: int) -> Float32[np.ndarray, "T"]:
    """Samples start .. stop of one lead in its unit (mV as a rule); NaN where the record has a gap. Raises BadInput."""
    if record.form == "DICOM":
        return _waveform(record)[start:stop, lead].astype(np.float32)
    try:
        found = _wfdb().rdrecord(str(record.source), sampfrom=start, sampto=stop, channels=[lead], physical=True)
        x = np.asarray(found.p_signal[:, 0], np.float32)
    except DAMAGE as error:
        raise BadInput(
            f"{record.source}: its samples are damaged or cut ({type(error).__name__}). Copy it again"
        ) from None
    if len(x) != stop - start:
        raise BadInput(f"{record.source}: cut, sample {start + len(x)} of {record.length} is the last. Copy it again")
    return x


def _waveform(record: Record) -> Any:
    found = open_file(record.source)
    try:
        with discreet():
            return found.waveform_array(record.group)
    except DAMAGE as error:
        raise BadInput(f"{record.source}: its waveform cannot be decoded ({type(error).__name__})") from None


def read_rhythms(record: Record, ending: str = "atr") -> tuple[tuple[float, float, str], ...]:
    """Spans (start in s, end in s, name) of the annotated rhythms ("N", "AFIB", ...), each until the next or the end.

    Nothing is known before the first mark. Raises BadInput for annotations that cannot be read.
    """
    path = record.source.with_name(f"{record.source.name}.{ending}")
    if record.form != "WFDB" or not path.is_file():
        return ()
    found = _annotations(record, path, ending)
    marks = []
    for sample, mark, note in zip(found.sample, found.symbol, found.aux_note, strict=True):
        name = str(note).strip("\x00 ")
        if mark == "+" and name.startswith("("):
            marks.append((int(sample) / record.rate, name[1:]))
    ends = [*(at for at, _ in marks[1:]), record.length / record.rate]
    return tuple((a, b, name) for (a, name), b in zip(marks, ends, strict=True) if b > a)


def _annotations(record: Record, path: Path, ending: str) -> Any:
    try:
        return _wfdb().rdann(str(record.source), ending)
    except DAMAGE as error:
        raise BadInput(f"{path}: annotations that cannot be read ({type(error).__name__}). Copy it again") from None


def read_beats(record: Record, ending: str = "atr") -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
    """(sample of every annotated beat, its AAMI class), in order of time; other annotations are left out.

    Raises BadInput where there is no annotation.
    """
    path = record.source.with_name(f"{record.source.name}.{ending}")
    if record.form != "WFDB" or not path.is_file():
        raise BadInput(f"{record.source}: no annotated beats ({path.name} is not there)")
    found = _annotations(record, path, ending)
    rows = sorted((int(s), BEATS[mark]) for s, mark in zip(found.sample, found.symbol, strict=True) if mark in BEATS)
    if rows and (rows[0][0] < 0 or rows[-1][0] >= record.length):
        raise BadInput(f"{path}: a beat at sample {rows[-1][0]} of {record.length}: annotations of another record?")
    return np.array([s for s, _ in rows], np.int64), tuple(c for _, c in rows)
