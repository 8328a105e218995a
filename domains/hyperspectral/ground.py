"""Where tiles lie on the ground: tiles of different parts that overlap hold the same pixels under two names."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from shapely import STRtree
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from ..task import PARTS, Audit
from .data import Mosaic
from .data.mosaic import Tile

SLACK = 0.5  # of a pixel: tiles cut side by side may share less than this by rounding


def footprint(tile: Tile) -> BaseGeometry | None:
    """The four corners of a tile in its reference system; None where it is not georeferenced."""
    if tile.transform is None or tile.crs is None:
        return None
    a, b, c, d, e, f = tile.transform
    rows, cols = tile.shape
    corners = [(0, 0), (cols, 0), (cols, rows), (0, rows)]
    return Polygon([(a * x + b * y + c, d * x + e * y + f) for x, y in corners])


def tiles_at(whole: Mosaic, at: Any) -> set[int]:
    """The tiles that hold these pixels (flat indices)."""
    rows = np.unique(np.asarray(at) // whole.shape[1])
    return {bisect_right(whole.starts, int(r)) - 1 for r in rows}


def ground_audits(whole: Mosaic, parts: Mapping[str, Collection[int]], radius: int) -> list[Audit]:
    """Do test tiles overlap tiles of the other parts on the ground, and how many lie within ``radius`` pixels of them?

    parts: the tiles of every part. Nothing is said of tiles without a georeference.
    """
    shapes = {i: s for i, t in enumerate(whole.tiles) if (s := footprint(t)) is not None}
    test = [i for i in parts[PARTS[2]] if i in shapes]
    if not test:
        return []
    others = sorted({i for p in PARTS[:2] for i in parts[p] if i in shapes} - set(test))
    tree = STRtree([shapes[i] for i in others])
    overlapping, close = [], []
    for i in test:
        mine, tile = shapes[i], whole.tiles[i]
        assert tile.transform is not None
        pixel = float(np.hypot(tile.transform[0], tile.transform[3]))
        reach = max(radius, 1) * pixel
        found = [others[int(k)] for k in tree.query(mine.buffer(reach))]
        there = [j for j in found if whole.tiles[j].crs == tile.crs and mine.distance(shapes[j]) <= reach]
        shared = [j for j in there if mine.intersection(shapes[j]).area > SLACK * pixel**2]
        overlapping += [(i, j) for j in shared[:1]]
        close += [i] if there else []
    named = "".join(f"; {whole.tiles[i].where} and {whole.tiles[j].where}" for i, j in overlapping[:3])
    loose = len(whole.tiles) - len(shapes)
    said = "" if not loose else f"; {loose} tiles have no georeference and are not looked at"
    return [
        Audit(
            "test tiles that overlap others on the ground",
            len(overlapping) / len(test),
            not overlapping,
            f"share of test tiles that share ground with a tile of training or validation{named}{said}",
        ),
        Audit(
            "test tiles beside others on the ground",
            len(close) / len(test),
            None,
            f"share of test tiles within {max(radius, 1)} px of a tile of training or validation: neighbours are "
            "alike. Name them with one scene in the list, and they stay in one part",
        ),
    ]
