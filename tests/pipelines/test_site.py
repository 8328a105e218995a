"""The site of all runs in a real browser: every page opens, nothing is fetched, nothing runs over the edge."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.site import site

from .browser import NAMES, browser, opened
from .test_report import make_run, metrics, toy  # noqa: F401 - a fixture

FITS = "document.documentElement.scrollWidth <= window.innerWidth"
SHOWN = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
DRAWN = "[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().width > 50)"


@pytest.mark.slow
def test_the_site_in_a_browser(tmp_path: Path) -> None:
    path = browser()
    if path is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(NAMES)}): apt-get install chromium")
    root = tmp_path / "runs"
    for name, value in (("abc123def456", 0.374), ("0f0f0f0f0f0f", 0.36)):
        scores = {**metrics()["metrics"], "mse": {"value": value, "low": value - 0.01, "high": value + 0.01}}
        make_run(root / "toy-rule" / name, run=name, metrics=scores)
    made = site(root, tmp_path / "site")
    assert made["runs"] == 2
    with opened(path, tmp_path) as tab:
        tab.go(Path(made["index"]).as_uri())
        links = tab.js("[...document.querySelectorAll('td a')].map(a => a.href)")
        assert sorted(links) == sorted(Path(page).as_uri() for page in made["pages"])
        assert tab.js("document.querySelectorAll('svg').length") >= 1  # the comparison of the two
        for number in range(len(links)):
            for width in (1200, 400):
                tab.wide(width)
                assert tab.js(FITS), (tab.js("location.href"), width)
            assert tab.js(SHOWN)
            assert tab.js(DRAWN)
            tab.follow(f"document.querySelectorAll('td a')[{number}].click()")
            run = Path(links[number]).stem
            assert run in tab.js("document.body.innerText")
            assert tab.js("document.querySelectorAll('figure img, figure svg').length") >= 1
            assert tab.js(FITS)
            assert tab.js(SHOWN)
            tab.follow("history.back()")
        assert {address.partition(":")[0] for address in tab.asked} <= {"file", "data"}
        assert tab.errors == []
