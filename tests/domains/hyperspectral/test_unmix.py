"""Unmixing: solvers beside scipy, corners that are known, what the constraints promise, the task on simulated truth."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, nnls

from domains.hyperspectral.data import copy_cube
from domains.hyperspectral.data.library import read_library
from domains.hyperspectral.unmixing import solvers
from domains.hyperspectral.unmixing.config import UnmixOptions
from domains.hyperspectral.unmixing.endmembers import angles, matched, nfindr, vca, voted
from domains.hyperspectral.unmixing.model import masked_non_negative
from domains.hyperspectral.unmixing.scoring import Mixing, scores
from domains.hyperspectral.unmixing.simulate import simulate_mixture
from domains.hyperspectral.unmixing.task import Unmix
from domains.public import data_home
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import load_preset

from .conftest import Folder

SMALL = {"simulated": {"rows": 32, "cols": 32, "bands": 24, "endmembers": 3}, "patch_radius": 2}
BERLIN = data_home() / "hyperspectral" / "enmap_berlin_library" / "library_berlin.sli"


def problem(seed: int, n: int = 12, b: int = 9, p: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(0, 1, (n, b))), torch.from_numpy(rng.uniform(0.05, 1, (p, b)))


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), p=st.integers(2, 5))
def test_solvers_reach_the_optimum_that_scipy_finds(seed: int, p: int) -> None:
    x, e = problem(seed, p=p)
    free = solvers.non_negative(x, e, 20_000).numpy()
    whole = solvers.fully_constrained(x, e, 20_000).numpy()
    heavy = 1e4  # a row that asks for the sum, so heavy that scipy's solver keeps it
    for i in range(len(x)):
        wanted, _ = nnls(e.T.numpy(), x[i].numpy())
        assert np.allclose(free[i], wanted, atol=1e-5)
        wanted, _ = nnls(np.vstack([e.T.numpy(), np.full(p, heavy)]), np.append(x[i].numpy(), heavy))
        assert np.allclose(whole[i], wanted, atol=1e-4)
    assert np.all(whole >= 0)
    assert np.allclose(whole.sum(1), 1)


def test_masked_solver_is_the_solver_of_the_measured_bands() -> None:
    x, e = problem(3)
    e = e / e.norm(dim=1, keepdim=True)
    seen = torch.ones_like(x, dtype=torch.bool)
    seen[:6, ::3] = False
    found = masked_non_negative(x, e, seen, 5000).numpy()
    for i in range(len(x)):
        wanted, _ = nnls(e.T.numpy()[seen[i].numpy()], x[i].numpy()[seen[i].numpy()])
        assert np.allclose(found[i], wanted, atol=1e-5)


def test_sparse_regression_has_the_conditions_of_its_optimum() -> None:
    x, e = problem(5, n=6, b=12, p=8)
    weight = 0.02
    cross = x @ e.T - weight * x.square().sum(1).mean()
    a = solvers._descend(e @ e.T, cross, x.new_zeros(6, 8), lambda v: v.clamp_min(0), 50_000, True)
    slope = a @ (e @ e.T) - cross
    assert bool((slope[a < 1e-9] > -1e-5).all())  # nothing left out would help
    assert float(slope[a > 1e-6].abs().max()) < 1e-5  # nothing kept could be better
    assert bool((a < 1e-9).any())


def test_factorisations_fall_and_stay_feasible() -> None:
    made = simulate_mixture(1, shape=(16, 16), bands=20, endmembers=3, light=0.0)
    x = made.scene.array.reshape(20, -1).T.astype(np.float64)
    start = torch.from_numpy(x[nfindr(x, 3, np.random.default_rng(0))])
    tensor = torch.from_numpy(x)
    lengths = {"nmf": lambda r: r.norm(), "robust": lambda r: r.norm(dim=0).sum()}  # of all, and band by band
    for name, length in lengths.items():
        solve = getattr(solvers, name)
        left = []
        for steps in (1, 60):
            e, a = solve(tensor, start, steps)
            left.append(float(length(tensor - solvers.non_negative(tensor, e) @ e)))
        assert left[1] < left[0]
        assert float(e.min()) >= 0
        assert bool((a >= 0).all())
        assert torch.allclose(a.sum(1), torch.ones(len(a), dtype=a.dtype))


def test_robust_factorisation_does_not_follow_a_spoilt_band() -> None:
    made = simulate_mixture(2, shape=(16, 16), bands=20, endmembers=3, light=0.0, variety=0.0, snr_db=50)
    truth = made.abundances.reshape(3, -1).T
    x = made.scene.array.reshape(20, -1).T.astype(np.float64)
    x[:, 7] = np.random.default_rng(0).uniform(0, 2 * x.max(), len(x))
    start = torch.from_numpy(made.endmembers)

    def error(solve: Any) -> float:
        _, a = solve(torch.from_numpy(x), start, 80)
        return float(np.sqrt(((a.numpy() - truth) ** 2).mean()))

    assert error(solvers.robust) < 0.6 * error(solvers.nmf)


@pytest.mark.parametrize("find", [vca, nfindr])
def test_pure_pixels_are_found_among_mixtures(find: Any) -> None:
    rng = np.random.default_rng(0)
    pure = simulate_mixture(0, shape=(8, 8), bands=30, endmembers=4).endmembers
    shares = rng.dirichlet(np.ones(4), 300)
    shares[:4] = np.eye(4)
    x = shares @ pure
    assert set(find(x, 4, rng).tolist()) == {0, 1, 2, 3}


def test_the_vote_does_not_mind_brightness() -> None:
    rng = np.random.default_rng(0)
    pure = simulate_mixture(0, shape=(8, 8), bands=30, endmembers=3).endmembers
    shares = rng.dirichlet(0.3 * np.ones(3), 600) * rng.uniform(0.3, 1.5, 600)[:, None]
    _, off = matched(voted(shares @ pure, 3, rng), pure)
    assert off.max() < 0.02


def test_endmembers_are_paired_by_the_least_sum_of_angles() -> None:
    rng = np.random.default_rng(1)
    found, true = rng.uniform(0, 1, (5, 8)), rng.uniform(0, 1, (4, 8))
    order, off = matched(found, true)
    table = angles(found, true)
    best = min(sum(table[q[i], i] for i in range(4)) for q in itertools.permutations(range(5), 4))
    assert np.isclose(off.sum(), best)
    assert np.isclose(table[linear_sum_assignment(table)].sum(), best)
    cosine = found[order[0]] @ true[0] / np.sqrt((found[order[0]] ** 2).sum() * (true[0] ** 2).sum())
    assert np.isclose(off[0], np.arccos(cosine))


def test_metrics_are_those_of_plain_sums() -> None:
    rng = np.random.default_rng(2)
    e, truth, a = rng.uniform(0, 1, (2, 6)), rng.dirichlet(np.ones(2), 20), rng.dirichlet(np.ones(2), 20)
    a[0], a[1] = (-0.1, 1.1), (0.2, 0.2)
    mixing = Mixing(e[::-1].copy(), e)
    for part in (slice(0, 7), slice(7, 20)):
        mixing.add(np.arange(20)[part] // 5, a[part], truth[part] @ e, truth[part])
    found = scores(mixing.evidence())
    assert np.isclose(found["abundance_rmse"], np.sqrt(((a[:, ::-1] - truth) ** 2).mean()))
    assert found["endmember_angle_worst"] < 1e-6
    assert np.isclose(found["sign_violations"], 1 / 20)
    assert np.isclose(found["sum_violations"], 1 / 20)


@pytest.fixture(scope="module")
def ready() -> dict[str, Any]:
    task = Unmix(UnmixOptions.model_validate(SMALL))
    data = task.open("simulated")
    split = task.split(data)
    fitted = task.fit(data, split)
    torch.manual_seed(0)
    model = task.build(fitted, load_preset(task.default_preset))
    task.initialise(model, data, split)
    return {"task": task, "data": data, "split": split, "fitted": fitted, "model": model.eval()}


def test_abundances_are_shares_whatever_the_network_says(ready: dict[str, Any]) -> None:
    model = ready["model"]
    values, seen = ready["data"].plain.read(slice(0, 12), slice(0, 12))
    cube, there = torch.from_numpy(values)[None], torch.from_numpy(seen.copy())[None]
    there[0, :, 0, 0], there[0, ::2, 1, 1] = False, False
    with torch.no_grad():
        kept = model.head.weight.clone()
        model.head.weight.normal_(0, 3)
        a = model(cube, there)[0]
        model.head.weight.copy_(kept)
    assert bool((a >= 0).all())
    total = a.sum(0)
    assert float(total[0, 0]) == 0
    total[0, 0] = 1
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


def test_training_improves_on_its_start_without_labels(ready: dict[str, Any]) -> None:
    task, data, split, fitted = (ready[k] for k in ("task", "data", "split", "fitted"))
    torch.manual_seed(0)
    model = task.build(fitted, load_preset(task.default_preset))
    task.initialise(model, data, split)
    items = task.items(data, split, fitted, "train")
    before = task.metrics(task.evidence(model, data, split, fitted, "test"))
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    model.train()
    for _ in range(20):
        optimiser.zero_grad()
        task.loss(model, items.batch(range(len(items))))[0].backward()
        optimiser.step()
    after = task.metrics(task.evidence(model, data, split, fitted, "test"))
    assert after["endmember_angle"] < before["endmember_angle"]
    assert after["reconstruction_angle"] < before["reconstruction_angle"]


def test_scene_amplitude_recovers_shares_of_area() -> None:
    made = simulate_mixture(4, shape=(24, 24), bands=20, endmembers=2, light=0.0, variety=0.0, snr_db=60, purity=8)
    task = Unmix(UnmixOptions.model_validate({"amplitude": "scene", "simulated": {"endmembers": 2}, "patch_radius": 2}))
    data = task.open("simulated")
    split = task.split(data)
    model = task.build(task.fit(data, split), load_preset("scene_unmixer"))
    task.initialise(model, data, split)
    task.calibrate(model, data, split, task.fit(data, split))
    assert data.truth is not None
    order, _ = matched(model.endmembers().detach().double().numpy(), data.truth.endmembers)
    ratio = model.peak[order].double().numpy() / data.truth.endmembers.max(1)
    assert np.all(np.abs(ratio - 1) < 0.5)
    assert np.allclose(made.abundances.sum(0), 1)


def test_map_is_that_of_the_whole_scene_and_says_what_it_means(ready: dict[str, Any], tmp_path: Path) -> None:
    task, data, model = ready["task"], ready["data"], ready["model"]
    path = tmp_path / "scene.tif"
    copy_cube(data.scene, path)
    small = Unmix(task.config.model_copy(update={"predict_tile": 9}))
    facts = small.predict(model, ready["fitted"], str(path), Folder(tmp_path))
    with rasterio.open(tmp_path / "scene_abundances.tif") as file:
        found, wkt, where = file.read(), file.crs.to_epsg(), tuple(file.transform)[:6]
        assert file.tags()["AMPLITUDE"] == "equal"
    values, seen = data.plain.read(slice(0, 32), slice(0, 32))
    with torch.no_grad():
        whole = model(torch.from_numpy(values)[None], torch.from_numpy(seen)[None])[0].numpy()
    assert np.allclose(found, whole, atol=1e-5)
    assert (wkt, where) == (32632, data.scene.transform)
    assert facts["pixels"] == 32 * 32
    assert np.isclose(sum(facts["mean_abundance"].values()), 1, atol=1e-4)
    library = read_library(tmp_path / "scene_endmembers.csv")
    assert library.spectra.shape == (3, 24)
    assert np.allclose(library.spectra.max(1), 1, atol=1e-5)


def test_bad_requests_say_what_to_do(tmp_path: Path) -> None:
    made = simulate_mixture(0, shape=(32, 32), bands=8)
    path = tmp_path / "scene.tif"
    copy_cube(made.scene, path)
    task = Unmix(UnmixOptions())
    data = task.open(str(path))
    with pytest.raises(BadRequest, match="endmembers=N"):
        task.fit(data, task.split(data))
    with pytest.raises(BadInput, match="samsun"):
        task.open("samsun")
    with pytest.raises(BadRequest, match="truth_endmembers"):
        Unmix(UnmixOptions(truth=str(path))).open(str(path))


def test_truth_files_and_a_library_of_own_spectra(tmp_path: Path) -> None:
    from domains.hyperspectral.bands import plain_bands
    from domains.hyperspectral.data import ArrayScene

    made = simulate_mixture(0, shape=(32, 32), bands=20, endmembers=3, variety=0.0, snr_db=50)
    copy_cube(made.scene, tmp_path / "scene.tif")
    copy_cube(ArrayScene("a", made.abundances.astype(np.float32), plain_bands(3)), tmp_path / "truth.tif")
    nm = made.scene.bands.wavelength_nm
    assert nm is not None
    decoy = np.stack([*made.endmembers, made.endmembers[0][::-1]])
    for name, spectra in (("truth", made.endmembers), ("known", decoy)):
        rows = [["wavelength", *"abcd"[: len(spectra)]]]
        rows += [[repr(w), *map(repr, spectra[:, i].tolist())] for i, w in enumerate(nm)]
        (tmp_path / f"{name}.csv").write_text("\n".join(",".join(r) for r in rows))
    options = {
        "truth": tmp_path / "truth.tif",
        "truth_endmembers": tmp_path / "truth.csv",
        "library": tmp_path / "known.csv",
    }
    task = Unmix(UnmixOptions.model_validate({k: str(v) for k, v in options.items()} | {"patch_radius": 2}))
    data = task.open(str(tmp_path / "scene.tif"))
    split = task.split(data)
    fitted = task.fit(data, split)
    assert sorted(fitted["names"]) == ["a", "b", "c"]
    model = task.build(fitted, load_preset(task.default_preset))
    found = task.metrics(task.evidence(model, data, split, fitted, "test"))
    assert found["endmember_angle_worst"] < 1e-3
    assert found["abundance_rmse"] < 0.08
    assert not model.drift.requires_grad


@pytest.mark.skipif(not BERLIN.is_file(), reason="the Berlin library is not on this machine (CAMBIUM_DATA)")
def test_envi_library_has_bands_on_the_samples_axis() -> None:
    library = read_library(BERLIN)
    assert library.spectra.shape == (75, 177)
    assert library.names[0] == "red clay tile 1"
    assert 400 < library.wavelength_nm[0] < 500
    assert library.wavelength_nm[-1] > 2300
    raw = np.fromfile(BERLIN, "<f8", 177)
    assert np.array_equal(library.spectra[0], raw)


def test_damaged_libraries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no such file"):
        read_library(tmp_path / "none.sli")
    (tmp_path / "a.sli").write_bytes(b"1234")
    (tmp_path / "a.hdr").write_text("ENVI\nsamples = 3\nlines = 2\ndata type = 5\nwavelength = {400, 500, 600}\n")
    with pytest.raises(BadInput, match="4 bytes"):
        read_library(tmp_path / "a.sli")
    np.ones((2, 3)).tofile(tmp_path / "a.sli")
    (tmp_path / "a.hdr").write_text(
        "ENVI\nsamples=3\nlines=2\ndata type=5\nwavelength = {.4,.5,.6}\nwavelength units = nm\n"
    )
    with pytest.raises(BadInput, match="cannot be nanometres"):
        read_library(tmp_path / "a.hdr")


@pytest.mark.skipif(not (data_home() / "hyperspectral" / "samson").is_dir(), reason="samson is not here (CAMBIUM_DATA)")
def test_samson_is_read_column_by_column() -> None:
    data = Unmix(UnmixOptions()).open("samson")
    assert data.truth is not None
    assert np.allclose(data.truth.abundances.sum(0), 1, atol=1e-3)
    values, _ = data.plain.read(slice(0, 95), slice(0, 95))
    for image in (values[80], data.truth.abundances[1]):  # neighbours are alike only where the axes are right
        assert np.abs(np.diff(image, axis=0)).mean() < 0.4 * np.abs(image - image.mean()).mean()
        assert np.abs(np.diff(image, axis=1)).mean() < 0.4 * np.abs(image - image.mean()).mean()
    assert not data.truth.area
    assert data.truth.under("equal") is data.truth.under("scene")
