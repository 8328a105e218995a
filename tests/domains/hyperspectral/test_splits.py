"""No mode may let a pixel into two parts, and the default none into another part's patches."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from domains.hyperspectral.classify import Classify, ClassifyOptions
from domains.hyperspectral.config import SplitOptions
from domains.hyperspectral.source import SceneData
from domains.hyperspectral.splits import audit_split, block_of, distance_to, make_split, overlap, unit_of
from domains.task import PARTS, Manifest
from shared_backbones.errors import BadInput, BadRequest

from .conftest import scene_of


def made(shape: tuple[int, int] = (60, 60), classes: int = 3, field: int = 6, polygons: bool = False) -> SceneData:
    """Small square fields of a few classes, all labelled."""
    rng = np.random.default_rng(0)
    across = -(-shape[1] // field)
    number = (np.arange(shape[0])[:, None] // field) * across + np.arange(shape[1])[None, :] // field
    index = rng.integers(0, classes, number.max() + 1)[number].astype(np.int32)
    cube = np.stack([index + 0.1 * rng.standard_normal(shape) for _ in range(3)]).astype(np.float32)
    ids = tuple(10 * (c + 1) for c in range(classes))
    names = tuple(f"class {c}" for c in range(classes))
    groups = number.astype(np.int32) if polygons else None
    return SceneData(scene_of(cube), index, groups, ids, names, Manifest("made", "0"))


@settings(max_examples=15, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # a draw is too slow to shrink
@given(
    st.sampled_from(["blocks", "polygons", "pixels"]),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(3, 12),
    st.integers(0, 50),
)
@example("blocks", 3, 2, 3, 2)  # once left nothing for validation
def test_parts_are_disjoint_and_apart(by: Any, radius: int, more: int, block: int, seed: int) -> None:
    data = made(polygons=True)
    options = SplitOptions(by=by, block=block, buffer=radius + more, seed=seed, allow_leak=by == "pixels")
    try:
        split = make_split(data, options, radius)
    except BadInput:
        assert by != "pixels"  # small blocks with a wide buffer may leave nothing
        return
    parts = [set(split.parts[p].tolist()) for p in PARTS]
    assert all(parts)
    assert all(not a & b for a, b in combinations(parts, 2))
    assert make_split(data, options, radius).digest == split.digest
    if by == "pixels":
        return
    for a, b in ((0, 1), (0, 2), (1, 2)):
        one, other = (np.stack(np.divmod(split.parts[PARTS[i]], 60), 1) for i in (a, b))
        apart = np.abs(one[:, None] - other[None]).max(-1).min()  # by hand, over all pairs
        assert apart > radius + more
    assert overlap(split, data.index.shape, radius)[0] == 0.0
    units = [set(unit_of(data, split, split.parts[p]).tolist()) for p in PARTS]
    assert all(not a & b for a, b in combinations(units, 2))  # no unit is divided


def test_every_class_is_in_train_and_test() -> None:
    data = made(classes=5)
    split = make_split(data, SplitOptions(block=6), 1)
    for part in ("train", "test"):
        assert set(data.index.ravel()[split.parts[part]]) == set(range(5))


@pytest.mark.parametrize("per_class", [3, 10])
def test_requested_sizes_are_respected(per_class: int) -> None:
    data = made()
    split = make_split(data, SplitOptions(by="pixels", per_class=per_class, allow_leak=True), 3)
    assert np.bincount(data.index.ravel()[split.parts["train"]]).tolist() == [per_class] * 3
    assert sum(len(split.parts[p]) for p in PARTS) == data.index.size


def test_fractions_are_respected() -> None:
    data = made()
    split = make_split(data, SplitOptions(by="pixels", fractions=(0.1, 0.1, 0.8), allow_leak=True), 3)
    for c in range(3):
        n = int((data.index == c).sum())
        assert int((data.index.ravel()[split.parts["train"]] == c).sum()) == round(0.1 * n)
    shares = [len(make_split(data, SplitOptions(block=6), 0).parts[p]) / data.index.size for p in PARTS]
    np.testing.assert_allclose(shares, (0.5, 0.2, 0.3), atol=0.06)


def test_a_leaking_split_needs_permission() -> None:
    with pytest.raises(BadRequest, match=r"split\.allow_leak=true"):
        make_split(made(), SplitOptions(by="pixels"), 3)
    with pytest.raises(BadRequest, match=r"split\.buffer=2 is less than patch_radius=3"):
        make_split(made(), SplitOptions(buffer=2), 3)
    assert make_split(made(), SplitOptions(allow_leak=True), 3).facts["by"] == "pixels"


def test_a_class_in_one_block_is_named_with_a_remedy() -> None:
    data = made()
    index = data.index.copy()
    index[index == 2] = 0
    index[0:5, 0:5] = 2
    with pytest.raises(BadInput, match=r"class 30 \(class 2, 25 px\).*at most 4 blocks of 12 px.*split.block=6"):
        make_split(replace(data, index=index), SplitOptions(block=12), 5)


def test_polygons_need_polygons() -> None:
    with pytest.raises(BadRequest, match="vector file"):
        make_split(made(), SplitOptions(by="polygons"), 1)
    assert make_split(made(polygons=True), SplitOptions(), 1).facts["by"] == "polygons"


def test_fractions_are_checked() -> None:
    with pytest.raises(ValidationError, match="sum to 1"):
        SplitOptions(fractions=(0.5, 0.5, 0.5))


@given(st.lists(st.integers(0, 99), min_size=1, max_size=6), st.integers(0, 99))
def test_distance_against_a_loop(at: list[int], query: int) -> None:
    got = distance_to(np.array(at), (10, 10)).ravel()[query]
    assert got == min(max(abs(a // 10 - query // 10), abs(a % 10 - query % 10)) for a in at)


@given(st.integers(1, 7), st.integers(0, 6), st.integers(0, 6))
def test_blocks_are_squares(block: int, top: int, left: int) -> None:
    numbers = block_of(np.arange(12 * 15), (12, 15), block, (top % block, left % block)).reshape(12, 15)
    for n in np.unique(numbers):
        rows, cols = np.nonzero(numbers == n)
        assert np.ptp(rows) < block
        assert np.ptp(cols) < block
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(cols) + 1)


def test_audits_warn_of_the_random_split_and_pass_the_blocks(public_data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SalinasA a classifier of coordinates alone beats the spectra at a random 10 %, and fails on blocks."""

    def audits(**split: Any) -> dict[str, Any]:
        task = Classify(ClassifyOptions.model_validate({"split": split}))
        data = task.open("salinas_a")
        return {a.name: a for a in audit_split(data, task.split(data), 5)}

    leaking = audits(by="pixels", allow_leak=True, fractions=(0.1, 0.1, 0.8))
    assert leaking["patch overlap"].value > 0.99
    assert leaking["accuracy of coordinates alone"].value > 0.99
    assert [a.passed for a in leaking.values()] == [False, False, False]
    blocks = audits(block=24)
    assert blocks["patch overlap"].value == 0.0
    assert blocks["distance train to test (px)"].value > 5
    assert blocks["accuracy of coordinates alone"].value < 0.75
    assert [a.passed for a in blocks.values()] == [True, True, True]
