"""Simulated lives: events of work, health and home whose order decides, not their number.

Whoever falls ill right after a loss of work is "at risk"; the others are ill before it, or some events later.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

QUIET = ("work:same", "home:move", "health:visit", "home:same", "health:fine")

ORDERS = ((0, 1), (1, 0), (0, 4))  # places of the loss and of the illness; the first is the risk


def simulated(given: Mapping[str, int]) -> pd.DataFrame:
    """``people`` with some ``events`` events each: entity, time (date), event, place, income, label."""
    random = np.random.default_rng(given.get("seed", 0))
    rows = []
    for person in range(given.get("people", 300)):
        n = max(6, int(random.normal(given.get("events", 20), 3)))
        days = np.sort(random.choice(3650, n, replace=False))
        kinds = [str(k) for k in random.choice(QUIET, n)]
        risk = person % 2 == 0
        lost, ill = ORDERS[0] if risk else ORDERS[1 + person // 2 % 2]
        at = int(random.integers(0, n - 4))
        kinds[at + lost], kinds[at + ill] = "work:lost", "health:ill"
        income = 100 + 20 * random.normal(size=n)
        income[random.random(n) < 0.05] = np.nan
        for day, kind, money in zip(days, kinds, income, strict=True):
            rows.append(
                (f"p{person}", day, kind, str(random.choice(["north", "south"])), money, ["well", "at risk"][risk])
            )
    frame = pd.DataFrame(rows, columns=["entity", "day", "event", "place", "income", "label"])
    frame.insert(1, "time", pd.Timestamp("2010-01-01") + pd.to_timedelta(frame.pop("day"), unit="D"))
    return frame
