"""SHINE: the forward solver's estimate is the backward pass."""

from __future__ import annotations

from torch import Tensor

from ..capabilities import declares
from ..low_rank import LowRank
from .base import Adjoint, Linearisation


@declares(uses_inverse=True)
def shine(linearisation: Linearisation, inverse_jacobian: LowRank, grad: Tensor) -> Adjoint:
    r"""Return :math:`u = B^\top \nabla L` with the B of the forward pass: no product with J.

    References
    ----------
    Ramzi et al. (2022), *SHINE: SHaring the INverse Estimate from the forward pass for bi-level
    optimization and implicit models*, section 2.2.
    """
    return Adjoint(inverse_jacobian.rmatvec(grad))
