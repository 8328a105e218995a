"""Reports: complete, escaped, readable by someone new, honest about models that do not beat a baseline."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import domains
from domains.task import MetricFact
from pipelines.card import write_card
from pipelines.charts import Bar, dots, lines, ticks
from pipelines.findings import Run
from pipelines.report import write_index, write_report
from pipelines.trainer.child import save_figures
from pipelines.wording import duration, plain, short
from shared_backbones.errors import BadInput

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Toy:
    name = "toy/rule"
    summary = "Says where a line goes next."
    metric_facts: ClassVar = {
        "mse": MetricFact("degC^2", "lower", "mean squared error"),
        "coverage": MetricFact("1", "target", "share of truths within the 80 % interval", 0.8),
    }


def interval(value: float, width: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": value + width}


def metrics(**changes: Any) -> dict[str, Any]:
    return {
        "task": "toy/rule",
        "run": "abc123def456",
        "preset": "straight",
        "seed": 3,
        "split": {
            "protocol": "first 60 % to learn, next 20 % to choose, last 20 % to score",
            "digest": "0" * 64,
            "sizes": {"train": 600, "val": 200, "test": 200},
            "facts": {"test from": "2020-01-01"},
        },
        "metrics": {"mse": interval(0.374), "coverage": interval(0.79)},
        "baselines": {"repeat_last": {"mse": 0.512, "coverage": None}, "ridge": {"mse": 0.401, "coverage": 0.9}},
        "ablation": {"identity": {"mse": interval(0.39)}},
        "audits": [{"name": "overlap", "value": 0.0, "passed": True, "meaning": "no window stands in two parts"}],
        "cost": {"parameters": 12345, "macs": 2.5e6, "train_seconds": 12.5, "items_per_second": 800.0, "device": "cpu"},
        **changes,
    }


def make_run(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    config = {"task": "toy/rule", "data": "temperatures.csv", "preset": "straight", "seed": 3, "lookback": 96}
    config |= {"train": {"epochs": 3, "lr": 0.001}, "model": {}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    data = {
        "source": "/data/temperatures.csv",
        "sha256": "f" * 64,
        "licence": "CC-BY-4.0",
        "facts": {"columns": ["a", "b"]},
    }
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "metrics.json").write_text(json.dumps(metrics(**changes)))
    history = [{"epoch": e, "train_loss": 1 / (e + 1), "val_loss": 1.1 / (e + 1), "best": e == 2} for e in range(4)]
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "figures").mkdir()
    (folder / "figures" / "forecast_bands.png").write_bytes(PIXEL)
    return folder


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(domains.TASKS, "toy/rule", lambda: Toy)


class Page(HTMLParser):
    """Text, links and everything that would be fetched."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.links, self.fetched, self.open = "", [], [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag not in ("meta", "img", "br", "line", "circle", "polyline", "link"):
            self.open.append(tag)
        if tag == "a":
            self.links.append(named["href"])
        self.fetched += [
            v for k, v in attrs if k in ("src", "srcset", "data", "poster") or (tag == "link" and k == "href")
        ]
        self.fetched += [v for k, v in attrs if k.startswith("on")]
        assert tag not in ("script", "iframe", "object", "embed")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_card_says_what_the_model_is_good_for_and_where_it_was_not_scored(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "run", audits=[{"name": "overlap", "value": 3, "passed": False, "meaning": "Windows."}]
    )
    card = write_card(folder).read_text()
    for said in (
        "# toy/rule, run",
        "| this model | 0.374 (",
        "| identity (ablation) | 0.39 (",
        "| repeat last | 0.512 | ",
        "licence CC-BY-4.0",
        "first 60 % to learn",
        "overlap: 3, FAILED. Windows.",
        "the scores may be due to leakage",
        "Other sources, sites and instruments were not scored",
    ):
        assert said in card, card
    assert "&#" not in card, "Markdown is not escaped as a page is"
    with pytest.raises(BadInput, match="not a finished run"):
        write_card(tmp_path)


def test_a_report_says_everything_and_fetches_nothing(tmp_path: Path) -> None:
    html = write_report(make_run(tmp_path / "run")).read_text()
    page = Page(html)
    assert not page.open  # every element is closed
    assert all(str(v).startswith("data:image/png;base64,") for v in page.fetched)
    assert len(page.fetched) == 1
    assert "http" not in html.replace("http://www.w3.org", "")
    for said in (
        "Says where a line goes next.",
        "mse (mean squared error) 0.374 degC^2 (95 % interval 0.364 to 0.384); lower is better",
        "It beats the best of 2 simple methods, ridge, at 0.401 degC^2",
        "CC-BY-4.0",
        "first 60 % to learn",
        "no window stands in two parts",
        "identity (ablation)",
        "repeat last",
        "12,345",
        "12.5 s",
        "cambium train toy/rule --config",
        "cambium predict",
        "share of truths within the 80 % interval",
    ):
        assert said in page.text, said
    assert "Caution" not in page.text


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({"baselines": {"ridge": {"mse": 0.36}}}, "worse", "not above its best baseline"),
        ({"baselines": {"ridge": {"mse": 0.38}}}, "level", "not clearly above"),
        ({"baselines": {}}, "no baseline", "no baseline beside it"),
        (
            {"metrics": {"mse": {"value": None, "low": None, "high": None}}},
            "no baseline",
            "mse (mean squared error) \u2013",
        ),
        (
            {
                "paired": {
                    "metric": "mse",
                    "baseline": "ridge",
                    "difference": {"value": -0.03, "low": -0.07, "high": 0.01},
                }
            },
            "level",
            "difference -0.03, 95 % interval -0.07 to 0.01",
        ),
        (
            {"audits": [{"name": "coordinates_only", "value": 99.6, "passed": False, "meaning": "too good"}]},
            "better",
            "audits of the split failed (coordinates only)",
        ),
    ],
)
def test_it_is_honest(tmp_path: Path, changes: dict[str, Any], verdict: str, said: str) -> None:
    run = make_run(tmp_path / "run", **changes)
    assert Run(run).verdict() == verdict
    assert said in Page(write_report(run).read_text()).text


def test_a_leaky_split_is_called_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"split": {"allow_leak": True}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "allow leakage" in Page(write_report(run).read_text()).text


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    run = make_run(
        tmp_path / "run",
        baselines={evil: {"mse": 0.5}},
        audits=[{"name": evil, "value": evil, "passed": None, "meaning": evil}],
        split={"protocol": evil, "sizes": {evil: 1}, "facts": {evil: [evil]}},
    )
    data = json.loads((run / "data.json").read_text()) | {
        "source": evil,
        "licence": evil,
        "facts": {evil: {evil: evil}},
    }
    (run / "data.json").write_text(json.dumps(data))
    (run / "figures" / "figures.json").write_text(
        json.dumps([{"file": "forecast_bands.png", "title": f'"{evil}', "caption": evil}])
    )
    out = write_index(
        [run], tmp_path / "index.html", title=evil, warnings=[evil], commands=[{"text": evil, "line": evil}]
    )
    for html in (write_report(run).read_text(), out.read_text()):
        page = Page(html)  # fails on a script element
        assert evil in page.text
        assert not [v for v in page.fetched if not str(v).startswith("data:")]


def test_sounds_are_played_in_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    save_figures(run / "figures", {}, {"What was heard": b"RIFF....WAVE"})
    page = write_report(run).read_text()
    assert f'<audio controls src="data:audio/wav;base64,{base64.b64encode(b"RIFF....WAVE").decode()}"' in page
    assert "What was heard" in page


def test_a_figure_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (run / "figures" / "figures.json").write_text(json.dumps([{"file": "../../secret.png", "title": "t"}]))
    assert base64.b64encode(b"secret").decode() not in write_report(run).read_text()


def test_the_index_links_and_compares(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs" / name) for name in ("one", "two words")]
    output = tmp_path / "out" / "a.csv"
    predictions = {runs[0]: [{"input": "a.csv", "state": "done", "outputs": [output], "reason": ""}]}
    index = write_index(runs, tmp_path / "site" / "index.html", predictions=predictions)
    page = Page(index.read_text())
    assert page.links == [
        "../runs/one/report.html",
        "../runs/two%20words/report.html",
        "../out/a.csv",
    ]
    assert "ridge" in page.text
    assert "better" in page.text


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no metrics.json"):
        write_report(tmp_path)
    (tmp_path / "metrics.json").write_text('{"task": "toy/li')
    with pytest.raises(BadInput, match="not whole JSON"):
        write_report(tmp_path)


numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)


@given(value=st.one_of(numbers, st.integers(), st.none()))
def test_any_number_is_short(value: float | int | None) -> None:
    text = short(value)
    assert 0 < len(text) <= max(16, len(f"{value:,}") if isinstance(value, int) else 0)


@given(value=st.floats(min_value=1e-3, max_value=9999, allow_nan=False))
def test_short_keeps_four_digits(value: float) -> None:
    assert float(short(value).replace(",", "")) == pytest.approx(value, rel=6e-4)


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    marks = ticks(low, low + span)
    assert 1 <= len(marks) <= 7
    assert all(low - span * 1e-6 <= t <= low + span * (1 + 1e-6) for t in marks)


@given(values=st.lists(st.tuples(numbers, numbers, numbers), max_size=6))
def test_charts_survive_any_numbers(values: list[tuple[float, float, float]]) -> None:
    svg = dots([Bar("<b>", v, a, b) for v, a, b in values], "x") + lines(
        {"a": [(a, b) for a, b, _ in values]}, "x", "y"
    )
    assert not re.search(r'(?:[xyr12]|points)="[^"]*(?:nan|inf)', svg)
    assert "<b>" not in svg


def test_words() -> None:
    assert plain({"a_b": [True, None, 3]}) == "a b: yes, none, 3"
    assert plain(list(range(20))).endswith("(20 in all)")
    assert [duration(s) for s in (3, 120, 7200)] == ["3.0 s", "2.0 min", "2.0 h"]
