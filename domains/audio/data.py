"""Recordings on disk: what is in a file, and any span of it as float32 samples.

WAV is read here (PCM of 8 to 32 bits, float of 32 and 64); FLAC, OGG and MP3 need the package soundfile.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from scipy.signal import resample_poly

from shared_backbones.errors import BadInput

MOST_DECODED = 300_000_000  # samples of an MP3 or OGG, which lies in memory whole: 1.2 GB
LOSSY = (".mp3", ".ogg")
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
Samples = Float32[np.ndarray, "T C"]
_TYPES = {(1, 8): "u1", (1, 16): "<i2", (1, 24): "u1", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}
_EXTENSIBLE = 0xFFFE


@dataclass(frozen=True)
class AudioFile:
    """A recording: where its samples are and what they mean."""

    path: Path
    rate: int  # samples per second
    channels: int
    length: int  # samples per channel
    form: str  # such as "wav int16"
    at: int = -1  # wav: byte of the first sample; -1: soundfile reads it
    code: tuple[int, int] = (0, 0)  # wav: format tag and bits
    begin: int = 0  # sample of the recording that counts as its first; with ``length``, a span of it

    @property
    def seconds(self) -> float:
        return self.length / self.rate

    @property
    def block(self) -> int:
        """Bytes of one sample of all channels of a WAV file."""
        return self.channels * self.code[1] // 8


def _refuse(path: Path, what: str, remedy: str) -> BadInput:
    return BadInput(f"{path}: {what}. {remedy}")


def open_audio(path: Path) -> AudioFile:
    """What a file holds, from its header. Raises BadInput for one that is missing, empty, truncated or no audio."""
    if not path.is_file():
        raise _refuse(path, "no such file", f"Give an audio file ({', '.join(SUFFIXES)}), a manifest or a folder")
    if path.stat().st_size == 0:
        raise _refuse(path, "the file is empty", "Copy it again, or leave it out")
    found = _open_wav(path) if path.suffix.lower() == ".wav" else _open_other(path)
    if found.length == 0:
        raise _refuse(path, "it holds no samples", "Leave it out")
    return found


def _open_wav(path: Path) -> AudioFile:
    with path.open("rb") as f:
        return wav_in(f, path, path.stat().st_size)


def wav_in(f: io.BufferedIOBase, path: Path, size: int) -> AudioFile:
    """What an open WAV file of ``size`` bytes holds, from its start. Raises BadInput."""
    head = f.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise _refuse(path, f"not a WAV file: it begins with {head[:12]!r}", "Convert it to WAV, or name it rightly")
    kind = None
    while len(chunk := f.read(8)) == 8:
        name, n = struct.unpack("<4sI", chunk)
        if name == b"fmt ":
            kind = f.read(n + n % 2)
        elif name == b"data":
            return _wav_of(path, kind, f.tell(), n, size)
        else:
            f.seek(n + n % 2, 1)
    raise _refuse(path, "truncated: its header names no samples", "Copy it again, or leave it out")


def _wav_of(path: Path, kind: bytes | None, at: int, n: int, size: int) -> AudioFile:
    if kind is None or len(kind) < 16:
        raise _refuse(path, "truncated: no format before its samples", "Copy it again, or leave it out")
    tag, channels, rate, _, block, bits = struct.unpack("<HHIIHH", kind[:16])
    if tag == _EXTENSIBLE and len(kind) >= 26:
        tag = struct.unpack("<H", kind[24:26])[0]
    if (tag, bits) not in _TYPES:
        raise _refuse(
            path,
            f"unknown WAV codec: format {tag} of {bits} bits",
            "Convert it to PCM of 8, 16, 24 or 32 bits, or to float",
        )
    if channels < 1 or rate < 1 or block != channels * bits // 8:
        raise _refuse(path, f"{channels} channels at {rate} Hz in blocks of {block} bytes", "Its header is damaged")
    if n > size - at and n < 0xFFFFFFF0:  # some writers of streams leave the largest number there
        raise _refuse(path, f"truncated: {n} bytes of samples announced, {size - at} are there", "Copy it again")
    name = f"{'float' if tag == 3 else 'int'}{bits}"
    return AudioFile(path, rate, channels, min(n, size - at) // block, f"wav {name}", at, (tag, bits))


def _open_other(path: Path) -> AudioFile:
    sf = _soundfile(path)
    try:
        info = sf.info(str(path))
    except (sf.LibsndfileError, RuntimeError) as error:
        raise _refuse(path, f"not audio that can be read: {error}", "Convert it to WAV or FLAC") from None
    if info.format == "OGG" and not _ogg_ends(path):
        raise _refuse(path, "truncated: its last page does not say that it is the last", "Copy it again")
    return AudioFile(path, info.samplerate, info.channels, info.frames, f"{info.format.lower()} {info.subtype.lower()}")


def _ogg_ends(path: Path) -> bool:
    """Whether the last page of an OGG file ends its stream; a page is at most 65307 bytes long."""
    with path.open("rb") as f:
        f.seek(max(0, path.stat().st_size - 65_307))
        tail = f.read()
    page = tail.rfind(b"OggS")
    return page >= 0 and len(tail) > page + 5 and bool(tail[page + 5] & 4)


def _soundfile(path: Path) -> Any:
    if path.suffix.lower() not in SUFFIXES:
        raise _refuse(path, f"unknown ending {path.suffix!r}", f"Readable are {', '.join(SUFFIXES)}")
    try:
        import soundfile
    except ImportError:
        raise _refuse(
            path, f"reading {path.suffix} needs the package soundfile", "pip install soundfile, or convert it to WAV"
        ) from None
    return soundfile


def read_samples(file: AudioFile, start: int = 0, stop: int | None = None) -> Samples:
    """Samples ``start`` .. ``stop`` of every channel within -1 .. 1. Raises BadInput where one is no number."""
    return Reader(file)(start, file.length if stop is None else min(stop, file.length))


class Reader:
    """Spans of one recording. MP3 and OGG cannot be entered at an exact sample: they are decoded whole and kept."""

    def __init__(self, file: AudioFile) -> None:
        self.file = file
        self._kept: Samples | None = None

    def __call__(self, start: int, stop: int) -> Samples:
        """As :func:`read_samples`."""
        file, first, last = self.file, start + self.file.begin, stop + self.file.begin
        if file.at >= 0:
            x = _read_wav(file, first, last)
        else:
            sf = _soundfile(file.path)
            try:
                lossy = file.path.suffix.lower() in LOSSY
                x = self._decoded(first, last) if lossy else _read_at(file, first, last)
            except (sf.LibsndfileError, RuntimeError) as error:
                raise _refuse(file.path, f"cannot be decoded: {error}", "Copy it again, or leave it out") from None
            if len(x) < last - first:
                raise _refuse(file.path, f"truncated: it ends at sample {first + len(x)}", "Copy it again")
        if not np.isfinite(x).all():
            bad = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
            raise _refuse(file.path, f"sample {start + bad} is no number (NaN or infinite)", "Repair or leave it out")
        return x

    def _decoded(self, first: int, last: int) -> Samples:
        if self._kept is None:
            total = self.file.begin + self.file.length
            if total * self.file.channels > MOST_DECODED:
                raise _refuse(
                    self.file.path,
                    f"{total / self.file.rate / 3600:.1f} hours of a form that is decoded whole",
                    "Convert it to WAV or FLAC",
                )
            self._kept = _read_at(self.file, 0, total)
        return self._kept[first:last]


def _read_at(file: AudioFile, first: int, last: int) -> Samples:
    return _soundfile(file.path).read(str(file.path), start=first, stop=last, dtype="float32", always_2d=True)[0]


def _read_wav(file: AudioFile, start: int, stop: int) -> Samples:
    with file.path.open("rb") as f:
        f.seek(file.at + start * file.block)
        return samples_of(f.read((stop - start) * file.block), file)


def samples_of(raw: bytes, file: AudioFile) -> Samples:
    """Bytes of whole samples of a WAV file, as float32 within -1 .. 1."""
    tag, bits = file.code
    x: Any = np.frombuffer(raw, _TYPES[file.code])
    if (tag, bits) == (1, 24):
        parts = x.reshape(-1, 3).astype(np.int32)
        x = (parts[:, 0] << 8 | parts[:, 1] << 16 | parts[:, 2] << 24) >> 8
    if tag == 3:
        scaled = x.astype(np.float32)
    elif bits == 8:
        scaled = (x.astype(np.float32) - 128) / 128
    else:
        scaled = (x / np.float64(2 ** (bits - 1))).astype(np.float32)
    return scaled.reshape(-1, file.channels)


def mono(x: Samples, channel: int | None, path: Path) -> Float32[np.ndarray, "T"]:
    """One channel, or the mean of all. Raises BadInput for a channel that is not there."""
    if channel is None:
        return x[:, 0] if x.shape[1] == 1 else x.mean(1, dtype=np.float32)
    if channel >= x.shape[1]:
        raise _refuse(path, f"channel {channel} is asked for, it has {x.shape[1]}", "Channels are counted from 0")
    return x[:, channel]


def resampled(x: Float32[np.ndarray, "T"], rate: int, to: int) -> Float32[np.ndarray, "t"]:
    """At another rate: scipy's polyphase filter (a Kaiser window of 20 zero crossings)."""
    if rate == to or not len(x):
        return x
    common = gcd(rate, to)
    return resample_poly(x, to // common, rate // common).astype(np.float32)


def read_mono(
    file: AudioFile, rate: int, channel: int | None, start: float = 0.0, end: float | None = None
) -> Float32[np.ndarray, "T"]:
    """A span in seconds, down-mixed, at ``rate``. Raises BadInput."""
    stop = None if end is None else round(end * file.rate)
    x = mono(read_samples(file, round(start * file.rate), stop), channel, file.path)
    return resampled(x, file.rate, rate)


def chunks(
    file: AudioFile, rate: int, channel: int | None, size: int, step: int
) -> Iterator[tuple[int, Float32[np.ndarray, "T"]]]:
    """(first sample, samples) of windows of ``size`` every ``step`` samples at ``rate``, the last one shorter.

    Each window is read by itself with a margin as wide as the resampling filter, so it equals the same span of the
    whole recording and memory does not grow with its length.
    """
    common = gcd(rate, file.rate)
    up, down = rate // common, file.rate // common
    margin = 0 if up == down else down * (2 + -(-10 * max(up, down) // (up * down)))
    total = -(-file.length * up // down)
    read = Reader(file)
    for first in range(0, max(1, total - (size - step)) if total > size else 1, step):
        begin = max(0, first * down // up // down * down - margin)
        until = min(file.length, (first + size) * down // up + margin + down)
        x = mono(read(begin, until), channel, file.path)
        offset = first - begin * up // down
        yield first, resampled(x, file.rate, rate)[offset : offset + min(size, total - first)]


def write_wav(path: Path, x: Any, rate: int) -> None:
    """Samples within -1 .. 1, (T,) or (T, channels), as PCM of 16 bits."""
    x = np.asarray(x, np.float64)
    x = x[:, None] if x.ndim == 1 else x
    raw = np.clip(np.round(x * 32768), -32768, 32767).astype("<i2").tobytes()
    channels = x.shape[1]
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(raw), b"WAVE", b"fmt ", 16, 1, channels, rate,
                       rate * channels * 2, channels * 2, 16, b"data", len(raw))  # fmt: skip
    path.write_bytes(head + raw)


def content_hash(x: Any) -> str:
    """Of the samples, not of the file: the same sound in another file is found."""
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()
