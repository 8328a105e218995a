"""Made scans: ovals with folds and a bright rim, of made patients on made scanners; some patients have lesions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from scipy.ndimage import gaussian_filter

from shared_backbones.errors import BadRequest, unknown

SIDE = 64
DEFAULTS = {"seed": 0, "patients": 60, "slices": 3, "labels": 0}
KINDS = ("mass", "bleed", "cyst")  # bright blob, bright crescent at the rim, dark blob


@dataclass(frozen=True)
class MadeImage:
    """One slice: pixels, what is true of it (NaN: not looked at), its patient and scanner."""

    pixels: Float32[np.ndarray, "H W 1"]
    truth: dict[str, str]
    patient: str
    site: str
    name: str


def settings(given: Mapping[str, int]) -> dict[str, int]:
    """The simulator's settings. Raises BadRequest for an unknown name or an impossible number."""
    least = {"seed": 0, "patients": 8, "slices": 1, "labels": 0}
    for name in given:
        if name not in DEFAULTS:
            raise unknown("setting of the simulator", name, DEFAULTS)
    found = {**DEFAULTS, **given}
    for name, value in found.items():
        most = len(KINDS) if name == "labels" else 100_000
        if not least[name] <= value <= most:
            raise BadRequest(f"simulated.{name} must be {least[name]} to {most}, got {value}")
    return found


def _oval(
    y: Float[np.ndarray, "S S"], x: Float[np.ndarray, "S S"], shape: tuple[float, ...]
) -> Float[np.ndarray, "S S"]:
    """Distance from the centre of a turned oval, 1 at its rim."""
    cy, cx, ry, rx, turn = shape
    u = (y - cy) * np.cos(turn) + (x - cx) * np.sin(turn)
    v = -(y - cy) * np.sin(turn) + (x - cx) * np.cos(turn)
    return np.sqrt((u / ry) ** 2 + (v / rx) ** 2)


def _slice(
    kinds: tuple[str, ...], head: tuple[float, ...], gain: float, random: np.random.Generator
) -> Float32[np.ndarray, "S S"]:
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    shape = tuple(v + random.normal(0, 0.02) for v in head)
    r = _oval(y, x, shape)
    folds = gaussian_filter(random.standard_normal((SIDE, SIDE)), 2.0)
    image = np.where(r < 1, 0.42 + 0.9 * folds, 0.02)
    image = np.where((r > 0.92) & (r < 1.06), 0.75, image)
    for kind in kinds:
        angle, far = random.uniform(0, 2 * np.pi), random.uniform(0.2, 0.6)
        cy, cx = shape[0] + far * shape[2] * np.cos(angle), shape[1] + far * shape[3] * np.sin(angle)
        blob = _oval(y, x, (cy, cx, random.uniform(0.1, 0.22), random.uniform(0.1, 0.22), angle))
        if kind == "bleed":
            where = (r > 0.74) & (r < 0.94) & (np.cos(np.arctan2(x, y) - angle) > 0.75)
            image = np.where(where, 0.85, image)
        else:
            image += np.exp(-(blob**4)) * (0.4 if kind == "mass" else -0.35)
    image = np.clip(gaussian_filter(image, 0.7), 0, 1) ** gain + random.normal(0, 0.03, image.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def simulated(given: Mapping[str, int]) -> list[MadeImage]:
    """Every slice of every patient: two classes, or ``labels`` labels of which some are not known."""
    s = settings(given)
    random = np.random.default_rng(s["seed"])
    kinds = KINDS[: s["labels"]]
    found = []
    for who in range(s["patients"]):
        head = (0.0, 0.0, random.uniform(0.72, 0.86), random.uniform(0.55, 0.7), random.normal(0, 0.15))
        site = int(random.integers(2))
        gain = float(random.uniform(0.75, 1.3)) * (1.0, 1.2)[site]
        has = {k: bool(random.random() < 0.4) for k in kinds} if kinds else {"mass": bool(who % 2)}
        for k in range(s["slices"]):
            pixels = _slice(tuple(name for name, there in has.items() if there), head, gain, random)
            truth = {"class": "lesion" if has["mass"] else "clear"}
            if kinds:
                looked = [random.random() > 0.2 for _ in kinds]
                looked[int(random.integers(len(kinds)))] = True
                truth = {n: str(int(has[n])) if seen else "" for n, seen in zip(kinds, looked, strict=True)}
            found.append(MadeImage(pixels[..., None], truth, f"p{who:03d}", f"site{site}", f"p{who:03d}_{k}"))
    return found
