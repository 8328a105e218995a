"""Other speakers, other rooms, other levels, from the clips at hand. Every draw comes from the generator given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from scipy.signal import fftconvolve, istft, stft
from torch import Tensor

from .config import AugmentOptions

Wave = Float32[np.ndarray, "T"]
Noise = Float32[np.ndarray, "_"]


def speed(wave: Wave, factor: float) -> Float32[np.ndarray, "t"]:
    """Played ``factor`` times as fast: shorter, and higher in pitch. Linear interpolation."""
    n = max(1, round(len(wave) / factor))
    return np.interp(np.arange(n) * factor, np.arange(len(wave)), wave).astype(np.float32)


def other_tract(wave: Wave, factor: float, width: int = 256, smooth: int = 24) -> Wave:
    """As a vocal tract of 1 / ``factor`` the length would sound: formants move by ``factor``, the pitch stays.

    The envelope of every short spectrum, its first ``smooth`` cepstral coefficients, is stretched over frequency, and
    the spectrum is changed by the ratio, by 20 dB at most.
    """
    _, _, x = stft(wave, nperseg=width, noverlap=width * 3 // 4)
    log = np.log(np.abs(x) + 1e-3 * max(1e-9, float(np.abs(x).mean())))
    cepstrum = np.fft.irfft(log, axis=0)
    cepstrum[smooth : width - smooth + 1] = 0.0
    envelope = np.fft.rfft(cepstrum, axis=0).real
    at = np.minimum(np.arange(len(envelope)) / factor, len(envelope) - 1)
    low = np.minimum(at.astype(int), len(envelope) - 2)
    share = (at - low)[:, None]
    moved = (1 - share) * envelope[low] + share * envelope[low + 1]
    gain = np.exp(np.clip(moved - envelope, -2.3, 2.3))
    return istft(x * gain, nperseg=width, noverlap=width * 3 // 4)[1][: len(wave)].astype(np.float32)


def with_noise(wave: Wave, snr_db: float, random: np.random.Generator, noises: Sequence[Noise] = ()) -> Wave:
    """Noise ``snr_db`` below the clip's own power: a piece of one of ``noises`` from anywhere, or white."""
    power = float(np.mean(wave.astype(np.float64) ** 2))
    noise = random.standard_normal(len(wave))
    if noises:
        chosen = noises[int(random.integers(len(noises)))].astype(np.float64)
        at = int(random.integers(len(chosen)))
        noise = np.take(chosen, np.arange(at, at + len(wave)), mode="wrap")
    own = float(np.mean(noise**2))  # of white noise nearly 1; a silent piece of a recording adds nothing
    scale = 1.0 if not noises else 1 / own if own > 0 else 0.0
    return (wave + noise * np.sqrt(scale * power / 10 ** (snr_db / 10))).astype(np.float32)


def in_room(wave: Wave, rate: int, seconds: float, random: np.random.Generator) -> Wave:
    """As heard in a made room: direct sound and noise that falls by 60 dB in ``seconds``; as long as before."""
    n = max(1, round(rate * seconds))
    tail = random.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    tail *= 0.5 / max(1e-9, float(np.sqrt((tail**2).sum())))
    tail[0] = 1.0
    return fftconvolve(wave, tail)[: len(wave)].astype(np.float32)


def augmented(
    wave: Wave, rate: int, options: AugmentOptions, random: np.random.Generator, noises: Sequence[Noise] = ()
) -> Float32[np.ndarray, "t"]:
    """One clip, changed by all that ``options`` ask for on waveforms."""
    if options.speed:
        wave = speed(wave, 1.0 + options.speed * random.uniform(-1, 1))
    if options.room_s:
        wave = in_room(wave, rate, options.room_s * random.uniform(0.1, 1), random)
    if options.noise_db is not None:
        wave = with_noise(wave, random.uniform(*options.noise_db), random, noises)
    if options.gain_db:
        wave = wave * np.float32(10 ** (options.gain_db * random.uniform(-1, 1) / 20))
    return wave


def coloured(x: Float[Tensor, "B N F"], decibel: float) -> Float[Tensor, "B N F"]:
    """Log-mel frames (dB) as another microphone would hear them: a smooth random gain over the bands of each clip."""
    b, _, f = x.shape
    at = torch.linspace(0, torch.pi, f, device=x.device)
    curves = torch.cos(at * torch.arange(1, 5, device=x.device)[:, None]) / torch.arange(1, 5, device=x.device)[:, None]
    return x + decibel * (torch.randn(b, 4, device=x.device) @ curves)[:, None]


def warped(
    x: Float[Tensor, "B N F"], centres: Float[Tensor, "F"], factors: Float[Tensor, "B"]
) -> Float[Tensor, "B N F"]:
    """Frames as vocal tracts of 1 / ``factors`` the length would sound: bands take what stood at lower or higher ones.

    centres: of the bands (Hz), rising. Beyond the last band its own value stands.
    """
    wanted = (centres / factors[:, None]).clamp(centres[0], centres[-1])
    low = (torch.searchsorted(centres, wanted, right=True) - 1).clamp(0, len(centres) - 2)
    share = ((wanted - centres[low]) / (centres[low + 1] - centres[low]))[:, None]
    at = low[:, None].expand_as(x)
    return x.gather(2, at) * (1 - share) + x.gather(2, at + 1) * share


def spec_augment(
    x: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"], options: AugmentOptions
) -> Float[Tensor, "B N F"]:
    """Spans of frames and of bands set to zero, the mean of normalised features. Draws from torch's generator."""
    b, n, f = x.shape
    frames = mask.sum(1)
    for _ in range(options.time_masks):
        x = x.masked_fill(_span(n, frames, options.time_share, b, x.device)[:, :, None], 0.0)
    for _ in range(options.band_masks):
        bands = torch.full((b,), f, device=x.device)
        x = x.masked_fill(_span(f, bands, options.band_share, b, x.device)[:, None, :], 0.0)
    return x


def _span(n: int, sizes: Tensor, share: float, b: int, device: torch.device) -> Bool[Tensor, "B n"]:
    """Per item one span of up to ``share`` of its size, somewhere within it."""
    width = torch.rand(b, device=device) * share * sizes
    start = torch.rand(b, device=device) * (sizes - width)
    at = torch.arange(n, device=device)
    return (at >= start[:, None]) & (at < (start + width)[:, None])
