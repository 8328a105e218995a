"""Where the bands of common multispectral sensors stand, for stacks whose files name bands but no wavelengths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from shared_backbones.errors import BadInput

from ..bands import Bands

Place = tuple[float, float]  # centre and width at half height, nm

# Sentinel-2A and the Operational Land Imager of Landsat 8, nominal
SENTINEL_2: dict[str, Place] = {
    "1": (442.7, 21), "2": (492.4, 66), "3": (559.8, 36), "4": (664.6, 31), "5": (704.1, 15), "6": (740.5, 15),
    "7": (782.8, 20), "8": (832.8, 106), "8A": (864.7, 21), "9": (945.1, 20), "10": (1373.5, 31),
    "11": (1613.7, 91), "12": (2202.4, 175),
}  # fmt: skip
LANDSAT_8: dict[str, Place] = {
    "1": (443, 16), "2": (482, 60), "3": (561, 57), "4": (655, 37), "5": (865, 28), "6": (1609, 85),
    "7": (2201, 187), "8": (590, 172), "9": (1373, 20),
}  # fmt: skip
SENSORS = {
    "sentinel-2": SENTINEL_2, "hls-s30": SENTINEL_2, "landsat-8": LANDSAT_8, "landsat-9": LANDSAT_8,
    "hls-l30": LANDSAT_8,
}  # fmt: skip
_USUAL = {  # what a stack of so many bands without names holds
    id(SENTINEL_2): {
        13: list(SENTINEL_2),
        12: [b for b in SENTINEL_2 if b != "10"],  # level 2A
        10: ["2", "3", "4", "5", "6", "7", "8", "8A", "11", "12"],  # of 10 and 20 m
        4: ["2", "3", "4", "8"],  # of 10 m
    },
    id(LANDSAT_8): {7: list("1234567"), 6: list("234567"), 9: list(LANDSAT_8)},
}
_NAME = re.compile(r"(?:^|[^A-Za-z0-9])(?:SR_)?B0?(8A|1[0-2]|[1-9])(?:$|[^A-Za-z0-9])", re.IGNORECASE)


def placed_by_sensor(where: str, bands: Bands, sensor: str) -> Bands:
    """The bands with the wavelengths and widths of a sensor, by their names (B02, SR_B2, ...), else by their number.

    Raises BadInput where neither says which they are.
    """
    table = SENSORS[sensor.lower()]
    named = _named(bands.names, table)
    usual = _USUAL[id(table)]
    keys = named if named is not None else usual.get(len(bands))
    if keys is None:
        raise BadInput(
            f"{where}: which bands of {sensor} these {len(bands)} are is not clear: name them in the file "
            f"({', '.join(f'B{k}' for k in table)}), or give their wavelengths one by one. Without names, stacks of "
            f"{', '.join(map(str, sorted(usual)))} bands are known"
        )
    centres, widths = zip(*(table[k] for k in keys), strict=True)
    return replace(bands, wavelength_nm=tuple(map(float, centres)), fwhm_nm=tuple(map(float, widths)))


def _named(names: Sequence[str], table: dict[str, Place]) -> list[str] | None:
    found = [_NAME.search(name) for name in names]
    keys = [m.group(1).upper() for m in found if m is not None]
    known = len(keys) == len(names) and len(set(keys)) == len(keys) and all(k in table for k in keys)
    return keys if known else None
