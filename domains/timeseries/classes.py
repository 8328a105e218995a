"""Classes of new data among those of the training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int64

from shared_backbones.errors import BadInput


def places(
    names: Sequence[str], labels: Int[np.ndarray, "n"], trained: Sequence[str], source: str, remedy: str = ""
) -> Int64[np.ndarray, "n"]:
    """``labels`` (places in ``names``) as places in ``trained``. Raises BadInput for a class that was not there."""
    known = {name: i for i, name in enumerate(trained)}
    strange = sorted({names[i] for i in labels} - set(known))
    if strange:
        raise BadInput(
            f"{source}: class {', '.join(strange)} was not seen in training (there were: {', '.join(known)}){remedy}"
        )
    return np.array([known[names[i]] for i in labels], np.int64)
