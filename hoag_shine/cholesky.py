"""Solving small positive definite systems, again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, get_lapack_funcs

Array = NDArray[np.float64]


def cholesky_solver(H: Array) -> Callable[[Array], Array]:
    """Return what multiplies by the inverse of H.

    Raises
    ------
    LinAlgError
        If H is not positive definite.
    ValueError
        If it is not finite.
    """
    factor, lower = cho_factor(H, lower=True)
    # cho_solve takes longer over its checks than a small system takes to solve.
    potrs: Any = get_lapack_funcs("potrs", (factor,))
    return lambda v: np.asarray(potrs(factor, v, lower=lower)[0])
