"""`medical/signal`: records on disk, matching of beats, Pan-Tompkins, windows that join without seams, refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.medical.beats import REFRACTORY, matched, peaks
from domains.medical.data.signals import open_record, read_beats, read_span, records_of
from domains.medical.pan_tompkins import detect
from domains.medical.signal import Signal, listen, runs_of
from domains.medical.signal_config import SignalOptions
from domains.medical.signal_data import Hearts, at_rate
from domains.medical.signal_scoring import beat_evidence, beat_scores
from domains.medical.signal_simulate import simulated
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import load_preset

from .made import Folder

SMALL: dict[str, Any] = {"simulated": {"seconds": 60, "records": 3}, "window_s": 4, "split": {"gap_s": 1}}


def options(**changes: Any) -> SignalOptions:
    return SignalOptions.model_validate({**SMALL, **changes})


@pytest.fixture(scope="session")
def hearts() -> Hearts:
    return Signal(options()).open("simulated")


@pytest.fixture(scope="session")
def fitted(hearts: Hearts) -> dict[str, Any]:
    task = Signal(options())
    return json.loads(json.dumps(task.fit(hearts, task.split(hearts))))


def write_record(folder: Path, name: str = "made", seed: int = 0, beats: bool = True) -> Path:
    """A made heart as a WFDB record with one gap and, unless told otherwise, its beats."""
    made = simulated({"seed": seed, "records": 1, "seconds": 60})[0]
    folder.mkdir(parents=True, exist_ok=True)
    wave = made.wave.astype(np.float64)[:, None].copy()
    wave[3000:3050] = np.nan
    wfdb.wrsamp(name, 180, ["mV"], ["MLII"], wave, fmt=["16"], write_dir=str(folder), comments=["69 M Quillfeather"])
    if beats:
        at = np.round(made.beats * 180).astype(int)
        marks = ["NAV"[k] for k in made.kinds]
        wfdb.wrann(name, "atr", at, np.array(marks), write_dir=str(folder))
    return folder / name


def test_records_are_read_with_their_gaps_and_beats(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    made = simulated({"seed": 0, "records": 1, "seconds": 60})[0]
    record = open_record(path.with_suffix(".hea"))
    assert (record.rate, record.length, record.leads) == (180.0, 60 * 180, ("MLII",))
    x = read_span(record, 0, 2000, 4000)
    assert np.isnan(x).sum() == 50
    np.testing.assert_allclose(x[:900], made.wave[2000:2900], atol=1e-3)
    samples, kinds = read_beats(record)
    np.testing.assert_array_equal(samples, np.round(made.beats * 180).astype(int))
    assert kinds == tuple("NSV"[k] for k in made.kinds)
    assert "Quillfeather" not in str(record)
    assert [r.name for r in records_of(tmp_path)] == ["made"]


def test_records_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.hea is not there"):
        open_record(tmp_path / "none")
    with pytest.raises(BadInput, match=r"no WFDB record"):
        records_of(tmp_path)
    path = write_record(tmp_path / "bare", beats=False)
    with pytest.raises(BadInput, match=r"no annotated beats \(made\.atr"):
        Signal(options()).open(str(path))
    whole = path.with_suffix(".dat").read_bytes()
    path.with_suffix(".dat").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"damaged or cut|cut, sample"):
        open_record(path)
    path.with_suffix(".dat").unlink()
    with pytest.raises(BadInput, match=r"made\.dat"):
        open_record(path)
    path.with_suffix(".hea").write_text("69 M Quillfeather")
    with pytest.raises(BadInput, match=r"not a WFDB header|names no signal") as refused:
        open_record(path)
    assert "Quillfeather" not in str(refused.value)
    path = write_record(tmp_path / "one")
    with pytest.raises(BadInput, match="lead 3 is asked for; it has 1"):
        Signal(options(lead=3)).open(str(path))


@pytest.mark.data
def test_record_100_is_what_the_field_knows(public_data: Path) -> None:
    base = public_data / "medical" / "ecg_wfdb_samples" / "100"
    if not base.with_suffix(".hea").is_file():
        pytest.skip(f"{base} is not there")
    record = open_record(base)
    assert (record.rate, record.length, record.leads) == (360.0, 650_000, ("MLII", "V5"))
    x = read_span(record, 0, 0, 72_000)
    assert x[0] == pytest.approx((995 - 1024) / 200)
    samples, kinds = read_beats(record)
    assert (len(samples), kinds.count("S"), kinds.count("V")) == (2273, 33, 1)
    found = detect(x.astype(np.float64), 360.0)
    truth = samples[samples < 72_000 - 54] / 360
    assert (matched(truth, found, 0.075) >= 0).mean() > 0.99
    assert len(found) <= len(truth) + 2


@pytest.mark.data
def test_a_dicom_waveform_is_heard(public_data: Path) -> None:
    path = public_data / "medical" / "dicom_pydicom" / "waveform_ecg.dcm"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    record = open_record(path)
    assert (record.rate, record.length, len(record.leads)) == (1000.0, 10_000, 12)
    beats = detect(read_span(record, 1, 0, record.length).astype(np.float64), record.rate)
    assert 5 <= len(beats) <= 20
    with pytest.raises(BadInput, match="no annotated beats"):
        read_beats(record)


times = st.lists(st.floats(0, 20, allow_nan=False), max_size=12).map(lambda t: np.array(sorted(set(t))))


@settings(max_examples=60)
@given(times, times, st.sampled_from([0.075, 0.15, 1.0]))
def test_matching_is_one_to_one_and_as_large_as_can_be(truth: Any, found: Any, tolerance: float) -> None:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    pairs = matched(truth, found, tolerance)
    used = pairs[pairs >= 0]
    assert len(set(used.tolist())) == len(used)
    assert (np.abs(truth[pairs >= 0] - found[used]) <= tolerance + 1e-12).all()
    apart = np.diff(truth).min(initial=np.inf)
    if len(truth) and len(found) and apart > 2 * tolerance:  # as heart beats are: then nothing is left out
        near = csr_matrix(np.abs(truth[:, None] - found[None]) <= tolerance)
        assert len(used) == (maximum_bipartite_matching(near, perm_type="column") >= 0).sum()


def test_peaks_keep_apart_and_are_finer_than_their_grid() -> None:
    step = 0.02
    at = np.arange(500) * step
    truth = np.array([1.003, 2.511, 2.62, 7.777])
    p = np.max([np.exp(-0.5 * ((at - t) / 0.03) ** 2) * h for t, h in zip(truth, (1, 0.9, 0.6, 0.8), strict=True)], 0)
    found, _ = peaks(p, step, 0.3)
    np.testing.assert_allclose(found, truth[[0, 1, 3]], atol=0.004)
    assert np.diff(found).min() >= REFRACTORY
    assert len(peaks(np.zeros(50), step, 0.3)[0]) == 0


def test_pan_tompkins_finds_made_beats() -> None:
    made = simulated({"seed": 3, "records": 2, "seconds": 60})
    for heart in made:
        for rate in (180.0, 360.0):
            found = detect(at_rate(heart.wave, 180.0, rate).astype(np.float64), rate)
            pairs = matched(heart.beats, found, 0.15)
            assert (pairs >= 0).mean() > 0.97
            assert len(found) - (pairs >= 0).sum() <= 2
    assert len(detect(np.full(4000, np.nan), 180.0)) == 0
    assert len(detect(np.zeros(4000), 180.0)) == 0


def test_misses_alarms_and_kinds_are_counted(hearts: Hearts) -> None:
    heart = hearts.hearts[0]
    last = int(len(heart.wave) // 2)
    rows = np.array([[0, 0, 720], [0, 720, last]], np.int64)
    truth = heart.beats[heart.beats < last / 180.0]
    kinds = heart.kinds[: len(truth)]
    times = np.sort(np.append(np.delete(truth, 3) + 0.1, truth[5] + 0.4))
    guess = np.zeros(len(times), np.int64)
    evidence = beat_evidence(hearts.hearts, rows, 180.0, 0.15, [0, 1, 2], {0: (times, guess)})
    found = beat_scores(evidence)
    n = len(truth)
    assert (found["missed"], found["false_alarms"]) == (1, 1)
    assert found["f1"] == pytest.approx(2 * (n - 1) / (2 * n))
    assert found["f1_75ms"] == 0
    assert found["timing_ms"] == pytest.approx(100)
    assert found["kind_accuracy"] == pytest.approx((np.delete(kinds, 3) == 0).mean())
    assert evidence.columns["misses"].sum() == 1


def test_windows_join_without_seams(hearts: Hearts, fitted: dict[str, Any]) -> None:
    """A network that only looks at its neighbourhood answers the same however the recording is cut."""
    task = Signal(options())
    torch.manual_seed(0)
    model = task.build(fitted, load_preset("beat_mixer"))
    model.backbone = _Pass()  # convolutions of the stem alone
    model.front = _Raw()
    model.eval()
    wave = hearts.hearts[0].wave[:5003]
    a = listen(model, wave, 640, 160)
    b = listen(model, wave, 1600, 160)
    np.testing.assert_allclose(a[0][20:-20], b[0][20:-20], atol=1e-5)
    assert a[2] == b[2] == pytest.approx(4 / 180)


class _Pass(torch.nn.Module):
    dim = 48

    def forward(self, x: Any, layout: Any) -> Any:
        return x, layout


class _Raw(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        y = x.nan_to_num(0.0)[:, None]
        return torch.cat([y, torch.zeros_like(y)], 1), x.isfinite()


def test_gaps_drift_and_gain_change_nothing_much(fitted: dict[str, Any], hearts: Hearts) -> None:
    task = Signal(options())
    torch.manual_seed(0)
    model = task.build(fitted, load_preset("beat_mixer")).eval()
    x = torch.from_numpy(hearts.hearts[0].wave[:720])[None]
    with torch.no_grad():
        torch.testing.assert_close(model(x), model(3 * x + 40), atol=2e-2, rtol=2e-2)
        holed = x.clone()
        holed[:, 300:320] = float("nan")
        assert bool(model(holed).isfinite().all())
        spoilt = holed.clone()
        spoilt[:, 300:320] = float("inf")
        torch.testing.assert_close(model(holed), model(spoilt))


def test_parts_follow_in_time_or_are_whole_records(hearts: Hearts) -> None:
    split = Signal(options()).split(hearts)
    for r in range(3):
        ends = {p: split.parts[p][split.parts[p][:, 0] == r] for p in split.parts}
        assert ends["train"][:, 2].max() + 180 <= ends["val"][:, 1].min()
        assert ends["val"][:, 2].max() + 180 <= ends["test"][:, 1].min()
    whole = Signal(options(split={"protocol": "records"})).split(hearts)
    assert sorted(len(set(v[:, 0].tolist())) for v in whole.parts.values()) == [1, 1, 1]
    assert runs_of(np.array([[0, 5, 9], [0, 0, 5], [1, 0, 3]])) == [(0, 0, 9), (1, 0, 3)]
    with pytest.raises(BadInput, match="too short to be cut by time"):
        Signal(options(window_s=30, simulated={"records": 1, "seconds": 60})).split(
            Signal(options(simulated={"records": 1, "seconds": 60})).open("simulated")
        )


def test_beats_are_predicted_from_a_folder(fitted: dict[str, Any], tmp_path: Path) -> None:
    write_record(tmp_path / "in", "one", 1)
    write_record(tmp_path / "in", "two", 2, beats=False)
    task = Signal(options())
    torch.manual_seed(0)
    model = task.build(fitted, load_preset("beat_mixer")).eval()
    model.threshold.fill_(0.0)
    facts = task.predict(model, fitted, str(tmp_path / "in"), Folder(tmp_path))
    rows = list(csv.DictReader((tmp_path / "beats.csv").open()))
    assert facts["beats"] == len(rows) > 20
    assert facts["seconds"] == 120
    assert {r["record"] for r in rows} == {"one", "two"}
    assert all(float(r["interval_s"] or 1) >= REFRACTORY - 0.03 for r in rows)
    assert {r["kind"] for r in rows} <= set(fitted["kinds"])


def test_settings_are_checked(fitted: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="did you mean 'records'"):
        Signal(options(simulated={"record": 1})).open("simulated")
    with pytest.raises(BadRequest, match=r"unknown stem of a signal task"):
        Signal(options()).build(fitted, load_preset("medical_duo"))
