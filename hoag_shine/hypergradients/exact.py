"""The reference that the other methods are tested against."""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from .base import AdjointProblem, Hypergradient, relative


def exact(adjoint: AdjointProblem) -> Hypergradient:
    r"""Solve :math:`Hq = \nabla f` by a Cholesky factorisation of the whole Hessian.

    Costs one Hessian product per variable and memory for its square: for small problems, and as
    the reference that the other methods are tested against.

    Raises
    ------
    numpy.linalg.LinAlgError
        When the Hessian is not positive definite.
    ValueError
        When it is not finite.
    """
    problem, outer_grad = adjoint.problem, adjoint.outer_grad
    product = problem.hessp(adjoint.solution.w, adjoint.theta)
    H = np.column_stack([product(e) for e in np.eye(problem.n_params)])
    if not (np.isfinite(H).all() and np.isfinite(outer_grad).all()):
        raise ValueError(
            "hypergradient='exact' needs a finite inner Hessian and outer gradient, and these are "
            "not: scale the features."
        )
    try:
        q = cho_solve(cho_factor(H), outer_grad)
    except LinAlgError as error:
        raise LinAlgError(
            "hypergradient='exact' needs a positive definite inner Hessian, and this one is not: "
            "a larger penalty, or no unpenalised variables without data, would make it so."
        ) from error
    return Hypergradient(q, problem.n_params, relative(H @ q - outer_grad, outer_grad))
