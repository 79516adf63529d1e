"""The methods that cost no Hessian product."""

from __future__ import annotations

from .base import AdjointProblem, Hypergradient


def shine(adjoint: AdjointProblem) -> Hypergradient:
    r"""Share the inner solver's inverse-Hessian estimate: :math:`q = B \nabla f`.

    Costs no data pass. It is as good as B is along :math:`\nabla f`: good where the curvature is
    concentrated or the penalty strong, poor at weak penalties in many dimensions.

    References
    ----------
    .. [1] Z. Ramzi et al., "SHINE: SHaring the INverse Estimate from the forward pass for bi-level
       optimization and implicit models", ICLR 2022, equation 4 and section 2.2.
    """
    return Hypergradient(adjoint.solution.inverse_hessian @ adjoint.outer_grad)


def jacobian_free(adjoint: AdjointProblem) -> Hypergradient:
    r"""Replace the inverse Hessian by the identity: :math:`q = \nabla f`.

    A baseline: it costs nothing, its sign is often right, and its length means nothing.

    References
    ----------
    .. [1] S. W. Fung et al., "JFB: Jacobian-Free Backpropagation for Implicit Networks",
       AAAI 2022.
    """
    return Hypergradient(adjoint.outer_grad.copy())
