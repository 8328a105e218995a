"""What stands beside a separator: the mixture, NMF, and a mask that knows the answer.

Shapes: T samples, F frequencies, N frames, R components, S speakers.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Complex, Float
from scipy.fft import dct
from scipy.signal import istft, stft

from ..task import Evidence, Split
from .mixtures import GivenItems, MadeItems
from .separate_config import SeparateOptions
from .separate_scoring import evidence_of, row_of, separation_scores
from .separate_source import Talk, items_of

WINDOW_S = 0.064  # of the transform; a frame every quarter of it
TRIED = 12  # validation mixtures that the number of components is chosen on
FRAMES = 4000  # of training clips that a speaker's spectra are learned from
MOST = 8  # training speakers with spectra of their own
Wave = Float[np.ndarray, "T"]
Method = Callable[[Wave], Float[np.ndarray, "S T"]]


def _transform(samples: int, rate: int) -> dict[str, Any]:
    """Window and overlap, for mixtures shorter than the window too."""
    width = 4 * min(max(8, round(rate * WINDOW_S / 4)), max(2, samples // 4))
    return {"fs": rate, "nperseg": width, "noverlap": 3 * width // 4}


def spectrum(x: Float[np.ndarray, "*s T"], rate: int) -> Complex[np.ndarray, "*s F N"]:
    """Transform over the last axis, with zeros beyond both ends."""
    return stft(x, **_transform(x.shape[-1], rate))[2]


def masked(x: Wave, rate: int, masks: Float[np.ndarray, "S F N"]) -> Float[np.ndarray, "S T"]:
    """The mixture through each mask."""
    back = istft(spectrum(x, rate) * masks, **_transform(len(x), rate))[1]
    found = np.zeros((len(masks), len(x)))
    n = min(len(x), back.shape[-1])
    found[:, :n] = back[:, :n]
    return found


def ideal_masks(sources: Float[np.ndarray, "S T"], rate: int) -> Float[np.ndarray, "S F N"]:
    """The share of each source in the magnitude of all: nobody knows it who does not know the sources."""
    size = np.abs(spectrum(sources, rate))
    return size / np.maximum(size.sum(0), 1e-12)


def _factors(v: Float[np.ndarray, "F N"], count: int, spectra: Any = None) -> tuple[Any, Any]:
    """Spectra (F, R) and activations (R, N) of v; activations alone where ``spectra`` are given."""
    from sklearn.decomposition import non_negative_factorization
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        v = np.asarray(v, np.float64)
        given = {} if spectra is None else {"H": np.ascontiguousarray(spectra.T, np.float64), "update_H": False}
        start = "nndsvda" if spectra is None and count <= min(v.shape) else "random" if spectra is None else None
        over, under, _ = non_negative_factorization(
            np.ascontiguousarray(v.T), n_components=count, init=start, max_iter=60, random_state=0, **given
        )
    return under.T, over.T


def _soft(parts: Float[np.ndarray, "S F N"]) -> Float[np.ndarray, "S F N"]:
    return (parts + 1e-9) / (parts + 1e-9).sum(0)


def blind(speakers: int, rate: int, count: int) -> Method:
    """Components of the mixture alone, put together by the likeness of their spectra (k-means over cepstra)."""
    from sklearn.cluster import KMeans

    def apply(x: Wave) -> Any:
        v = np.abs(spectrum(x, rate))
        w, h = _factors(v, count)
        shape = dct(np.log(w / np.maximum(w.sum(0), 1e-9) + 1e-4), axis=0, norm="ortho")[1:14].T
        which = KMeans(speakers, n_init=4, random_state=0).fit_predict(shape)
        return masked(x, rate, _soft(np.stack([w[:, which == s] @ h[which == s] for s in range(speakers)])))

    return apply


def trained(spectra: list[Float[np.ndarray, "F R"]], speakers: int, rate: int) -> Method:
    """Spectra of training speakers explain the mixture; those who explain most of it stand for its speakers."""
    every = np.concatenate(spectra, 1)
    at = np.cumsum([0, *(w.shape[1] for w in spectra)])

    def apply(x: Wave) -> Any:
        _, h = _factors(np.abs(spectrum(x, rate)), every.shape[1], every)
        parts = np.stack([every[:, a:b] @ h[a:b] for a, b in itertools.pairwise(at)])
        chosen = np.argsort(-parts.sum((1, 2)))[:speakers]
        return masked(x, rate, _soft(parts[np.sort(chosen)]))

    return apply


def speaker_spectra(data: Talk, split: Split, count: int) -> list[Float[np.ndarray, "F R"]]:
    """``count`` spectra of each training speaker, of the first few speakers."""
    clips = data.clips
    assert clips is not None
    found, random = [], np.random.default_rng(0)
    for name in sorted({clips.groups[i] for i in split.parts["train"]})[:MOST]:
        rows = random.permutation([i for i in split.parts["train"] if clips.groups[i] == name])
        wave = np.concatenate([clips.waves[int(i)] for i in rows])[: round(FRAMES * WINDOW_S / 4 * clips.rate)]
        found.append(_factors(np.abs(spectrum(wave / np.abs(wave).max(), clips.rate)), count)[0])
    return found


def _scored(items: MadeItems | GivenItems, method: Method, most: int | None = None) -> list[dict[str, float]]:
    rows = (items.one(i) for i in range(min(len(items), most or len(items))))
    return [row_of(method(x.astype(np.float64)), x, s) for x, s in rows]


def all_baselines(data: Talk, split: Split, options: SeparateOptions) -> Mapping[str, Evidence]:
    """The test part, by each method; settings of NMF chosen on validation."""
    val, test = (items_of(data, split, options, p) for p in ("val", "test"))
    s, rate = options.speakers, data.rate
    made: dict[str, list[Method]] = {}
    if options.nmf:
        made["nmf"] = [blind(s, rate, max(s, r)) for r in options.nmf]
        if data.clips is not None and len({data.clips.groups[i] for i in split.parts["train"]}) >= s:
            made["nmf_of_training_speakers"] = [trained(speaker_spectra(data, split, r), s, rate) for r in options.nmf]
    found = {"mixture": evidence_of(_scored(test, lambda x: np.stack([x] * s)))}
    for name, methods in made.items():
        gains = [separation_scores(evidence_of(_scored(val, m, TRIED)))["si_sdri"] for m in methods]
        found[name] = evidence_of(_scored(test, methods[int(np.argmax(gains))]))
    rows = [test.one(i) for i in range(len(test))]
    ideal = [row_of(masked(x, rate, ideal_masks(sources, rate)), x, sources) for x, sources in rows]
    found["ideal_ratio_mask"] = evidence_of(ideal, "an upper bound: it sees the true sources")
    return found
