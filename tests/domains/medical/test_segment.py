"""`medical/segment`: sources, splits, plan, patches, windows, predictions and what is refused."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from domains.medical.data.pairs import by_number
from domains.medical.plan import Plan
from domains.medical.segment import Segment
from domains.medical.segment_items import TrainingPatches, Windows
from domains.medical.segment_loss import dice_and_entropy
from domains.medical.segment_model import Segmenter
from domains.medical.segment_splits import suggested_patients
from domains.medical.segment_windows import Blend, order_of, segment, stream_probabilities
from domains.tiling import window
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.export import unchecked_shapes
from shared_backbones.presets import adjust, load_preset

DATA = Path(os.environ.get("CAMBIUM_DATA", "/nowhere")) / "medical"
real = pytest.mark.skipif(not (DATA / "isbi2012_membrane").is_dir(), reason="needs CAMBIUM_DATA with medical/")
MADE = {"cases": 8, "size": 24}


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        yield self.path / name


def task(**options: Any) -> Segment:
    return Segment(Segment.Config.model_validate({"simulated": MADE, "patches": 3, "batch": 2, **options}))


def fitted_of(t: Segment, source: str = "simulated") -> tuple[Any, Any, dict[str, Any]]:
    data = t.open(source)
    split = t.split(data)
    return data, split, json.loads(json.dumps(t.fit(data, split)))


def png(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def folders(root: Path, names: list[str], values: tuple[int, ...] = (0, 1)) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        png(root / "images" / f"{name}.png", rng.integers(0, 255, (12, 16), dtype=np.uint8))
        png(root / "masks" / f"{name}_mask.png", rng.choice(np.array(values, np.uint8), (12, 16)))
    return root


def test_folders_are_paired_in_the_order_of_numbers(tmp_path: Path) -> None:
    names = ["s10", "s2", "s1", "s9", "s11"]
    data = task().open(str(folders(tmp_path, names)))
    assert [c.name for c in data.cases] == ["s1", "s2", "s9", "s10", "s11"]
    assert sorted(names, key=by_number) == ["s1", "s2", "s9", "s10", "s11"]
    assert data.shapes[0] == (12, 16)


def test_folders_that_do_not_pair_are_refused(tmp_path: Path) -> None:
    root = folders(tmp_path / "a", ["1", "2", "3"])
    (root / "masks/2_mask.png").unlink()
    with pytest.raises(BadInput, match=r"no mask .* such as 2.png"):
        task().open(str(root))
    for name in ("1", "3"):
        (root / f"masks/{name}_mask.png").unlink()
    with pytest.raises(BadInput, match="masks: is empty"):
        task().open(str(root))
    png(tmp_path / "b/images/1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(BadInput, match=r"manifest.csv nor two folders"):
        task().open(str(tmp_path / "b"))
    with pytest.raises(BadInput, match="isbi2012_membrane"):
        task().open("isbi2012_membran")


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    root = folders(tmp_path, ["1", "2", "3"], (0, 1, 7))
    with pytest.raises(BadInput, match=r"label 7 .* not declared"):
        task(classes={0: "background", 1: "cell"}).open(str(root))
    data = task(classes={0: "background", 1: "cell"}, ignore=7).open(str(root))
    assert set(np.unique(data.grid(0).labels)) == {-1, 0, 1}
    png(root / "masks/2_mask.png", np.zeros((12, 15), np.uint8))
    with pytest.raises(BadInput, match=r"2_mask.png: has \(12, 15\) voxels"):
        task().open(str(root))
    png(root / "masks/2_mask.png", np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3))
    with pytest.raises(BadInput, match="colours"):
        task().open(str(root))
    for name in ("1", "2", "3"):
        png(root / f"masks/{name}_mask.png", np.zeros((12, 16), np.uint8))
    with pytest.raises(BadInput, match="nothing to learn"):
        task().open(str(root))


def test_a_mask_elsewhere_in_space_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for name, shift in (("1", 0.0), ("2", 0.0), ("3", 1.5)):
        affine = np.diag([1.0, 1.0, 2.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / f"images/{name}.nii.gz")
        affine[0, 3] = shift
        nibabel.save(nibabel.Nifti1Image((voxels > 30).astype(np.uint8), affine), tmp_path / f"masks/{name}.nii.gz")
    with pytest.raises(BadInput, match=r"masks/3.nii.gz: its voxels lie up to 1.5 mm"):
        task().open(str(tmp_path))


def test_a_table_gives_patients_that_stay_whole(tmp_path: Path) -> None:
    names = [f"{i}" for i in range(10)]
    root = folders(tmp_path, names)
    rows = [[f"images/{n}.png", f"masks/{n}_mask.png", f"p{i // 2}"] for i, n in enumerate(names)]

    def table(columns: list[str], rows: list[list[str]]) -> None:
        with (root / "manifest.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])

    table(["image", "mask", "patient"], rows)
    t = task()
    data = t.open(str(root))
    tested = set()
    for fold in range(5):
        split = task(split={"fold": fold}).split(data)
        patients = [{data.cases[int(r[0])].patient for r in rows} for rows in split.parts.values()]
        assert len(set.union(*patients)) == sum(map(len, patients))
        tested |= {int(r[0]) for r in split.parts["test"]}
    assert tested == set(range(10))
    table(["image", "mask", "patient"], [*rows[:3], [*rows[3][:2], ""]])
    with pytest.raises(BadInput, match="line 5: no patient"):
        t.open(str(root))
    table(["image", "label"], [r[:2] for r in rows])
    with pytest.raises(BadInput, match="no column 'mask'"):
        t.open(str(root))
    table(["image", "mask", "fold"], [[*r[:2], f] for r, f in zip(rows, ["train"] * 6 + ["val"] * 2 + ["test"] * 2)])
    assert {p: len(r) for p, r in t.split(t.open(str(root))).parts.items()} == {"train": 6, "val": 2, "test": 2}


def test_names_that_suggest_patients_are_asked_about(tmp_path: Path) -> None:
    names = ["pat01_1", "pat01_2", "pat02_1", "pat02_2", "pat03_1"]
    root = folders(tmp_path, names)
    t = task()
    data = t.open(str(root))
    audits = {a.name: a for a in t.audit(data, t.split(data))}
    assert audits["names_suggest_patients"].passed is False
    assert "patient column or pattern" in audits["names_suggest_patients"].meaning
    assert suggested_patients(["slice1", "slice2"]) == {}
    told = task(patient_pattern=r"(pat\d+)_")
    data = told.open(str(root))
    assert {c.patient for c in data.cases} == {"pat01", "pat02", "pat03"}
    assert "names_suggest_patients" not in {a.name for a in told.audit(data, told.split(data))}


def test_the_plan_says_why_and_every_choice_can_be_made_by_hand() -> None:
    volumes = {"dimensions": 3, "cases": 6, "size": 24}
    _, _, fitted = fitted_of(task(simulated=volumes, batch=None))
    plan = Plan.from_json(fitted["plan"])
    assert (plan.dimensions, plan.spacing) == (3, (1, 1, 2))
    assert set(plan.reasons) == {"dimensions", "spacing", "patch", "depth", "batch", "normalise"}
    asked = {"dimensions": 2, "spacing": (2, 2, 2), "patch": (8, 16), "normalise": "fixed", "batch": 3, "depth": 1}
    plan = Plan.from_json(fitted_of(task(simulated=volumes, **asked))[2]["plan"])
    assert (plan.dimensions, plan.across, plan.patch, plan.batch, plan.depth) == (2, 2, (8, 16, 1), 3, 1)
    assert set(plan.reasons.values()) == {"as asked"}
    for wrong in ({"spacing": (1, 1)}, {"patch": (8,)}):
        with pytest.raises(BadRequest, match="positive numbers"):
            fitted_of(task(simulated=volumes, **wrong))
    with pytest.raises(BadRequest, match="flat"):
        fitted_of(task(dimensions=3))
    deep = Segmenter(load_preset("plain_unet"), 2, 1, 2, depth=1)
    assert len(deep.backbone.encoder.stages) == 2  # what would halve the lattice more often is left out
    assert deep(torch.randn(1, 1, 9, 11)).shape == (1, 2, 9, 11)


def test_validation_windows_count_every_voxel_once() -> None:
    t = task(patch=(10, 9), spacing=(1.0, 1.5))
    data, split, fitted = fitted_of(t)
    items = t.items(data, split, fitted, "val")
    assert isinstance(items, Windows)
    counted = sum(int((items.batch([i])["target"] >= 0).sum()) for i in range(len(items)))
    assert counted == sum(items.prepared(i).labels.numel() for i in range(len(split.parts["val"])))


def test_half_of_the_training_patches_stand_on_structures() -> None:
    t = task(simulated={"cases": 8, "size": 64, "structures": 1}, patch=(8, 8))
    data = t.open("simulated")
    rows = t.split(data).parts["train"]
    plan = Plan.from_json(fitted_of(t)[2]["plan"])
    share = []
    for oversample in (0.0, 1.0):
        items = TrainingPatches(data, rows, plan, items=64, oversample=oversample, augment=False)
        torch.manual_seed(0)
        found = items.batch(range(64))["target"] > 0
        share.append(float(found.flatten(1).any(1).float().mean()))
    assert share[0] < 0.9
    assert share[1] == 1.0


def test_the_loss_is_cross_entropy_and_dice() -> None:
    logits = torch.randn(2, 3, 5, 4)
    target = torch.randint(-1, 3, (2, 5, 4))
    target[1] = target[1].clamp_max(0)  # a patch without any structure
    entropy, weight = dice_and_entropy(logits, target, 0.0)
    wanted = torch.nn.functional.cross_entropy(logits, target, ignore_index=-1)
    torch.testing.assert_close(entropy, wanted)
    assert int(weight) == int((target >= 0).sum())
    loss, _ = dice_and_entropy(logits, target, 1.0)
    p, y, seen = logits[0].softmax(0), target[0], (target[0] >= 0)
    dice = [2 * (p[k] * (y == k))[seen].sum() / (p[k][seen].sum() + (y == k).sum()) for k in (1, 2)]
    share = float(seen.sum() / weight)
    torch.testing.assert_close(loss, wanted + share * (1 - sum(dice) / 2), atol=1e-4, rtol=1e-4)


class Smooth(torch.nn.Module):
    """A convolution in place of a segmenter."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.classes = rank, 3
        self.conv = (torch.nn.Conv2d, torch.nn.Conv3d)[rank - 2](1, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.mark.filterwarnings("ignore")
def test_windows_are_those_of_monai_on_300_random_cases() -> None:
    """MONAI raises the product of the Gaussian factors to a floor, we each factor: so it is given our map."""
    from monai.inferers.utils import sliding_window_inference

    rng = np.random.default_rng(0)
    for index in range(300):
        rank = 2 + index % 2
        shape = [int(n) for n in rng.integers(6, (26, 13)[rank - 2], rank)]
        patch = tuple(int(rng.integers(4, n + 1)) for n in shape)
        overlap, kind = float(rng.choice([0.25, 0.5, 0.7])), ("gaussian", "constant")[index // 2 % 2]
        torch.manual_seed(index)
        network = Smooth(rank).eval()
        image = rng.normal(size=(1, *shape)).astype(np.float32)
        one = (1.0,)
        plan = Plan(rank, None, one * rank, patch, "fixed", (-99.0,), (99.0,), (0.0,), one, 1, 1, {})
        found = torch.empty(3, *shape)
        order = order_of(shape)
        turned = found.permute(0, *(1 + axis for axis in order))

        def write(rows: slice, p: torch.Tensor, to: torch.Tensor = turned) -> None:
            to[:, rows] = p

        stream_probabilities(network, image, one * rank, plan, Blend(overlap, kind), write, order)
        weight = torch.ones(())
        for n in patch:
            weight = weight[..., None] * window(kind, n).float()
        with torch.no_grad():
            expected = sliding_window_inference(
                torch.from_numpy(image)[None], patch, 1, lambda x: network(x).softmax(1), overlap, roi_weight_map=weight
            )
        torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)


def test_a_prediction_is_the_whole_image_at_once_where_one_window_covers_it() -> None:
    t = task(patch=(64, 64))
    data, split, fitted = fitted_of(t)
    torch.manual_seed(0)
    model = t.build(fitted, load_preset(t.default_preset)).eval()
    plan = Plan.from_json(fitted["plan"])
    grid = data.piece(split.parts["test"][0])
    answer = segment(model, grid.image, grid.spacing, plan, Blend())
    items = Windows(data, split.parts["test"][:1], plan)
    with torch.no_grad():
        p = model(items.prepared(0).image[None]).softmax(1)[0]
    assert np.array_equal(answer.labels, p.argmax(0).numpy())
    assert np.abs(answer.probability - p.amax(0).numpy()).max() <= 0.5 / 255 + 1e-6


def test_a_volume_is_answered_in_its_own_geometry(tmp_path: Path) -> None:
    t = task(simulated={"dimensions": 3, "cases": 6, "size": 16}, spacing=(1.5, 1.0, 1.0), batch=1)
    _, _, fitted = fitted_of(t)
    model = t.build(fitted, load_preset(t.default_preset)).eval()
    voxels = np.random.default_rng(0).normal(100, 30, (9, 14, 12)).astype(np.float32)
    affine = np.array([[0, 0.1, -2, 5], [1, 0, 0, -3], [0, 1, 0.2, 0], [0, 0, 0, 1.0]])
    source = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, affine), source)
    facts = t.predict(model, fitted, str(source), Folder(tmp_path))
    labels = nibabel.load(tmp_path / "a_labels.nii.gz")
    assert labels.shape == (9, 14, 12)
    np.testing.assert_allclose(labels.affine, affine, atol=1e-5)
    counts = {n: int((np.asarray(labels.dataobj) == v).sum()) for v, n in zip(fitted["values"], fitted["names"])}
    one = abs(np.linalg.det(affine[:3, :3])) / 1000
    for name, ml in facts["amounts"].items():
        assert ml == pytest.approx(counts[name] * one, rel=1e-2)
    turned = voxels.transpose(2, 0, 1)[:, ::-1]  # the same patient, stored in another order
    other = affine @ np.array([[0, -1, 0, 8], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(turned, other), tmp_path / "b.nii.gz")
    t.predict(model, fitted, str(tmp_path / "b.nii.gz"), Folder(tmp_path))
    again = np.asarray(nibabel.load(tmp_path / "b_labels.nii.gz").dataobj)
    assert np.array_equal(again[:, ::-1].transpose(1, 2, 0), np.asarray(labels.dataobj))
    with pytest.raises(BadInput, match="2 axes"):
        t.predict(model, fitted, str(png(tmp_path / "flat.png", np.zeros((8, 8), np.uint8))), Folder(tmp_path))


def test_slices_of_thick_volumes_are_learned_one_by_one() -> None:
    t = task(simulated={"dimensions": 3, "cases": 6, "size": 16})
    data, split, fitted = fitted_of(t)
    plan = Plan.from_json(fitted["plan"])
    assert (plan.dimensions, plan.across) == (2, 2)  # eight slices
    batch = t.items(data, split, fitted, "train").batch([0])
    assert batch["image"].ndim == 4
    assert batch["image"].shape[0] == plan.batch
    model = t.build(fitted, load_preset(t.default_preset)).eval()
    grid = data.piece(split.parts["test"][0])
    assert segment(model, grid.image, grid.spacing, plan, Blend()).labels.shape == grid.shape


@pytest.mark.parametrize(
    "preset",
    [
        "medical_unet",
        "plain_unet",
        "residual_unet",
        "light_unet",
        "attention_unet",
        "light_m_unet",
        "para_trans_cnn",
        "liver_hybrid",
    ],
)
def test_presets_and_their_ablation_segment(preset: str) -> None:
    for sentence in (load_preset(preset), adjust(load_preset(preset), mixer="identity")):
        model = Segmenter(sentence, 2, 1, 3, depth=3)
        y = model(torch.randn(2, 1, 18, 21))
        assert y.shape == (2, 3, 18, 21)
        y.square().mean().backward()
    with pytest.raises(BadRequest, match="rank"):
        Segmenter(load_preset("para_trans_cnn"), 3, 1, 3, depth=3)


def test_light_has_a_tenth_of_the_parameters() -> None:
    light, plain = (Segmenter(load_preset(n), 2, 1, 2, depth=6) for n in ("light_unet", "plain_unet"))
    sizes = [sum(p.numel() for p in m.parameters()) for m in (light, plain)]
    assert sizes[1] > 10 * sizes[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("normalise", ["image", "fixed"])
def test_the_export_normalises_and_answers_at_another_size(normalise: str) -> None:
    t = task(normalise=normalise)
    _, _, fitted = fitted_of(t)
    torch.manual_seed(0)
    model = t.build(fitted, load_preset(t.default_preset)).eval()
    p = t.portable(model, fitted)
    batch, free = torch.export.Dim("batch", min=1), torch.export.Dim.AUTO
    shapes = tuple({0: batch, **dict.fromkeys(p.free.get(name, ()), free)} for name in p.inputs)
    with torch.no_grad(), unchecked_shapes():
        program = torch.export.export(p.module.eval(), p.example, dynamic_shapes=shapes)
        image = 100 + 30 * torch.randn(3, 1, 45, 34)
        fed = (image, torch.tensor([[[90.0, 25.0]]]).repeat(3, 1, 1))[: len(p.inputs)]
        assert list(p.inputs) == (["image", "moments"] if normalise == "image" else ["image"])
        labels, probability = program.module()(*fed)
        wanted, expected = p.module(*fed)
    assert float((probability - expected).abs().max()) < 1e-5
    assert torch.equal(labels, wanted)
    assert set(labels.unique().tolist()) <= set(fitted["values"])


@real
@pytest.mark.data
def test_membranes_are_sorted_by_number_and_split_in_blocks() -> None:
    t = Segment(Segment.Config())
    data = t.open("isbi2012_membrane")
    assert data.structures.values == (255, 0)
    assert data.structures.names == ("cell", "membrane")
    assert [c.image.name for c in data.cases][:3] == ["0.png", "1.png", "2.png"]
    split = t.split(data)
    assert [int(r[0]) for r in split.parts["test"]] == [0, 1, 2, 3, 4, 5]
    share = data.manifest.facts["voxels_per_structure"]["membrane"] / (30 * 512 * 512)
    assert share == pytest.approx(0.22, abs=0.005)


@real
@pytest.mark.data
def test_the_small_ct_is_read_planned_and_cut_in_slabs() -> None:
    t = Segment(Segment.Config())
    data, split, fitted = fitted_of(t, "nifti_totalsegmentator")
    assert len(data.structures.values) == 42
    plan = Plan.from_json(fitted["plan"])
    assert (plan.dimensions, plan.normalise) == (3, "fixed")
    stops = [tuple(int(v) for v in row[1:]) for rows in split.parts.values() for row in rows]
    assert sorted(v for low, high in stops for v in range(low, high)) == list(range(30))
