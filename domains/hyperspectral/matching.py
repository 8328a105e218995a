"""A scene of another sensor on the bands that a model was trained on, by the spectral responses of these bands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from shared_backbones.errors import BadInput

from .bands import Bands, difference
from .data import Scene
from .data.scene import Cube, Seen, Through

PER_WIDTH = 2.3548  # full width at half height, in deviations of a Gaussian
HALF = 0.5  # of a band's response must fall on measured bands


def responses(own: Bands, wanted: Bands) -> Float[np.ndarray, "wanted own"]:
    """Weights of a scene's own bands in each wanted one; a row of zeros where they do not reach it.

    A wanted band is a Gaussian of its width (where it states none, of the distance to its neighbours), sampled where
    the scene has bands, each of which stands for the stretch around it. Bad bands have no part.
    """
    assert own.wavelength_nm is not None
    assert wanted.wavelength_nm is not None
    at, to = np.array(own.wavelength_nm), np.array(wanted.wavelength_nm)
    stretch, spacing = _stretch(at), _stretch(to)
    width = spacing if wanted.fwhm_nm is None else np.array(wanted.fwhm_nm)
    nearest = np.abs(at[None] - to[:, None]).argmin(1)
    deviation = np.maximum(width / PER_WIDTH, stretch[nearest] / 2)  # not narrower than the scene can tell
    weight = np.exp(-0.5 * ((at[None] - to[:, None]) / deviation[:, None]) ** 2) * stretch * np.array(own.good)
    reached = np.abs(at[nearest] - to) <= np.maximum(width, stretch[nearest])
    inside = (to >= at.min() - stretch[at.argmin()] / 2) & (to <= at.max() + stretch[at.argmax()] / 2)
    total = weight.sum(1, keepdims=True)
    return np.where((reached & inside)[:, None] & (total > 0), weight / np.maximum(total, 1e-12), 0.0)


def _stretch(nm: Any) -> Any:
    """How much of the spectrum each band stands for, nm."""
    if len(nm) == 1:
        return np.array([10.0])
    order = nm.argsort()
    gaps = np.diff(nm[order])
    each = np.concatenate([gaps[:1], np.minimum(gaps[1:], gaps[:-1]), gaps[-1:]])
    out = np.empty(len(nm))
    out[order] = np.maximum(each, 1e-3)
    return out


@dataclass(frozen=True)
class Resampled(Through):
    """A scene seen through the bands of another sensor."""

    bands: Bands
    weights: Float[np.ndarray, "wanted own"]

    def read(self, rows: slice, cols: slice) -> tuple[Cube, Seen]:
        values, there = self.inner.read(rows, cols)
        total = np.tensordot(self.weights, there.astype(np.float32), 1)
        seen = total > HALF
        mixed = np.tensordot(self.weights, np.where(there, values, 0).astype(np.float32), 1)
        return np.where(seen, mixed / np.maximum(total, 1e-6), 0).astype(np.float32), seen


def matched_scene(scene: Scene, trained: Bands, used: list[int], other_bands: str, what: str) -> tuple[Scene, str]:
    """The scene on the model's bands, and a note where it was resampled onto them.

    Raises BadInput where it is of another sensor and ``other_bands`` is "refuse", and where it cannot be resampled.
    """
    other = difference(trained, scene.bands)
    if other is None:
        return scene, ""
    known = trained.wavelength_nm is not None and scene.bands.wavelength_nm is not None
    same_unit = not (trained.unit and scene.bands.unit) or trained.unit == scene.bands.unit
    if other_bands != "resample" or not known or not same_unit:
        remedy = f"; {what} a scene of the same sensor" + (
            ", or train with --set other_bands=resample" if known and same_unit else ""
        )
        raise BadInput(f"{scene.where}: {other}{remedy}")
    weights = responses(scene.bands, trained)
    lacking = [b for b in used if not weights[b].any()]
    if len(lacking) == len(used):
        raise BadInput(f"{scene.where}: none of its bands reaches those of the model")
    own, reached = len(scene.bands), len(used) - len(lacking)
    note = f"resampled by spectral response from {own} bands onto {reached} of the model's"
    if lacking:
        note += f"; {len(lacking)} of the model's bands lie outside and count as not measured"
    return Resampled(scene, trained, weights), f"{note} ({other})"
