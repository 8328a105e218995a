"""Forecasts that follow a growing wide table: after each new row, the steps ahead of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from domains.following import Lines, counted
from domains.task import Fitted
from shared_backbones.errors import BadInput, BadRequest

from .grid import show
from .model import Forecaster
from .predicting import check_span, check_units, known_panel, tidy


class ForecastFollower:
    """Keeps the newest ``lookback`` rows of a wide CSV table; equal to a forecast from the file as it then is."""

    def __init__(self, model: Forecaster, fitted: Fitted) -> None:
        if fitted["reading"]["layout"] == "long":
            raise BadRequest(
                "following takes a wide table, a column per series; this model was trained on a long frame"
            )
        ahead = fitted["covariates"].get("future")
        if ahead:
            raise BadRequest(f"following cannot know {', '.join(ahead)} ahead of time; predict whole files instead")
        self.model, self.fitted, self.lines = model, fitted, Lines()
        self.head: bytes | None = None if fitted["reading"]["header"] else b""
        self.rows: deque[bytes] = deque(maxlen=int(fitted["lookback"]))
        self.seen, self.told = 0, 0  # rows
        self.latency = f"none during the first {self.rows.maxlen} rows, a look-back; then a row as soon as it is whole"

    def push(self, content: bytes) -> Iterator[dict[str, Any]]:
        for line in self.lines.push(content):
            if self.head is None:
                self.head = line
                continue
            self.rows.append(line)
            self.seen += 1
            if len(self.rows) == self.rows.maxlen:
                with counted(self.seen - len(self.rows)):
                    row = self._ahead(self.head + b"".join(self.rows))
                self.told += 1
                yield row

    def _ahead(self, raw: bytes) -> dict[str, Any]:
        where = f"the newest {len(self.rows)} rows"
        _, panel = known_panel(where, self.fitted, lambda source, reading: (raw, reading, None))
        end = panel.observed_end
        row: dict[str, Any] = {"last_observed": show(panel.times[end - 1]), "series": {}}
        try:
            check_span(panel, self.fitted, end)
        except BadInput as error:
            if not self.told:
                raise
            return row | {"note": f"no forecast: {error}"}  # an outage, which passes: this table was told before
        check_units(panel, self.fitted, end, int(self.fitted["lookback"]))
        table = tidy(self.model, self.fitted, panel, end)
        for name, part in table.groupby("unique_id", sort=False):
            row["ds"] = [show(stamp) for stamp in part["ds"].to_numpy()]
            kept = ("forecast", "lo_80", "hi_80", "lo_95", "hi_95")
            row["series"][str(name)] = {key: [float(v) for v in part[key]] for key in kept}
        return row
