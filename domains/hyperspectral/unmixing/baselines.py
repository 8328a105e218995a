"""Classical unmixing of the same pixels: what a sceptic would try first. One setting for all scenes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .endmembers import nfindr, vca
from .solvers import fully_constrained, nmf, robust, scaled, sparse

Found = tuple[Float[np.ndarray, "q b"], Callable[[Float[np.ndarray, "n b"]], Float[np.ndarray, "n q"]]]
NMF_STEPS, NMF_SPARSITY = 200, 0.1  # the sparsity is relative to the mean square of the spectra
ROBUST_STEPS = 100
SPARSITY = 1e-3


def _tensor(x: Float[np.ndarray, "n b"]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))


def peaked(e: Float[np.ndarray, "q b"]) -> Float[np.ndarray, "q b"]:
    """Endmembers whose largest value is 1."""
    return e / np.abs(e).max(1, keepdims=True)


def classical(
    x: Float[np.ndarray, "n b"],
    p: int,
    draw: int,
    amplitude: str,
    neighbours: Int64[np.ndarray, "n k"] | None,
    library: Float[np.ndarray, "m b"] | None,
) -> dict[str, Found]:
    """Name -> endmembers, and the function from spectra to abundances.

    The scaled rows know every pixel's own brightness and share the model's convention of amplitude; the others are
    the textbook's, under the brightness of their endmembers. The factorisations run on the pixels that they are
    given (at most some thousands), and then solve for the rest.
    """
    rng = np.random.default_rng(draw)
    corners, largest = x[vca(x, p, rng)], x[nfindr(x, p, rng)]
    convention = peaked if amplitude == "equal" else np.asarray
    with torch.no_grad():
        e_nmf, _ = nmf(_tensor(x), _tensor(corners), NMF_STEPS, NMF_SPARSITY * float((x**2).mean()))
        near = None if neighbours is None else torch.from_numpy(neighbours)
        e_robust, _ = robust(_tensor(x), _tensor(largest), ROBUST_STEPS, neighbours=near)
    rows: dict[str, Found] = {
        "vca_fclsu": (corners, _solved(fully_constrained, corners)),
        "nfindr_fclsu": (largest, _solved(fully_constrained, largest)),
        "vca_scaled": (convention(corners), _solved(scaled, convention(corners))),
        "nfindr_scaled": (convention(largest), _solved(scaled, convention(largest))),
        "nmf_sparse": (e_nmf.numpy(), _solved(scaled, e_nmf.numpy())),
        "robust": (e_robust.numpy(), _solved(scaled, e_robust.numpy())),
    }
    if library is not None:
        known = convention(library)
        rows["library_sparse"] = (known, _solved(lambda a, b: sparse(a, b, SPARSITY), known))
    return rows


def _solved(
    solver: Callable[[Tensor, Tensor], Tensor], e: Float[np.ndarray, "q b"]
) -> Callable[[Float[np.ndarray, "n b"]], Float[np.ndarray, "n q"]]:
    def apply(x: Float[np.ndarray, "n b"]) -> Float[np.ndarray, "n q"]:
        with torch.no_grad():
            return np.asarray(solver(_tensor(x), _tensor(e)).numpy())

    return apply
