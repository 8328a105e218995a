"""One thread for work that more of them make dearer."""

from __future__ import annotations

from threadpoolctl import threadpool_limits


def one_thread() -> threadpool_limits:
    """While it lasts, the thread pools of numpy, scipy, scikit-learn and torch hold one thread each; then as before.

    For many small products or fits in a row: handing out each costs more than it holds, and threads that wait for
    each other spin. On two cores that others use too, it was five times the processor time for the period search of
    light curves, and six to thirty times for gradient boosting on 400 to 20,000 rows, with more of the clock as well.
    """
    return threadpool_limits(1)
