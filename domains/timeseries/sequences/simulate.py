"""Simulated lives: events of work, health and home whose order decides, not their number.

Whoever is ill after a loss of work and before a new one is "at risk"; everybody has the same kinds of events.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

QUIET = ("work:same", "home:move", "health:visit", "home:same", "health:fine")

ORDERS = (  # the first is the risk
    ("work:lost", "health:ill", "work:new"),
    ("health:ill", "work:lost", "work:new"),
    ("work:lost", "work:new", "health:ill"),
)


def simulated(given: Mapping[str, int]) -> pd.DataFrame:
    """``people`` with some ``events`` events each: entity, time (date), event, place, income, label."""
    random = np.random.default_rng(given.get("seed", 0))
    rows = []
    for person in range(given.get("people", 300)):
        n = max(6, int(random.normal(given.get("events", 20), 3)))
        days = np.sort(random.choice(3650, n, replace=False))
        kinds = [str(k) for k in random.choice(QUIET, n)]
        at = np.sort(random.choice(n, 3, replace=False))
        risk = person % 2 == 0
        turn = ORDERS[0] if risk else ORDERS[1 + person // 2 % 2]
        for spot, kind in zip(at, turn, strict=True):
            kinds[spot] = kind
        income = 100 + 20 * random.normal(size=n)
        income[random.random(n) < 0.05] = np.nan
        for day, kind, money in zip(days, kinds, income, strict=True):
            rows.append(
                (f"p{person}", day, kind, str(random.choice(["north", "south"])), money, ["well", "at risk"][risk])
            )
    frame = pd.DataFrame(rows, columns=["entity", "day", "event", "place", "income", "label"])
    frame.insert(1, "time", pd.Timestamp("2010-01-01") + pd.to_timedelta(frame.pop("day"), unit="D"))
    return frame
