"""Tables of a run: written whole as CSV, the first rows kept for the report."""

from __future__ import annotations

import csv
from pathlib import Path

from pipelines.tables import SHOWN, save_tables, shown_tables


def test_rows_are_written_and_the_first_are_shown(tmp_path: Path) -> None:
    rows = [{"name": f"s{i}", "mae": None if i == 1 else i / 3, "worst": float("nan")} for i in range(50)]
    save_tables(tmp_path / "tables", {"scores by series": rows, "nothing": []})
    with (tmp_path / "tables" / "scores_by_series.csv").open() as f:
        found = list(csv.DictReader(f))
    assert len(found) == 50
    assert found[1]["mae"] == ""
    assert float(found[2]["mae"]) == 2 / 3
    (shown,) = shown_tables(tmp_path)
    assert shown["rows"] == 50
    assert len(shown["first"]) == SHOWN
    assert shown["first"][0]["worst"] is None
    assert shown["columns"] == ["name", "mae", "worst"]
    assert shown["link"] == "tables/scores_by_series.csv"
    assert shown_tables(tmp_path / "none") == []
    save_tables(tmp_path / "empty", {})
    assert not (tmp_path / "empty").exists()
