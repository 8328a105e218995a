"""Tables from bytes: CSV (plain or gzip) and parquet into frames whose cells are checked and located."""

from __future__ import annotations

import difflib
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from shared_backbones.errors import BadInput

TIME_NAMES = ("date", "ds", "time", "timestamp", "datetime")
_ZONE = re.compile(r":\d\d(?:\.\d+)?\s?(Z|[+-]\d\d:?\d\d)$")
_SUMMER = 60  # minutes by which one place's offset changes in a year


@dataclass(frozen=True)
class ReadOptions:
    """How a table is read; the fields are those of the task's configuration."""

    layout: Literal["auto", "wide", "long"] = "auto"
    time: str = "auto"  # name of the time column; "auto": a usual name; "none": rows are numbered
    time_format: str | None = None  # strptime pattern; None: ISO 8601
    columns: tuple[str, ...] = ()  # series to read; all when empty
    id: str = "unique_id"
    target: str = "y"
    freq: str | None = None
    separator: str = ","
    header: bool = True
    missing_values: tuple[float, ...] = ()  # sentinels that mean "not observed"
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def nearest(got: str, allowed: Iterable[str]) -> str:
    """The end of an error sentence: nearest names, and what there is."""
    names = list(allowed)
    near = difflib.get_close_matches(got, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{hint} (there are: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''})"


def read_bytes(source: str) -> bytes:
    """The content of a path or of a URL that fsspec understands; raises BadInput where it cannot be read."""
    try:
        if "://" in source:
            import fsspec

            with fsspec.open(source, "rb") as f:
                content: bytes = f.read()
                return content
        return Path(source).read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{source}: no such file. Give a path, a URL, a public data set's name or 'simulated'") from None
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(f"{source}: cannot be read ({error})") from None


def named_file(source: str, option: str, named: str) -> str:
    """Where a file lies that an option names: beside the source (or in it), or as it stands. Raises BadInput."""
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    if (folder / named).is_file():
        return str(folder / named)
    if "://" not in named and not Path(named).is_file():
        raise BadInput(f"{option}={named}: no such file, neither in {folder} nor from where the command runs")
    return named


def read_table(raw: bytes, source: str, options: ReadOptions) -> pd.DataFrame:
    """A frame from the bytes of a CSV, gzipped CSV or parquet file. Raises BadInput where it is none."""
    if raw[:4] == b"PAR1":
        return _parquet(raw, source)
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(f"{source}: damaged gzip file ({error}); copy it again") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{source}: neither CSV (UTF-8), gzipped CSV nor parquet: byte {error.start} is no text"
        ) from None
    if "\0" in text[:4096]:
        raise BadInput(f"{source}: neither CSV (UTF-8), gzipped CSV nor parquet: it holds zero bytes")
    try:
        header: Literal["infer"] | None = "infer" if options.header else None
        frame = pd.read_csv(io.StringIO(text), sep=options.separator, header=header, low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise BadInput(f"{source}: not a table: {' '.join(str(error).split())}") from None
    if not options.header:
        frame.columns = pd.Index([f"series_{i}" for i in range(frame.shape[1])])
        frame.attrs["first_line"] = 1
    return _checked(frame, source, options.separator)


def _parquet(raw: bytes, source: str) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(io.BytesIO(raw))
    except (OSError, ValueError) as error:
        raise BadInput(f"{source}: damaged parquet file ({' '.join(str(error).split())})") from None
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    return _checked(frame, source, None)


def _checked(frame: pd.DataFrame, source: str, separator: str | None) -> pd.DataFrame:
    frame.columns = pd.Index([str(c).strip() for c in frame.columns])
    if not len(frame):
        raise BadInput(f"{source}: the table has columns but no rows")
    if frame.shape[1] < 2 and separator is not None:
        others = [s for s in (";", "\t", "|", ",") if s != separator and s in str(frame.columns[0])]
        hint = f"; it looks separated by {others[0]!r}: --set separator='{others[0]}'" if others else ""
        if others:
            raise BadInput(f"{source}: only one column found with separator {separator!r}{hint}")
    return frame


def _cell(column: pd.Series[float], i: int, source: str) -> str:
    """The i-th cell as errors name it: its line in the file (counting a header), its column, its value."""
    cell = column.iloc[i]
    shown = repr(cell.item() if isinstance(cell, np.generic) else cell)
    return f"{source}, row {int(column.index[i]) + column.attrs.get('first_line', 2)}, column {column.name!r}: {shown}"


SPARE = "Leave missing cells empty, name sentinels with missing_values, or leave the column out with `columns`"


def as_numbers(
    column: pd.Series[float], source: str, missing_values: Sequence[float] = (), remedy: str = SPARE
) -> Float[np.ndarray, "n"]:
    """A column as float64, NaN where empty or a sentinel; raises BadInput at the first cell that is no number.

    ``remedy``: what the error advises.
    """
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, copy=True, na_value=np.nan)
    bad = np.flatnonzero((np.isnan(numbers) & column.notna().to_numpy()) | np.isinf(numbers))
    if len(bad):
        raise BadInput(f"{_cell(column, int(bad[0]), source)} is no finite number ({len(bad)} such cells). {remedy}")
    if missing_values:
        numbers[np.isin(numbers, missing_values)] = np.nan
    return numbers


def as_stamps(column: pd.Series[float], source: str, time_format: str | None) -> Shaped[np.ndarray, "n"]:
    """Time stamps as datetime64[ns] (an offset becomes UTC), or int64 where the column holds whole numbers.

    Raises BadInput for a cell that is no stamp, and for stamps of mixed zones.
    """
    if pd.api.types.is_integer_dtype(column) and time_format is None:
        return column.to_numpy(np.int64)
    text, zoned = column.astype(str), False
    if pd.api.types.is_datetime64_any_dtype(column):
        stamps = pd.DatetimeIndex(column)
    else:
        zoned = any(map(_ZONE.search, text))
        stamps = pd.DatetimeIndex(pd.to_datetime(text, format=time_format or "ISO8601", errors="coerce", utc=zoned))
    bad = np.flatnonzero(stamps.isna())
    if len(bad):
        raise BadInput(
            f"{_cell(column, int(bad[0]), source)} is no time stamp in "
            f"{time_format or 'ISO 8601 (2024-05-31 18:00:00)'}; state the pattern, e.g. "
            "--set time_format='%d.%m.%Y %H:%M'"
        )
    if zoned:
        _one_zone(text, column, source)
    if stamps.tz is not None:
        stamps = stamps.tz_convert("UTC").tz_localize(None)
    return stamps.to_numpy("datetime64[ns]")


def _one_zone(text: pd.Series[str], column: pd.Series[float], source: str) -> None:
    """Raise BadInput where some stamps have no offset from UTC, or where the offsets cannot be of one place."""
    said = text.str.extract(_ZONE)[0]
    there = said.notna().to_numpy()
    remedy = "Write every stamp in one zone, best UTC"
    if not there.all():
        odd = int(np.flatnonzero(there != there[0])[0])
        before, this = ("an offset from UTC", "none") if there[0] else ("no offset from UTC", "one")
        what = f"time zones are mixed: the stamps before have {before}, this one {this}"
        raise BadInput(f"{_cell(column, odd, source)}: {what}. {remedy}")
    offsets = {name: _minutes(name) for name in said.unique()}
    if max(offsets.values()) - min(offsets.values()) > _SUMMER:
        first = offsets[said.iloc[0]]
        far = max(offsets, key=lambda name: abs(offsets[name] - first))
        what = f"time zones are mixed: offsets {', '.join(sorted(offsets))} are more than summer time apart"
        raise BadInput(f"{_cell(column, int((said == far).to_numpy().argmax()), source)}: {what}. {remedy}")


def _minutes(offset: str) -> int:
    """Minutes ahead of UTC of ``Z``, ``+02:00`` or ``-0530``."""
    if offset == "Z":
        return 0
    digits = offset[1:].replace(":", "")
    return (-1 if offset[0] == "-" else 1) * (60 * int(digits[:2]) + int(digits[2:]))
