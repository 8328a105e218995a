"""Reading tables: layouts, gaps as masks, covariates, and every kind of bad input."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from domains.timeseries.data import Panel, parse_panel
from domains.timeseries.tables import ReadOptions, read_bytes
from shared_backbones.errors import BadInput
from tests.domains.timeseries.made import opened, table, task, written


def read(text: str | bytes, **options: object) -> Panel:
    raw = text if isinstance(text, bytes) else text.encode()
    return parse_panel(raw, "a.csv", ReadOptions(**options))  # type: ignore[arg-type]


def long_table() -> pd.DataFrame:
    """Two monthly series of different spans with one covariate of each role."""
    rows = []
    for name, first, n, size in (("b", "2020-03-01", 8, 2.0), ("a", "2020-01-01", 12, 1.0)):
        for i, ds in enumerate(pd.date_range(first, periods=n, freq="MS")):
            rows.append((name, ds, size * i + 1, 10 * i, 100 * i, size))
    return pd.DataFrame(rows, columns=["unique_id", "ds", "y", "rain", "price", "area"])


def test_wide_values_and_times_are_those_of_the_file(tmp_path: Path) -> None:
    frame = table()
    panel = opened(frame, tmp_path)
    assert np.allclose(panel.values, frame.iloc[:, 1:].to_numpy())
    assert np.array_equal(panel.times, frame["date"].to_numpy())
    assert (panel.names, panel.freq, panel.mask.all()) == (("s0", "s1", "s2"), "h", True)
    assert panel.manifest.facts["steps"] == len(frame)


def test_csv_gzip_and_parquet_give_the_same_panel(tmp_path: Path) -> None:
    frame = table(60)
    path = Path(written(frame, tmp_path))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    frame.to_parquet(tmp_path / "a.parquet")
    frame.set_index("date").to_parquet(tmp_path / "indexed.parquet")
    panels = [
        parse_panel(read_bytes(str(tmp_path / name)), name, ReadOptions())
        for name in ("a.csv", "a.csv.gz", "a.parquet", "indexed.parquet")
    ]
    for panel in panels[1:]:
        assert np.allclose(panel.values, panels[0].values)
        assert np.array_equal(panel.times, panels[0].times)
    assert len({p.manifest.sha256 for p in panels}) == 4  # of the bytes that were read


def test_a_url_is_read_like_a_path(tmp_path: Path) -> None:
    path = written(table(60), tmp_path)
    assert read_bytes(f"file://{path}") == read_bytes(path)


def test_gaps_cells_and_sentinels_are_masked_never_filled() -> None:
    text = "date,a,b\n2024-01-01,1,2\n2024-01-02,,3\n2024-01-04,-999,4\n2024-01-05,5,6\n2024-01-06,7,8\n"
    panel = read(text, missing_values=(-999.0,))
    assert panel.mask.tolist() == [[1, 1], [0, 1], [0, 0], [0, 1], [1, 1], [1, 1]]
    assert np.isnan(panel.values[~panel.mask]).all()
    assert panel.values[panel.mask].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_zones_become_utc() -> None:
    rows = "\n".join(f"2024-01-01T0{h}:00:00+02:00,{h}" for h in range(5))
    panel = read(f"date,a\n{rows}\n")
    assert str(panel.times[0]).startswith("2023-12-31T22:00")


def test_headerless_numbered_rows() -> None:
    panel = read("1,2\n3,4\n5,7\n", header=False, time="none")
    assert panel.names == ("series_0", "series_1")
    assert panel.times.tolist() == [0, 1, 2]
    assert panel.freq == "1"


def test_long_series_are_aligned_with_masks(tmp_path: Path) -> None:
    panel = read(long_table().to_csv(index=False), past=("rain",), future=("price",), static=("area",))
    assert panel.names == ("a", "b")
    assert panel.freq == "MS"
    assert panel.mask[:, 0].all()
    assert panel.mask[:, 1].tolist() == [False] * 2 + [True] * 8 + [False] * 2
    assert panel.values[2:10, 1].tolist() == [2 * i + 1 for i in range(8)]
    assert panel.past[5, :, 0].tolist() == [50, 30]
    assert np.isnan(panel.future[0, 1, 0])
    assert panel.static.tolist() == [[1.0], [2.0]]


def test_wide_covariates_are_shared_and_no_targets() -> None:
    panel = read("date,a,t\n2024-01-01,1,5\n2024-01-02,2,6\n2024-01-03,4,7\n", future=("t",))
    assert panel.names == ("a",)
    assert panel.future.shape == (3, 1, 1)


def test_columns_choose_and_order_series(tmp_path: Path) -> None:
    assert opened(table(), tmp_path, columns=("s2", "s0")).names == ("s2", "s0")


HEAD = "date,a,b\n2024-01-01,1,2\n2024-01-02,2,3\n"
LONGER = HEAD + "2024-01-03,4,5\n"
BAD = {
    "no rows": ("date,a\n", {}, "no rows"),
    "empty": ("", {}, "not a table"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xfe", {}, "neither CSV"),
    "zero bytes": (b"date,a\x00\x00\n", {}, "zero bytes"),
    "damaged gzip": (gzip.compress(HEAD.encode() * 50)[:-20], {}, "damaged gzip"),
    "damaged parquet": (b"PAR1 and nothing", {}, "damaged parquet"),
    "uneven rows": (HEAD + "2024-01-03,1,2,3,4\n", {}, "not a table"),
    "other separator": (HEAD.replace(",", ";"), {}, "separated by ';'"),
    "no time column": ("when,a\n2024-01-01,1\n2024-01-02,2\n", {}, "no time column.*got when, a"),
    "wrong time column": (HEAD, {"time": "dates"}, "no time column 'dates'; did you mean 'date'"),
    "wrong column": (LONGER, {"columns": ("aa",)}, "no column 'aa'; did you mean 'a'"),
    "wrong covariate": (LONGER, {"past": ("c",)}, "no past covariate 'c'"),
    "two roles": (HEAD, {"past": ("b",), "future": ("b",)}, "'b' has two roles"),
    "static in wide": (HEAD, {"static": ("b",)}, "need a long frame"),
    "nothing left": ("date,a\n2024-01-01,1\n2024-01-02,2\n2024-01-03,3\n", {"past": ("a",)}, "no series column"),
    "text cell": (HEAD + "2024-01-03,x,4\n", {}, r"row 4, column 'a': 'x' is no finite number"),
    "infinite cell": (HEAD + "2024-01-03,inf,4\n", {}, r"row 4, column 'a'"),
    "a zone for some": (
        HEAD + "2024-01-03 00:00:00+00:00,3,4\n",
        {},
        r"row 4, column 'date': .*no offset.*, this one one",
    ),
    "zones far apart": (
        "date,a,b\n2024-01-01 00:00+01:00,1,2\n2024-01-01 02:00+02:00,1,2\n2024-01-01 03:00-0500,3,4\n",
        {},
        r"row 4, column 'date': .*-0500': time zones are mixed: offsets \+01:00, \+02:00, -0500 .*best UTC",
    ),
    "bad stamp": (HEAD + "tomorrow,3,4\n", {}, r"row 4, column 'date': 'tomorrow' is no time stamp"),
    "unsorted": (HEAD + "2023-12-31,3,4\n", {}, r"row 4: time stamp 2023-12-31 .* comes after 2024-01-02.*Sort"),
    "duplicate": (HEAD + "2024-01-02,3,4\n", {}, r"row 4: time stamp 2024-01-02 .* is there twice"),
    "irregular": (HEAD + "2024-01-03 07:00,3,4\n2024-01-04,5,6\n", {}, "irregular"),
    "all missing": ("date,a,b\n2024-01-01,1,\n2024-01-02,2,\n2024-01-03,3,\n", {}, "series 'b' holds no observed"),
    "wrong id column": (HEAD, {"layout": "long"}, "no id column 'unique_id'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_say_what_and_where(case: str) -> None:
    raw, options, message = BAD[case]
    with pytest.raises(BadInput, match=message) as caught:
        read(raw, **options)  # type: ignore[arg-type]
    assert "a.csv" in str(caught.value) or case == "two roles"


def test_bad_long_frames(tmp_path: Path) -> None:
    frame = long_table()
    twice = pd.concat([frame, frame.tail(1)], ignore_index=True)
    with pytest.raises(BadInput, match=r"series 'a', row 22: time stamp 2020-12-01 .* twice"):
        read(twice.to_csv(index=False))
    frame.loc[3, "area"] = 9.0
    with pytest.raises(BadInput, match="'area' is missing or changes within series 'b'"):
        read(frame.to_csv(index=False), static=("area",))
    with pytest.raises(BadInput, match="no series 'c'"):
        read(frame.to_csv(index=False), columns=("c",))


def test_missing_file_and_unreadable_url(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        task().open(str(tmp_path / "none.csv"))
    with pytest.raises(BadInput, match="cannot be read"):
        read_bytes("nosuchprotocol://x/y.csv")
    with pytest.raises(BadInput, match="did you mean the data set 'ett_h1'"):
        task().open("ett_h2")


def test_constant_series_are_refused_for_training(tmp_path: Path) -> None:
    frame = table()
    frame["s1"] = 4.0
    with pytest.raises(BadInput, match="series 's1' is constant"):
        opened(frame, tmp_path)
    frame["s1"] = [4.0] * 350 + [5.0] * 50
    panel = opened(frame, tmp_path)
    with pytest.raises(BadInput, match=r"in the training part .* series 's1' is constant"):
        task().fit(panel, task().split(panel))
    frame["s1"] = [np.nan] * 350 + list(range(50))
    panel = opened(frame, tmp_path)
    with pytest.raises(BadInput, match=r"in the training part .* 's1' has no observed value"):
        task().fit(panel, task().split(panel))
