"""Phantom gradients: a damped Neumann series, cut off, or the steps that it stands for."""

from __future__ import annotations

from torch import Tensor

from ..capabilities import declares
from ..low_rank import LowRank
from ..solvers.base import check_damping
from ..state import FlatMap
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
    _check_steps(steps)
    check_damping(damping)
    u = damping * grad
    for _ in range(steps - 1):
        u = damping * (grad + linearisation.vjp(u)) + (1 - damping) * u
    return Adjoint(u)


@declares(records=True)
def unrolled_phantom(f: FlatMap, z: Tensor, *, steps: int = 5, damping: float = 0.5) -> Tensor:
    r"""Take ``steps`` damped steps of f from a solver's result, recorded by autograd.

    The value moves too, :math:`z \leftarrow (1 - \tau) z + \tau f(z)`, so that this is the exact
    gradient of what is returned, as a function of those steps. It has derivatives of any order and
    works within ``torch.func``, for the memory of every step.

    Parameters
    ----------
    f : FlatMap
    z : Tensor of shape (batch, n)
    steps : int, default=5
    damping : float, default=0.5
        :math:`\tau`, in (0, 1].

    Returns
    -------
    z : Tensor of shape (batch, n)

    References
    ----------
    Geng et al. (2021), *On training implicit models*, the unrolled form.
    """
    _check_steps(steps)
    check_damping(damping)
    for _ in range(steps):
        value = f(z)
        z = value if damping == 1 else (1 - damping) * z + damping * value
    return z


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps!r}.")
