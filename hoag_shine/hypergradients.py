r"""Hypergradients: the derivative of the outer loss with respect to the hyperparameters.

By the implicit function theorem, at the solution w of the inner problem,

.. math::
    \frac{df}{d\theta} = -\Big(\frac{\partial^2 g}{\partial\theta\,\partial w}\Big)^{\!\top} q,
    \qquad q = H^{-1} \nabla f(w), \qquad H = \frac{\partial^2 g}{\partial w^2}.

The methods differ only in how they come by q. Each is a function

    ``method(problem, theta, solution, outer_grad, *, tol, start) -> Hypergradient``

A method may call ``problem.hessp``; or, to have its Hessian products served in the same data pass
as those of the other folds, be a generator that yields
:class:`~hoag_shine.inner.requests.HessianProduct` requests. A method of one's own is passed by
value wherever a name is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from .inner.lbfgs import Solution
from .inner.requests import HessianProduct, Solver
from .problems.base import Problem

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Hypergradient:
    r"""An answer to ``H q = outer_grad``.

    Attributes
    ----------
    q : ndarray of shape (n_params,)
        The adjoint vector.
    n_hvp : int
        Hessian-vector products spent.
    residual : float
        :math:`\|Hq - \nabla f\| / \|\nabla f\|` where the method knows it, else NaN.
    """

    q: Vector
    n_hvp: int = 0
    residual: float = float("nan")


Method = Callable[..., Hypergradient | Solver[Hypergradient]]


def shine(
    problem: Problem,
    theta: Vector,
    solution: Solution,
    outer_grad: Vector,
    *,
    tol: float,
    start: Vector | None,
) -> Hypergradient:
    r"""Share the inner solver's inverse-Hessian estimate: :math:`q = B \nabla f`.

    Costs no data pass. As good as B is along :math:`\nabla f`, which is good where the curvature
    is concentrated or the penalty strong, and poor at weak penalties in many dimensions.

    References
    ----------
    .. [1] Z. Ramzi et al., "SHINE: SHaring the INverse Estimate from the forward pass for bi-level
       optimization and implicit models", ICLR 2022, equation 4 and section 2.2.
    """
    return Hypergradient(solution.inverse_hessian @ outer_grad)


def jacobian_free(
    problem: Problem,
    theta: Vector,
    solution: Solution,
    outer_grad: Vector,
    *,
    tol: float,
    start: Vector | None,
) -> Hypergradient:
    r"""Replace the inverse Hessian by the identity: :math:`q = \nabla f`.

    A baseline: free, of the right sign often enough, and of no particular length.

    References
    ----------
    .. [1] S. W. Fung et al., "JFB: Jacobian-Free Backpropagation for Implicit Networks",
       AAAI 2022.
    """
    return Hypergradient(outer_grad.copy())


def cg(
    problem: Problem,
    theta: Vector,
    solution: Solution,
    outer_grad: Vector,
    *,
    tol: float,
    start: Vector | None,
    max_iter: int = 1000,
) -> Solver[Hypergradient]:
    r"""Solve :math:`Hq = \nabla f` by conjugate gradient, to the outer iteration's tolerance.

    Preconditioned by the initial matrix of the inverse-Hessian estimate, which is a multiple of
    the identity where the diagonal of H is not known, and started from the last iteration's q.

    Parameters
    ----------
    tol : float
        Stop when :math:`\|Hq - \nabla f\| \le` ``tol`` :math:`\|\nabla f\|`.
    start : ndarray of shape (n_params,) or None
        First guess of q.
    max_iter : int, default=1000
        Largest number of Hessian products. The residual is reported in any case.

    References
    ----------
    .. [1] F. Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016,
       algorithm 1, step 2.
    """
    target = tol * float(np.linalg.norm(outer_grad))
    preconditioner = solution.inverse_hessian.diagonal
    q = np.zeros_like(outer_grad)
    residual = outer_grad.copy()
    n_hvp = 0
    if start is not None and start.any():
        q = start.copy()
        residual -= yield HessianProduct(solution.w, q)
        n_hvp = 1
    direction = np.zeros_like(q)
    last = np.inf
    while np.linalg.norm(residual) > target and n_hvp < max_iter:
        scaled = preconditioner * residual
        energy = float(residual @ scaled)
        direction = scaled + (energy / last) * direction
        product = yield HessianProduct(solution.w, direction)
        n_hvp += 1
        curvature = float(direction @ product)
        if not curvature > 0.0:
            break
        step = energy / curvature
        q += step * direction
        residual -= step * product
        last = energy
    return Hypergradient(q, n_hvp, _relative(residual, outer_grad))


def exact(
    problem: Problem,
    theta: Vector,
    solution: Solution,
    outer_grad: Vector,
    *,
    tol: float,
    start: Vector | None,
) -> Hypergradient:
    r"""Solve :math:`Hq = \nabla f` by a Cholesky factorisation of the whole Hessian.

    Costs one Hessian product per variable and memory for its square: for small problems, and as
    the reference that the other methods are tested against.

    Raises
    ------
    numpy.linalg.LinAlgError
        When the Hessian is not positive definite.
    """
    product = problem.hessp(solution.w, theta)
    H = np.column_stack([product(e) for e in np.eye(problem.n_params)])
    try:
        q = cho_solve(cho_factor(H), outer_grad)
    except LinAlgError as error:
        raise LinAlgError(
            "hypergradient='exact' needs a positive definite inner Hessian, and this one is not: "
            "a larger penalty, or no unpenalised variables without data, would make it so."
        ) from error
    return Hypergradient(q, problem.n_params, _relative(H @ q - outer_grad, outer_grad))


METHODS: dict[str, Method] = {
    "shine": shine,
    "cg": cg,
    "jacobian-free": jacobian_free,
    "exact": exact,
}


def resolve_method(hypergradient: str | Method) -> Method:
    """Return the method of that name, or the callable itself."""
    if callable(hypergradient):
        return hypergradient
    if not isinstance(hypergradient, str) or hypergradient not in METHODS:
        raise ValueError(
            f"hypergradient must be one of {sorted(METHODS)} or a callable, got {hypergradient!r}."
        )
    return METHODS[hypergradient]


def as_solvers(
    calls: Sequence[Hypergradient | Solver[Hypergradient]],
) -> list[Solver[Hypergradient]]:
    """Return a method's calls as generators, whether or not they were."""
    return [_finished(call) if isinstance(call, Hypergradient) else call for call in calls]


def _finished(answer: Hypergradient) -> Solver[Hypergradient]:
    return answer
    yield  # makes this a generator


def _relative(residual: Vector, outer_grad: Vector) -> float:
    scale = float(np.linalg.norm(outer_grad))
    return float(np.linalg.norm(residual)) / scale if scale > 0.0 else 0.0
