"""SHINE: the forward solver's estimate of the inverse Jacobian, used in the backward pass."""

from __future__ import annotations

from torch import Tensor

from ..capabilities import declares
from ..low_rank import LowRank
from .base import Adjoint, Linearisation


@declares(uses_inverse=True)
def shine(linearisation: Linearisation, inverse_jacobian: LowRank, grad: Tensor) -> Adjoint:
    r"""Return :math:`u = B^\top \nabla L` with the solver's :math:`B \approx (I - J)^{-1}`.

    It needs no vector-Jacobian product.

    References
    ----------
    Ramzi et al. (2022), *SHINE: SHaring the INverse Estimate from the forward pass for bi-level
    optimization and implicit models*, section 2.2.
    """
    return Adjoint(inverse_jacobian.rmatvec(grad))
