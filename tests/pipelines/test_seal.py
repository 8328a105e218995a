"""Seals: a promoted model that was changed is not used; with a key, nobody without it can make one pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.cli import run as cambium
from pipelines.predict import predict
from pipelines.registry import promote, record, resolve
from pipelines.seal import KEY, SEAL, seal, verify
from pipelines.site import site
from shared_backbones.errors import BadInput, BadRequest

from .made import make_run, rows_task  # noqa: F401 - a fixture
from .test_registry import empty_database, root  # noqa: F401 - fixtures
from .test_report import Page

CHAMPION = "toy-rows@champion"


def change(run: Path) -> None:
    """Another fitted value in the model's description, which no checksum of the weights sees."""
    meta = json.loads((run / "model.json").read_text())
    meta["fitted"]["mean"] += 1
    (run / "model.json").write_text(json.dumps(meta))


def test_a_promoted_model_that_changed_is_not_used(root: Path, tmp_path: Path) -> None:  # noqa: F811
    run = make_run(root / "toy-rows" / "aaaaaaaaaaaa")
    other = make_run(root / "toy-rows" / "bbbbbbbbbbbb", seed=1)
    record(run, root)
    record(other, root)
    assert (verify(run), verify(other)) == (True, False)
    assert resolve(CHAMPION, root) == run
    change(run)
    with pytest.raises(BadInput, match=r"model\.json has changed since the model was promoted"):
        resolve(CHAMPION, root)
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    with pytest.raises(BadInput, match="has changed since the model was promoted"):
        predict(run, [str(tmp_path / "a.npy")], tmp_path / "out")  # not by its folder either
    assert not (tmp_path / "out").exists()
    promote(run.name, root)  # who has looked at it
    assert resolve(CHAMPION, root) == run
    change(other)
    assert resolve("toy-rows@2", root) == other  # never promoted


def test_with_a_key(rows_task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    run = make_run(tmp_path / "aaaaaaaaaaaa")
    seal(run)
    monkeypatch.setenv(KEY, "a key that is long enough")
    with pytest.raises(BadInput, match="was not signed with this CAMBIUM_SEAL_KEY"):
        verify(run)
    path = seal(run)
    assert verify(run)
    assert "long enough" not in path.read_text()
    change(run)
    content = json.loads(path.read_text())
    monkeypatch.delenv(KEY)
    seal(run)  # what one without the key can do
    forged = json.loads(path.read_text())
    path.write_text(json.dumps({**forged, "hmac": content["hmac"]}))
    monkeypatch.setenv(KEY, "a key that is long enough")
    with pytest.raises(BadInput, match="was not signed"):
        verify(run)
    (run / SEAL).unlink()
    with pytest.raises(BadInput, match=r"carries no seal\.json"):
        verify(run)
    (run / SEAL).write_text("{")
    with pytest.raises(BadInput, match="cannot be read"):
        verify(run)
    monkeypatch.setenv(KEY, "short")
    with pytest.raises(BadRequest, match="at least 16 characters"):
        verify(run)


def test_a_site_of_all_runs(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert cambium(["report", "site", str(tmp_path / "site"), "--runs", str(root)]) == 2
    assert "no finished run" in capfd.readouterr().err
    runs = [make_run(root / "toy-rows" / name, mse=mse) for name, mse in (("a" * 12, 0.5), ("b" * 12, 0.3))]
    record(runs[0], root)
    assert cambium(["report", "site", str(tmp_path / "site"), "--runs", str(root), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    page = Page(Path(told["index"]).read_text())
    assert f"toy-rows@champion is run {'a' * 12} since" in page.text
    assert page.links == [f"runs/toy-rows/{run.name}.html" for run in runs]
    moved = (tmp_path / "site").rename(tmp_path / "moved")
    for target in page.links:
        assert Page((moved / target).read_text()).text
    for path in runs[1].iterdir():
        path.unlink()
    assert site(root, moved)["runs"] == 1
    assert [p.name for p in (moved / "runs" / "toy-rows").iterdir()] == [f"{'a' * 12}.html"]
