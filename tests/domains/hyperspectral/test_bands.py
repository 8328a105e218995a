from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.hyperspectral.bands import Bands, difference, in_ranges, plain_bands, to_nanometres
from shared_backbones.errors import BadInput


@pytest.mark.parametrize("unit", ["Micrometers", "um", None, "Unknown"])
def test_micrometres_become_nanometres(unit: str | None) -> None:
    assert to_nanometres("x", [0.46, 2.41], unit) == (460.0, 2410.0)


@pytest.mark.parametrize(("values", "unit"), [([0.46, 2.41], "Nanometers"), ([460, 2410], "Micrometers")])
def test_a_unit_that_contradicts_its_numbers_is_refused(values: list[float], unit: str) -> None:
    with pytest.raises(BadInput, match=r"scene\.hdr.*cannot be .*write the unit as"):
        to_nanometres("scene.hdr", values, unit)


@pytest.mark.parametrize("values", [[0.0, 1.0], [-400.0, 500.0], [float("nan"), 1.0]])
def test_wavelengths_must_be_positive(values: list[float]) -> None:
    with pytest.raises(BadInput, match="positive"):
        to_nanometres("x", values, None)


def test_unknown_unit_is_named() -> None:
    with pytest.raises(BadInput, match="furlongs"):
        to_nanometres("x", [400.0], "furlongs")


@given(st.lists(st.floats(300, 3000), min_size=1, max_size=20), st.randoms())
def test_json_and_selection(nm: list[float], random: object) -> None:
    bands = plain_bands(len(nm), nm, "reflectance")
    assert Bands.from_json(json.loads(json.dumps(bands.to_json()))) == bands
    assert bands.select(range(len(nm))) == bands
    assert bands.select([0]).wavelength_nm == (nm[0],)


def test_ranges_choose_by_wavelength() -> None:
    bands = plain_bands(4, [400.0, 500.0, 900.0, 2000.0])
    assert in_ranges(bands, [(450, 1000)]).tolist() == [False, True, True, False]
    with pytest.raises(BadInput, match="400 to 2000 nm"):
        in_ranges(bands, [(2100, 2200)])
    with pytest.raises(BadInput, match="states no wavelengths"):
        in_ranges(plain_bands(4), [(400, 500)])


def test_differences_are_said_in_words() -> None:
    nm = np.linspace(400, 2400, 21).tolist()
    trained = plain_bands(21, nm, "reflectance")
    assert difference(trained, plain_bands(21, nm)) is None
    assert difference(trained, plain_bands(21, [w + 1 for w in nm])) is None
    assert "20 bands" in str(difference(trained, plain_bands(20, nm[:20])))
    assert "no wavelengths" in str(difference(trained, plain_bands(21)))
    assert "band 3 is at 630 nm, in training it was at 600" in str(
        difference(trained, plain_bands(21, [w + 30 * (i == 2) for i, w in enumerate(nm)]))
    )
    assert "'radiance'" in str(difference(trained, plain_bands(21, nm, "radiance")))


def test_lengths_must_agree() -> None:
    with pytest.raises(BadInput, match="3 bands but 2 values"):
        plain_bands(3, [400.0, 500.0])
