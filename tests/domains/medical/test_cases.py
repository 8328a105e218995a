"""Labelled images: files of any mode, copies and patients kept whole, manifests, archives, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from domains.medical.canvas import cropped, letterbox, on_canvas
from domains.medical.cases import Cases
from domains.medical.classify import Classify
from domains.medical.classify_config import ClassifyOptions
from domains.medical.data.images import read_image
from domains.medical.duplicates import grouped, near_pairs, perceptual_hash
from domains.task import Manifest
from shared_backbones.errors import BadInput

from .made import RANDOM, options, scan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes in folders: five colour modes, three endings, mixed sizes, one exact copy, one brighter copy."""
    for i in range(20):
        image = Image.fromarray(scan(i, (30 + i, 36)))
        path = tmp_path / "scans" / ("ill" if i % 2 else "well") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = image.convert(("L", "RGB", "RGBA", "P", "LA")[i % 5])
        image.save(path)
    copy = Image.open(tmp_path / "scans" / "ill" / "1.png")
    copy.save(tmp_path / "scans" / "ill" / "copy.tiff")
    copy.convert("L").point([min(255, round(v * 0.9 + 20)) for v in range(256)]).save(
        tmp_path / "scans" / "ill" / "bright.bmp"
    )
    return tmp_path / "scans"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_colour_mode_is_read_within_0_and_1(mode: str, tmp_path: Path) -> None:
    grey = scan(3)
    image = Image.fromarray(grey)
    if mode in ("I;16", "I", "F"):
        wide = {"I;16": grey.astype(np.uint16) * 257, "I": grey.astype(np.int32) * 257, "F": grey.astype(np.float32)}[
            mode
        ]
        image = Image.fromarray(wide)
    else:
        image = image.convert(mode)
    path = tmp_path / "a.tiff"
    image.save(path)
    pixels = read_image(path).pixels
    assert pixels.shape == (30, 40, 3 if mode in ("P", "RGB", "RGBA", "CMYK") else 1)
    assert 0 <= pixels.min() < pixels.max() <= 1
    if mode in ("L", "LA", "RGB", "RGBA", "I;16"):
        np.testing.assert_allclose(pixels[..., 0], grey / 255, atol=1e-6)
    assert read_image(path).grey is (mode != "CMYK" or read_image(path).grey)


def test_what_is_transparent_is_black(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((10, 10, 4), (200, 100, 50, 0), np.uint8), "RGBA")
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").pixels.max() == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"no image at all", "not an image that can be read"),
        ("cut", "not an image that can be read"),
        ("tiny", "at least 8"),
        ("pages", "2 pages"),
        ("nan", r"row 2, column 3 is no number"),
    ],
)
def test_images_that_cannot_be_used(content: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "cut":
        path = tmp_path / "a.jpg"
        Image.fromarray(scan(1, (200, 200))).save(path)
        path.write_bytes(path.read_bytes()[:600])
    elif content == "tiny":
        Image.new("L", (3, 5)).save(path)
    elif content == "pages":
        Image.new("L", (9, 9)).save(path, save_all=True, append_images=[Image.new("L", (9, 9))])
    else:
        x = np.zeros((9, 9), np.float32)
        x[2, 3] = np.nan
        Image.fromarray(x).save(path)
    with pytest.raises(BadInput, match=says):
        read_image(path)


def test_copies_are_found_across_modes_and_stay_together(folder: Path) -> None:
    task = Classify(options(alike=0))
    data = task.open(str(folder))
    found = data.manifest.facts["copies_and_groups"]
    assert found["exact_copies"] == 1
    group = dict(zip(data.names, data.group.tolist(), strict=True))
    assert group["ill/1.png"] == group["ill/copy.tiff"] == group["ill/bright.bmp"]
    assert found["groups"] == 20
    assert len(data.manifest.facts["colour_modes"]) == 5
    for fold in range(5):
        split = Classify(options(split={"protocol": "folds", "fold": fold})).split(data)
        assert all(a.passed is not False for a in task.audit(data, split))


def test_a_copy_with_another_label_is_told(folder: Path) -> None:
    (folder / "well" / "wrong.png").write_bytes((folder / "ill" / "3.png").read_bytes())
    assert Classify(options()).open(str(folder)).manifest.facts["copies_and_groups"]["copies_with_other_labels"] == 1


def test_flat_images_are_not_all_one_group() -> None:
    flat = [np.full((20, 20, 1), level, np.float32) for level in (0.1, 0.5, 0.9)]
    hashes = [perceptual_hash(x) for x in flat]
    assert grouped(list("abc"), hashes, [""] * 3, np.zeros((3, 1), np.float32), 4).group.tolist() == [0, 1, 2]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=8), st.integers(1, 30))
def test_near_pairs_are_those_of_plain_counting(hashes: list[int], distance: int) -> None:
    expected = [
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if 0 < (hashes[i] ^ hashes[j]).bit_count() <= distance
    ]
    assert near_pairs(hashes, distance) == expected


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=30, max_size=60),
    st.sampled_from(["groups", "folds"]),
    st.integers(0, 3),
)
def test_no_patient_is_ever_divided(rows: list[tuple[int, int]], protocol: str, seed: int) -> None:
    labels = np.array([[1 - c, c] for _, c in rows], np.float32)
    patients = [f"p{p}" for p, _ in rows]
    keys = [str(i) for i in range(len(rows))]
    found = grouped(keys, [0] * len(rows), patients, labels)
    data = Cases(
        Manifest("made", "0"), np.zeros((len(rows), 1, 8, 8), np.uint8), labels, ("a", "b"), True, tuple(keys),
        tuple(patients),
        ("",) * len(rows), ("",) * len(rows), ("",) * len(rows), found.group, tuple(keys),
    )  # fmt: skip
    if len(set(patients)) < 5 or len(set(labels[:, 0])) < 2:
        return
    task = Classify(options(split={"protocol": protocol, "folds": 3, "fold": seed % 3, "seed": seed}))
    try:
        split = task.split(data)
    except BadInput:  # too few groups for three parts
        return
    sides = [{patients[i] for i in split.parts[p]} for p in ("train", "val", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert sorted(np.concatenate(list(split.parts.values()))) == list(range(len(rows)))


def manifest(tmp_path: Path, header: str, rows: list[str]) -> str:
    for i in range(len(rows)):
        Image.fromarray(scan(i)).save(tmp_path / f"{i}.png")
    (tmp_path / "list.csv").write_text("\n".join([header, *rows]))
    return str(tmp_path / "list.csv")


def test_a_manifest_with_missing_labels_patients_and_sites(tmp_path: Path) -> None:
    cells = [("1", "0"), ("", "1"), ("0", "nan"), ("0", "-1"), ("1", "1"), ("0", "0")] * 5
    rows = [f"{i}.png,P{i // 2},s{i % 2},{a},{b}" for i, (a, b) in enumerate(cells)]
    task = Classify(options(split={"protocol": "sites", "test": ["s1"]}))
    data = task.open(manifest(tmp_path, "image,patient_id,site,mass,fluid", rows))
    assert data.labels == ("mass", "fluid")
    assert not data.exclusive
    assert int(np.isnan(data.target).sum()) == 15
    assert data.manifest.facts["labels"]["fluid"] == {"true": 10, "false": 10, "unknown": 10}
    assert set(data.patients) == {f"p{i}" for i in range(1, 16)}
    with pytest.raises(BadInput, match="the train part holds no case"):
        task.split(data)  # every patient was seen at both sites
    split = Classify(options()).split(data)
    assert "patients stay whole" in split.protocol


@pytest.mark.parametrize(
    ("header", "row", "says"),
    [
        ("image,mass,fluid", "0.png,1,maybe", r"row 2, column fluid: 'maybe'"),
        ("image,mass,fluid", "0.png,,", "none of its labels is known"),
        ("image,class", "0.png,", "no class in column class"),
        ("image,class", "0.png", "another number of cells"),
        ("picture,class", "0.png,a", "no column with the images' paths"),
        ("image,file,class", "0.png,0.png,a", "two columns say image"),
        ("image,class", "none.png,a", r"none\.png: no such file"),
    ],
)
def test_manifests_that_cannot_be_used(header: str, row: str, says: str, tmp_path: Path) -> None:
    source = manifest(tmp_path, header, [row])
    with pytest.raises(BadInput, match=says):
        Classify(options()).open(source)


def test_file_names_that_suggest_patients_are_asked_about(folder: Path) -> None:
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        path.rename(path.with_name(f"patient{i // 4:02d}_{i}.png"))
    task = Classify(options())
    data = task.open(str(folder))
    asked = {a.name: a for a in task.audit(data, task.split(data))}["patients_suspected"]
    assert asked.passed is False
    assert "patient_pattern" in asked.meaning
    data = Classify(options(patient_pattern=r"(?P<patient>patient\d+)|copy|bright")).open
    with pytest.raises(BadInput, match="does not match patient_pattern"):
        data(str(folder))
    for name in ("copy.tiff", "bright.bmp"):
        (folder / "ill" / name).unlink()
    known = Classify(options(patient_pattern=r"(?P<patient>patient\d+)")).open(str(folder))
    assert len(set(known.patients)) == 5
    assert "patients_suspected" not in {a.name for a in task.audit(known, task.split(known))}


def archive(path: Path, labels: Any, shape: tuple[int, ...] = (28, 28)) -> str:
    parts = {}
    for part, n in (("train", 24), ("val", 8), ("test", 8)):
        parts[f"{part}_images"] = RANDOM.integers(0, 256, (n, *shape)).astype(np.uint8)
        parts[f"{part}_labels"] = labels(n)
    np.savez(path, **parts)
    return str(path)


@pytest.mark.parametrize("several", [False, True])
def test_medmnist_archives_keep_their_official_split(several: bool, tmp_path: Path) -> None:
    labels = (lambda n: RANDOM.integers(0, 2, (n, 14))) if several else (lambda n: np.arange(n)[:, None] % 3)
    task = Classify(ClassifyOptions())
    data = task.open(archive(tmp_path / "x.npz", labels, (28, 28, 3) if several else (28, 28)))
    split = task.split(data)
    assert [len(split.parts[p]) for p in ("train", "val", "test")] == [24, 8, 8]
    assert data.exclusive is not several
    assert data.canvases.shape == (40, 3 if several else 1, 28, 28)
    assert len(data.labels) == (14 if several else 3)


def test_archives_that_cannot_be_used(tmp_path: Path) -> None:
    for labels, shape, says in (
        (lambda n: np.zeros((n, 1), np.int64), (28, 28, 28), "flat uint8 images"),
        (lambda n: np.zeros((n - 1, 1), np.int64), (28, 28), "one row per image"),
        (lambda n: np.full((n, 1), -1), (28, 28), "class numbers from 0"),
    ):
        with pytest.raises(BadInput, match=says):
            Classify(options()).open(archive(tmp_path / "x.npz", labels, shape))
    np.savez(tmp_path / "y.npz", train_images=np.zeros(3))
    with pytest.raises(BadInput, match="no array train_labels"):
        Classify(options()).open(str(tmp_path / "y.npz"))
    (tmp_path / "z.npz").write_bytes(b"PK")
    with pytest.raises(BadInput, match="not an archive"):
        Classify(options()).open(str(tmp_path / "z.npz"))


def test_canvases_keep_proportions_and_lose_dark_margins() -> None:
    pixels = np.zeros((60, 80, 1), np.float32)
    pixels[10:50, 20:70] = 0.5
    assert cropped(pixels).shape == (40, 50, 1)
    canvas = on_canvas(pixels, 25, 1, True)
    assert canvas.shape == (1, 25, 25)
    assert (canvas[0].max(1) > 0).sum() == 20
    assert set(np.unique(canvas)) == {0, 128}
    x = torch.rand(2, 1, 25, 25)
    assert letterbox(x, 25) is x


@pytest.mark.data
def test_the_25_copies_of_the_public_set_are_found(public_data: Path) -> None:
    if not (public_data / "medical" / "brain_tumor_mri253").is_dir():
        pytest.skip("brain_tumor_mri253 is not there")
    data = Classify(options(alike=2)).open("brain_tumor_mri253")
    facts = data.manifest.facts
    assert facts["cases"] == 253
    assert facts["colour_modes"] == {"L": 30, "P": 1, "RGB": 217, "RGBA": 5}
    assert facts["copies_and_groups"]["exact_copies"] == 25
    assert facts["labels"]["yes"]["true"] == 155
    assert data.canvases.shape[1] == 1
    tested = []
    for fold in range(5):
        task = Classify(options(split={"protocol": "folds", "fold": fold}))
        split = task.split(data)
        assert {a.name: a.passed for a in task.audit(data, split)}["groups_on_both_sides"] is True
        tested += split.parts["test"].tolist()
    assert sorted(tested) == list(range(253))
