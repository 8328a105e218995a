"""The front end against the equations and, where it is installed, against librosa."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct

from domains.audio.augment import augmented, coloured, in_room, other_tract, spec_augment, speed, with_noise
from domains.audio.config import AugmentOptions, FrontEndOptions
from domains.audio.frontend import FLOOR, FrontEnd, hz_of, mel_filters, mel_of
from domains.audio.items import bucketed
from shared_backbones.errors import BadRequest

from .conftest import tone

RATE = 8000


def sound(n: int = 4321) -> np.ndarray:
    return (tone(440, n / RATE, RATE) + 0.1 * np.random.default_rng(0).standard_normal(n)).astype(np.float32)


def frames(x: np.ndarray, options: FrontEndOptions, rate: int = RATE) -> np.ndarray:
    front = FrontEnd(rate, options)
    return front(torch.from_numpy(x)[None], torch.tensor([len(x)]))[0][0].numpy()


def naive(x: np.ndarray, options: FrontEndOptions) -> np.ndarray:
    """Frame by frame, band by band, in float64."""
    width, hop, fft = 200, 80, 256
    window = np.zeros(fft)
    start = (fft - width) // 2
    window[start : start + width] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
    padded = np.concatenate([np.zeros(fft // 2), x.astype(np.float64), np.zeros(fft // 2)])
    low, high = options.low_hz, options.high_hz or RATE / 2
    to_mel = lambda f: (  # noqa: E731
        2595 * np.log10(1 + f / 700) if options.scale == "htk"
        else f / (200 / 3) if f < 1000 else 15 + np.log(f / 1000) / (np.log(6.4) / 27)
    )  # fmt: skip
    to_hz = lambda m: (  # noqa: E731
        700 * (10 ** (m / 2595) - 1) if options.scale == "htk"
        else m * 200 / 3 if m < 15 else 1000 * np.exp((np.log(6.4) / 27) * (m - 15))
    )  # fmt: skip
    corners = [to_hz(m) for m in np.linspace(to_mel(low), to_mel(high), options.mels + 2)]
    out = []
    for n in range(1 + len(x) // hop):
        power = np.abs(np.fft.rfft(padded[n * hop : n * hop + fft] * window)) ** 2
        row = []
        for b in range(options.mels):
            left, mid, right = corners[b : b + 3]
            total = 0.0
            for k, p in enumerate(power):
                f = k * RATE / fft
                w = max(0.0, min((f - left) / (mid - left), (right - f) / (right - mid)))
                total += w * p * (2 / (right - left) if options.norm == "slaney" else 1.0)
            row.append(total)
        out.append(row)
    mel = np.array(out)
    if options.kind == "mel":
        return mel
    log = 10 * np.log10(np.maximum(mel, FLOOR)) if options.log == "db" else np.log(np.maximum(mel, FLOOR))
    return log if options.kind == "log_mel" else dct(log, type=2, norm="ortho", axis=1)[:, : options.coefficients]


CASES = [
    FrontEndOptions(level="none", mels=20),
    FrontEndOptions(level="none", kind="mfcc", mels=20),
    FrontEndOptions(level="none", kind="mel", mels=20),
    FrontEndOptions(level="none", scale="htk", norm="none", log="ln", mels=20, high_hz=3800),
]


@pytest.mark.parametrize("options", CASES, ids=lambda o: f"{o.kind}-{o.scale}")
def test_frames_are_those_of_the_equations(options: FrontEndOptions) -> None:
    x = sound(1234)
    np.testing.assert_allclose(frames(x, options), naive(x, options), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", CASES, ids=lambda o: f"{o.kind}-{o.scale}")
def test_frames_are_those_of_librosa(options: FrontEndOptions) -> None:
    librosa = pytest.importorskip("librosa", reason="the oracle of the front end")
    x = sound()
    mel = librosa.feature.melspectrogram(
        y=x, sr=RATE, n_fft=256, hop_length=80, win_length=200, window="hann", center=True, pad_mode="constant",
        power=2.0, n_mels=options.mels, fmin=options.low_hz, fmax=options.high_hz or RATE / 2,
        htk=options.scale == "htk", norm="slaney" if options.norm == "slaney" else None,
    )  # fmt: skip
    log = librosa.power_to_db(mel, amin=FLOOR, top_db=None) if options.log == "db" else np.log(np.maximum(mel, FLOOR))
    expected = {"mel": mel, "log_mel": log}.get(options.kind)
    if expected is None:
        expected = librosa.feature.mfcc(S=log, n_mfcc=options.coefficients, dct_type=2, norm="ortho")
    np.testing.assert_allclose(frames(x, options), expected.T, atol=1e-4, rtol=1e-4)


@given(lengths=st.lists(st.integers(1, 2000), min_size=1, max_size=5), garbage=st.sampled_from([0.0, 1e6, np.nan]))
def test_a_clip_beside_others_is_the_clip_alone(lengths: list[int], garbage: float) -> None:
    front = FrontEnd(RATE, FrontEndOptions(mels=20))
    waves = [sound(n) for n in lengths]
    wave = torch.full((len(waves), max(lengths)), float(garbage))
    for row, w in zip(wave, waves, strict=True):
        row[: len(w)] = torch.from_numpy(w)
    together, mask = front(wave, torch.tensor(lengths))
    for w, rows, real in zip(waves, together, mask, strict=True):
        alone, _ = front(torch.from_numpy(w)[None], torch.tensor([len(w)]))
        assert int(real.sum()) == 1 + len(w) // front.hop == alone.shape[1]
        torch.testing.assert_close(rows[real], alone[0], atol=2e-3, rtol=1e-4)  # of decibels near the floor
        assert not rows[~real].any()


def test_gradients_reach_the_waveform() -> None:
    front = FrontEnd(RATE, FrontEndOptions(kind="mfcc", mels=12, coefficients=5)).double()
    x = torch.randn(1, 300, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: front(w, torch.tensor([300]))[0], (x,), atol=1e-4)


@given(db=st.floats(-30, 0))
def test_the_level_of_a_recording_changes_nothing(db: float) -> None:
    x = sound(1500)
    options = FrontEndOptions(mels=20)
    np.testing.assert_allclose(frames(x * np.float32(10 ** (db / 20)), options), frames(x, options), atol=2e-2)


def test_scales_are_undone() -> None:
    hz = np.array([0.0, 100.0, 999.0, 1000.0, 1001.0, 4000.0])
    for scale in ("slaney", "htk"):
        np.testing.assert_allclose(hz_of(mel_of(hz, scale), scale), hz, atol=1e-9)


def test_bands_that_hear_nothing_are_refused() -> None:
    with pytest.raises(BadRequest, match="mel bands lie between two frequencies"):
        mel_filters(8000, 64, FrontEndOptions(mels=40))
    with pytest.raises(BadRequest, match="half the rate"):
        mel_filters(8000, 256, FrontEndOptions(high_hz=5000))
    with pytest.raises(ValueError, match="at most mels"):
        FrontEndOptions(kind="mfcc", coefficients=30, mels=20)


def test_speed_noise_and_room() -> None:
    x = sound(4000)
    assert len(speed(x, 1.25)) == 3200
    spectrum = np.abs(np.fft.rfft(speed(tone(400, 1.0), 1.1)))
    assert np.argmax(spectrum) * RATE / len(speed(tone(400, 1.0), 1.1)) == pytest.approx(440, abs=2)
    noise = with_noise(x, 20.0, np.random.default_rng(0)) - x
    assert 10 * np.log10((x**2).mean() / (noise**2).mean()) == pytest.approx(20, abs=0.3)
    wet = in_room(x, RATE, 0.2, np.random.default_rng(0))
    assert wet.shape == x.shape
    assert not np.allclose(wet, x)


def test_one_seed_gives_one_clip() -> None:
    options = AugmentOptions(room_s=0.1)
    a, b, c = (augmented(sound(), RATE, options, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert a.shape != c.shape or not np.array_equal(a, c)


def test_spans_are_left_out_of_real_frames() -> None:
    x = torch.ones(64, 50, 20)
    mask = torch.arange(50) < torch.randint(10, 51, (64, 1))
    options = AugmentOptions(time_masks=1, time_share=0.2, band_masks=1, band_share=0.25)
    y = spec_augment(x, mask, options)
    bands = (y.amax(1) == 0).sum(1)
    frames = ((y.amax(2) == 0) & mask).sum(1)
    assert int(bands.max()) <= 6
    assert bool((frames <= 0.2 * mask.sum(1) + 1).all())
    assert bool((y == 0).any())


def test_another_microphone_is_a_gain_per_band() -> None:
    x = torch.randn(3, 7, 20)
    change = coloured(x, 6.0) - x
    torch.testing.assert_close(change, change[:, :1].expand_as(change), atol=1e-5, rtol=0)
    assert float(change.std()) > 1


@given(n=st.integers(1, 300), size=st.integers(1, 40), seed=st.integers(0, 5))
def test_buckets_hold_every_clip_once_and_repeat(n: int, size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    order, lengths = random.permutation(n), random.integers(1, 1000, n)
    found = bucketed(order, lengths, size, (seed, 1))
    assert sorted(found) == list(range(n))
    np.testing.assert_array_equal(found, bucketed(order, lengths, size, (seed, 1)))
    if n >= 8 * size > 64:
        waste = lambda o: sum(int(lengths[b].max()) * len(b) for b in np.split(o, range(size, n, size)))  # noqa: E731
        assert waste(found) <= waste(order)


def test_the_floor_is_the_power_of_white_noise() -> None:
    front = FrontEnd(RATE, FrontEndOptions(kind="mel", mels=20, floor_db=20.0))
    bare = FrontEnd(RATE, FrontEndOptions(kind="mel", mels=20, level="none"))
    noise = 0.01 * np.random.default_rng(0).standard_normal(80_000)  # 20 dB below a clip at root mean square 0.1
    heard = frames(noise.astype(np.float32), bare.options)[2:-2].mean(0)
    np.testing.assert_allclose(front.quiet.numpy(), heard, rtol=0.15)
    with pytest.raises(ValueError, match="needs level=rms"):
        FrontEndOptions(floor_db=20.0, level="none")


def test_another_tract_moves_formants_and_keeps_the_pitch() -> None:
    """A buzz of 100 Hz through one resonance at 1000 Hz."""
    at = np.arange(8000) / 8000
    k = np.arange(1, 40)
    gain = np.exp(-(((k * 100 - 1000) / 250) ** 2)) + 0.01
    wave = (0.05 * (gain[:, None] * np.sin(2 * np.pi * 100 * k[:, None] * at)).sum(0)).astype(np.float32)
    np.testing.assert_allclose(other_tract(wave, 1.0), wave, atol=1e-5)
    moved = np.abs(np.fft.rfft(other_tract(wave, 1.25)))[:4000]
    harmonics = moved[100:4000:100]
    assert moved[np.arange(4000) % 100 == 50].max() < 0.05 * harmonics.max()
    centre = (harmonics**2 * np.arange(100, 4000, 100)).sum() / (harmonics**2).sum()
    assert 1150 < centre < 1350


def test_recorded_noise_is_mixed_in_at_its_level() -> None:
    wave, hum = sound(), np.sin(0.3 * np.arange(50)).astype(np.float32)
    noisy = with_noise(wave, 10.0, np.random.default_rng(0), [hum])
    added = noisy.astype(np.float64) - wave
    assert 10 * np.log10(np.mean(wave.astype(np.float64) ** 2) / np.mean(added**2)) == pytest.approx(10.0, abs=1e-3)
    again = with_noise(wave, 10.0, np.random.default_rng(0), [hum])
    np.testing.assert_array_equal(noisy, again)
    np.testing.assert_array_equal(with_noise(wave, 0.0, np.random.default_rng(0), [np.zeros(9, np.float32)]), wave)
