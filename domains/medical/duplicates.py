"""Images that are the same, or all but: found before any split, so that copies never stand on both sides.

A perceptual hash is 64 bits: whether each of 8 x 8 coarse places is brighter than the one to its left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64

from .data.images import Pixels, luminance

SIDE = 8
FLAT = (
    4  # set bits; an image with fewer, or with as few clear ones, is a plain ramp or one tone, alike to any other such
)
MOST_PAIRS = 20_000  # images whose hashes are compared pair by pair; with more, only equal hashes are found


def perceptual_hash(pixels: Pixels) -> int:
    """64 bits of the mean brightness over a grid of 9 x 8 places."""
    grey = torch.from_numpy(np.ascontiguousarray(luminance(pixels)))[None, None]
    small = F.adaptive_avg_pool2d(grey, (SIDE, SIDE + 1))[0, 0].numpy()
    bits = (small[:, 1:] > small[:, :-1] + 1e-6).ravel()
    return int("".join("1" if b else "0" for b in bits), 2)


class Groups:
    """Which cases belong together: a forest of parents."""

    def __init__(self, n: int) -> None:
        self.parent = list(range(n))

    def root(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def join(self, members: Sequence[int]) -> None:
        for other in members[1:]:
            a, b = self.root(members[0]), self.root(other)
            self.parent[max(a, b)] = min(a, b)

    def numbered(self) -> Int64[np.ndarray, "n"]:
        """Group of each case, counted from 0 in order of first appearance."""
        roots = np.array([self.root(i) for i in range(len(self.parent))], np.int64)
        return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def _sets(keys: Iterable[object]) -> list[list[int]]:
    """Cases that share a key other than "" or None, two at least."""
    found: dict[object, list[int]] = {}
    for i, key in enumerate(keys):
        if key not in ("", None):
            found.setdefault(key, []).append(i)
    return [members for members in found.values() if len(members) > 1]


def near_pairs(hashes: Sequence[int], distance: int) -> list[tuple[int, int]]:
    """Pairs whose hashes differ in 1 .. ``distance`` bits."""
    values = np.array(hashes, np.uint64)
    found = []
    for i in range(len(values) - 1):
        apart = np.bitwise_count(values[i + 1 :] ^ values[i])
        found += [(i, i + 1 + int(j)) for j in np.flatnonzero((apart <= distance) & (apart > 0))]
    return found


def linked(*told: Sequence[object]) -> Int64[np.ndarray, "n"]:
    """Group of each case: those that share a value of any list, or are joined through others. None is not shared."""
    groups = Groups(len(told[0]))
    for keys in told:
        for members in _sets(keys):
            groups.join(members)
    return groups.numbered()


@dataclass(frozen=True)
class Duplicates:
    """What was found. copies: images beyond the first of each set of equal pixels; alike: pairs of equal hashes."""

    group: Int64[np.ndarray, "n"]
    copies: int
    alike_pairs: int
    alike_images: int
    near_pairs: int
    conflicts: int  # sets of equal pixels with different labels

    def facts(self) -> dict[str, int]:
        return {
            "groups": int(self.group.max(initial=-1)) + 1, "exact_copies": self.copies,
            "equal_hash_pairs": self.alike_pairs, "equal_hash_images": self.alike_images,
            "near_hash_pairs": self.near_pairs, "copies_with_other_labels": self.conflicts,
        }  # fmt: skip


def telling(value: int) -> bool:
    """Whether a hash says anything: flat images and ramps all have the same one."""
    return FLAT <= value.bit_count() <= SIDE * SIDE - FLAT


def grouped(
    keys: Sequence[str],
    hashes: Sequence[int],
    patients: Sequence[str],
    labels: Float32[np.ndarray, "n L"],
    distance: int = 0,
) -> Duplicates:
    """Cases that share a patient, pixels or a perceptual hash are one group, and so are those joined through others.

    keys: of the pixels; patients: "" where not known; distance: bits in which hashes of one group may differ.
    """
    groups = Groups(len(keys))
    exact = _sets(keys)
    alike = _sets(h if telling(h) else None for h in hashes)
    near: list[tuple[int, int]] = []
    if distance and len(hashes) <= MOST_PAIRS:
        near = [(i, j) for i, j in near_pairs(hashes, distance) if telling(hashes[i]) and telling(hashes[j])]
    for members in (*exact, *alike, *near, *_sets(patients)):
        groups.join(members)
    said = np.nan_to_num(labels, nan=-1.0)
    return Duplicates(
        groups.numbered(),
        sum(len(m) - 1 for m in exact),
        sum(len(m) * (len(m) - 1) // 2 for m in alike),
        sum(map(len, alike)),
        len(near),
        sum(bool((said[m] != said[m[0]]).any()) for m in exact),
    )


__all__ = ["Duplicates", "grouped", "linked", "near_pairs", "perceptual_hash"]
