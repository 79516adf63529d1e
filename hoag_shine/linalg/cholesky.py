"""Small positive definite systems, solved for many right-hand sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, lapack

Array = NDArray[np.float64]

# The checks of cho_factor and cho_solve take longer than a small system takes to solve.
_factorise: Any = lapack.dpotrf
_solve: Any = lapack.dpotrs


def cholesky_solver(H: Array) -> Callable[[Array], Array]:
    """Return the function that multiplies by the inverse of H, a symmetric matrix.

    Raises
    ------
    LinAlgError
        If H is not positive definite, or not finite.
    """
    factor, failed = _factorise(H, lower=True)
    if failed or not np.isfinite(factor).all():
        raise LinAlgError("The matrix is not positive definite.")
    return lambda v: np.asarray(_solve(factor, v, lower=True)[0])
