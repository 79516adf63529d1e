"""The Jacobian-free estimate: the inverse Jacobian taken as the identity."""

from __future__ import annotations

from torch import Tensor

from ..low_rank import LowRank
from .base import Adjoint, Linearisation


def jacobian_free(linearisation: Linearisation, inverse_jacobian: LowRank, grad: Tensor) -> Adjoint:
    r"""Return :math:`u = \nabla L`, the first term of the Neumann series of the adjoint.

    References
    ----------
    Fung et al. (2022), *JFB: Jacobian-free backpropagation for implicit networks*.
    """
    return Adjoint(grad)
