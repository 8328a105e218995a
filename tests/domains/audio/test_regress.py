"""`audio/regress`: concordance, ragged batches, manifests with numbers, predictions, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.audio.data import write_wav
from domains.audio.items import collate
from domains.audio.regress import Regress
from domains.audio.regress_config import RegressOptions
from domains.audio.regress_scoring import evidence_of, scores
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import load_preset

from .conftest import SMALL, tone
from .test_classify import Folder


def opened(source: str = "simulated", **changes: Any) -> tuple[Regress, Any, Any, dict[str, Any]]:
    task = Regress(RegressOptions.model_validate({"simulated": SMALL, **changes}))
    data = task.open(source)
    split = task.split(data)
    return task, data, split, json.loads(json.dumps(task.fit(data, split)))


def built(task: Regress, fitted: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return task.build(fitted, load_preset("audio_mixer")).eval()


@settings(max_examples=25)
@given(st.integers(0, 99), st.integers(3, 30), st.booleans())
def test_scores_are_their_definitions(seed: int, n: int, weighted: bool) -> None:
    random = np.random.default_rng(seed)
    y, scale = random.standard_normal((n, 2)) * 3 + 1, np.array([2.0, 0.5])
    p = 0.6 * y + random.standard_normal((n, 2)) + 0.3
    evidence = evidence_of(np.arange(n), y, p, scale, ("arousal", "valence"))
    times = random.integers(1, 4, n) if weighted else np.ones(n, int)
    found = scores(evidence.reweighted(times.astype(float)))
    y, p = np.repeat(y, times, 0) / scale, np.repeat(p, times, 0) / scale
    ccc = []
    for a, b in zip(y.T, p.T, strict=True):
        ccc.append(2 * np.cov(a, b, bias=True)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2))
    assert found["ccc_arousal"] == pytest.approx(ccc[0], abs=1e-8)
    assert found["ccc"] == pytest.approx(np.mean(ccc), abs=1e-8)
    assert found["pearson"] == pytest.approx(
        np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(y.T, p.T, strict=True)]), abs=1e-8
    )
    assert found["mae"] == pytest.approx(np.abs(y - p).mean())
    assert found["rmse"] == pytest.approx(np.sqrt(((y - p) ** 2).mean(0)).mean())


def test_a_constant_agrees_with_nothing_and_the_truth_with_itself() -> None:
    y = np.arange(5.0)[:, None]
    for told, expected in ((np.full_like(y, 2.0), 0.0), (y, 1.0), (-y + 4, -1.0)):
        assert scores(evidence_of(np.arange(5), y, told, np.ones(1), ("x",)))["ccc"] == pytest.approx(expected)


def test_it_learns_and_a_batch_is_its_items() -> None:
    task, data, split, fitted = opened()
    assert data.targets == ("height", "movement")
    model = built(task, fitted)
    items = task.items(data, split, fitted, "test")
    batch = items.batch(range(6))
    with torch.no_grad():
        together = model(batch["wave"], batch["length"])
        alone = torch.cat([model(**collate([data.clips.waves[int(i)]])) for i in split.parts["test"][:6]])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    told = task.told(model, items, fitted)
    centre, scale = np.array(fitted["centre"]), np.array(fitted["scale"])
    np.testing.assert_allclose(told[:6], together.numpy() * scale + centre, atol=1e-4)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = float(task.loss(model, batch)[0].detach())
    for _ in range(15):
        loss = task.loss(model, batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.8 * first


def manifest(folder: Path, rows: str) -> str:
    for i in range(6):
        write_wav(folder / f"{i}.wav", tone(200 + 90 * i, 0.3), 8000)
    (folder / "list.csv").write_text("path,Arousal,valence,remark,speaker\n" + rows)
    return str(folder / "list.csv")


def test_numbers_of_a_manifest_and_predictions_over_time(tmp_path: Path) -> None:
    rows = "".join(f"{i}.wav,{i / 5},{-i},fine,{'abc'[i // 2]}\n" for i in range(6))
    source = manifest(tmp_path, rows)
    task, data, split, fitted = opened(source)
    assert fitted["targets"] == ["arousal", "valence"]
    np.testing.assert_allclose(data.values[:, 0], np.arange(6) / 5)
    assert {data.clips.groups[i] for i in split.parts["test"]}.isdisjoint(
        data.clips.groups[i] for i in split.parts["train"]
    )
    assert opened(source, targets=["Valence"])[1].targets == ("valence",)
    before = data.manifest.sha256
    assert opened(manifest(tmp_path, rows.replace("0.2", "0.25")))[1].manifest.sha256 != before
    write_wav(tmp_path / "long.wav", tone(300, 17.0), 8000)
    model = built(task, fitted)
    facts = task.predict(model, fitted, str(tmp_path / "long.wav"), Folder(tmp_path))
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert table.columns.tolist() == ["file", "start", "end", "arousal", "valence"]
    assert (facts["clips"], facts["windows"], facts["seconds"]) == (1, len(table), 17.0)
    content, follower = (tmp_path / "long.wav").read_bytes(), task.follow(model, fitted)
    followed = [row for i in range(0, len(content), 9001) for row in follower.push(content[i : i + 9001])]
    assert [row["start"] for row in followed] == table["start"].tolist()[: len(followed)]
    assert len(followed) in (len(table) - 1, len(table))
    np.testing.assert_allclose(
        [row["valence"] for row in followed], table["valence"][: len(followed)], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("rows", "asked", "says"),
    [
        ("0.wav,1,2,x,a\n1.wav,?,3,y,b\n", ["arousal"], r"row 3: arousal must be a number, got '\?'"),
        ("0.wav,x,y,z,a\n1.wav,x,y,z,b\n", [], r"no column with a number in every row.*arousal, valence, remark"),
        ("0.wav,1,2,x,a\n", ["arousel"], "unknown column.*did you mean 'arousal'"),
        (
            "0.wav,1,1,x,a\n1.wav,1,2,x,b\n2.wav,1,3,x,c\n3.wav,1,4,x,b\n",
            ["arousal"],
            "the same in every training clip",
        ),
    ],
)
def test_what_cannot_be_is_refused(rows: str, asked: list[str], says: str, tmp_path: Path) -> None:
    source = manifest(tmp_path, rows)
    with pytest.raises((BadInput, BadRequest), match=says):
        opened(source, targets=asked)
