"""Phantom gradients: a damped Neumann series, cut off."""

from __future__ import annotations

from torch import Tensor

from ..low_rank import LowRank
from ..solvers.base import check_damping
from .base import Adjoint, Linearisation


def phantom(
    linearisation: Linearisation,
    inverse_jacobian: LowRank,
    grad: Tensor,
    *,
    steps: int = 5,
    damping: float = 0.5,
) -> Adjoint:
    r"""Return what ``steps`` damped steps of f, unrolled at the fixed point, give.

    :math:`u = \tau \sum_{i < k} (\tau J^\top + (1 - \tau) I)^i \nabla L`, for ``steps - 1``
    products and the memory of one.

    Parameters
    ----------
    linearisation : Linearisation
    inverse_jacobian : LowRank
        Not used.
    grad : Tensor of shape (batch, n)
    steps : int, default=5
        k.
    damping : float, default=0.5
        :math:`\tau`, in (0, 1].

    Returns
    -------
    adjoint : Adjoint

    References
    ----------
    Geng et al. (2021), *On training implicit models*, equation 6, the Neumann-series form.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps!r}.")
    check_damping(damping)
    u = damping * grad
    for _ in range(steps - 1):
        u = damping * (grad + linearisation.vjp(u)) + (1 - damping) * u
    return Adjoint(u)
