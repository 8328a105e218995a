"""Public data: found by checksum, never fetched behind the user's back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from domains.public import PublicData, PublicFile, fetch, locate
from shared_backbones.errors import BadInput

CONTENT = b"1,2,3\n"
SET = PublicData(
    name="three",
    domain="numbers",
    files={"three.csv": PublicFile(hashlib.sha256(CONTENT).hexdigest(), "https://example.invalid/three.csv")},
    licence="CC0",
    source="nobody",
    protocol="none",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAMBIUM_DATA", str(tmp_path))
    (tmp_path / "numbers" / "three").mkdir(parents=True)
    return tmp_path / "numbers" / "three"


def test_found_by_checksum(home: Path) -> None:
    (home / "three.csv").write_bytes(CONTENT)
    assert locate(SET) == {"three.csv": home / "three.csv"}
    assert fetch(SET) == locate(SET)  # nothing is missing, so no network is needed


def test_absent_says_how_to_get_it(home: Path) -> None:
    with pytest.raises(BadInput, match="cambium data get three"):
        locate(SET)


def test_changed_bytes_are_refused(home: Path) -> None:
    (home / "three.csv").write_bytes(b"1,2,4\n")
    with pytest.raises(BadInput, match="sha256"):
        locate(SET)


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CAMBIUM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BadInput, match=str(tmp_path / "cambium")):
        locate(SET)
