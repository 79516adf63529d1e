"""The methods that cost no Hessian product."""

from __future__ import annotations

from typing import Any

from ..inner.lbfgs import Solution
from ..problems.base import Problem
from .base import Hypergradient, Vector


def shine(
    problem: Problem,
    theta: Vector,
    solution: Solution,
    outer_grad: Vector,
    *,
    tol: float,
    accuracy: float,
    start: Any,
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
    accuracy: float,
    start: Any,
) -> Hypergradient:
    r"""Replace the inverse Hessian by the identity: :math:`q = \nabla f`.

    A baseline: free, of the right sign often enough, and of no particular length.

    References
    ----------
    .. [1] S. W. Fung et al., "JFB: Jacobian-Free Backpropagation for Implicit Networks",
       AAAI 2022.
    """
    return Hypergradient(outer_grad.copy())
