"""Waveforms -> frames in torch: batched, masked, differentiable; the numbers are those of librosa.

Shapes: B clips, T samples, N frames, F features of a frame, M mel bands.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared_backbones.errors import BadRequest

from .config import FrontEndOptions

LEVEL = 0.1  # root mean square that clips are brought to
FLOOR = 1e-10  # of a band's power, before the logarithm


def mel_of(hz: Float[np.ndarray, "*n"] | float, scale: str) -> Float[np.ndarray, "*n"]:
    """Hz -> mel. slaney: linear to 1000 Hz, logarithmic above; htk: 2595 log10(1 + f / 700)."""
    hz = np.asarray(hz, np.float64)
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    return np.where(hz < 1000.0, hz * 3 / 200, 15.0 + 27.0 * np.log(np.maximum(hz, 1000.0) / 1000.0) / math.log(6.4))


def hz_of(mel: Float[np.ndarray, "*n"], scale: str) -> Float[np.ndarray, "*n"]:
    """The inverse of :func:`mel_of`."""
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel < 15.0, mel * 200 / 3, 1000.0 * np.exp((np.maximum(mel, 15.0) - 15.0) * math.log(6.4) / 27.0))


def mel_filters(rate: int, fft: int, options: FrontEndOptions) -> Float[np.ndarray, "M K"]:
    """Triangles over the K = fft / 2 + 1 frequencies, corners evenly apart in mel.

    Raises BadRequest where a band lies between two frequencies and would hear nothing.
    """
    high = options.high_hz or rate / 2
    if not options.low_hz < high <= rate / 2:
        raise BadRequest(
            f"front_end: bands must lie within 0 .. {rate / 2:g} Hz (half the rate), got {options.low_hz:g} .. {high:g}"
        )
    ends = mel_of(np.array([options.low_hz, high]), options.scale)
    corners = hz_of(np.linspace(ends[0], ends[1], options.mels + 2), options.scale)
    at = np.linspace(0.0, rate / 2, fft // 2 + 1)
    width = np.diff(corners)
    up = (at - corners[:-2, None]) / width[:-1, None]
    down = (corners[2:, None] - at) / width[1:, None]
    filters = np.maximum(0.0, np.minimum(up, down))
    if options.norm == "slaney":
        filters *= (2.0 / (corners[2:] - corners[:-2]))[:, None]
    empty = np.flatnonzero(filters.max(1) == 0)
    if len(empty):
        raise BadRequest(
            f"front_end: {len(empty)} of {options.mels} mel bands lie between two frequencies of a transform of {fft} "
            f"samples (the first around {corners[empty[0] + 1]:.0f} Hz). Take fewer mels or a longer window_ms"
        )
    return filters


def cosines(coefficients: int, bands: int) -> Float[np.ndarray, "F M"]:
    """The orthonormal cosine transform of type II."""
    k, m = np.arange(coefficients)[:, None], np.arange(bands)
    table = np.sqrt(2.0 / bands) * np.cos(math.pi * k * (2 * m + 1) / (2 * bands))
    table[0] /= math.sqrt(2.0)
    return table


class FrontEnd(nn.Module):
    """Clips of any lengths, side by side -> frames and which of them are real.

    Frame n is centred at sample n * hop and zeros stand outside a clip, so a clip of L samples has 1 + L // hop
    frames whatever stands beside it or behind it. Transforms are as long as the next power of two over the window.
    """

    window: Tensor
    filters: Tensor
    basis: Tensor
    quiet: Tensor

    def __init__(self, rate: int, options: FrontEndOptions) -> None:
        super().__init__()
        self.rate, self.options = rate, options
        self.hop = max(1, round(rate * options.hop_ms / 1000))
        self.width = max(2, round(rate * options.window_ms / 1000))
        self.fft = 2 ** math.ceil(math.log2(self.width))
        self.register_buffer("window", torch.hann_window(self.width), persistent=False)
        filters = torch.from_numpy(mel_filters(rate, self.fft, options)).float()
        self.register_buffer("filters", filters, persistent=False)
        quiet = 0.0 if options.floor_db is None else LEVEL**2 * 10 ** (-options.floor_db / 10)
        # what white noise of that power gives in every band: its expectation, not a draw
        self.register_buffer("quiet", quiet * (self.window**2).sum() * filters.sum(1), persistent=False)
        basis = torch.from_numpy(cosines(options.coefficients, options.mels)).float()
        self.register_buffer("basis", basis, persistent=False)

    @property
    def centres(self) -> Float[Tensor, "M"]:
        """Where the mel bands stand (Hz)."""
        hz = torch.arange(len(self.filters.mT), device=self.filters.device) * self.rate / self.fft
        return (self.filters @ hz) / self.filters.sum(1)

    @property
    def features(self) -> int:
        """F."""
        return self.options.coefficients if self.options.kind == "mfcc" else self.options.mels

    def levelled(self, wave: Float[Tensor, "B T"], real: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Every clip at root mean square ``LEVEL`` over its ``real`` samples; one without sound stays."""
        power = (wave * wave).masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp_min(1)
        return wave * torch.where(power > 1e-12, LEVEL / power.clamp_min(1e-12).sqrt(), 1.0)[:, None]

    def forward(
        self,
        wave: Float[Tensor, "B T"],
        length: Int[Tensor, "B"],
        hop: int | None = None,
        heard: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B N F"], Bool[Tensor, "B N"]]:
        """Samples of -1 .. 1 and how many of each clip are its own -> frames, and which are real.

        ``hop``: another distance of frames in samples, which is another tempo. ``heard``: the samples that the level of
        a clip is taken from, all of its own where none are named.
        """
        hop = self.hop if hop is None else hop
        real = torch.arange(wave.shape[1], device=wave.device) < length[:, None]
        wave = wave.masked_fill(~real, 0.0)
        if self.options.level == "rms":
            wave = self.levelled(wave, real if heard is None else real & heard)
        spectrum = torch.stft(
            wave, self.fft, hop, self.width, self.window, center=True, pad_mode="constant", return_complex=True
        )
        x = (spectrum.real**2 + spectrum.imag**2).mT @ self.filters.mT
        x = x + self.quiet
        if self.options.kind != "mel":
            log = torch.log10 if self.options.log == "db" else torch.log
            x = log(x.clamp_min(FLOOR)) * (10.0 if self.options.log == "db" else 1.0)
        if self.options.kind == "mfcc":
            x = x @ self.basis.mT
        mask = torch.arange(x.shape[1], device=wave.device) <= (length // hop)[:, None]
        return x.masked_fill(~mask[..., None], 0.0), mask
