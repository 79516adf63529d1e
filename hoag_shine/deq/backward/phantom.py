"""Phantom gradients: a truncated, damped Neumann series, or the unrolled steps it comes from."""

from __future__ import annotations

from torch import Tensor

from ..capabilities import declares
from ..low_rank import LowRank
from ..solvers.base import check_damping
from ..state import FlatMap
from .base import Adjoint, Linearisation

# Steps of f.
# Why: by judgement; a step costs an evaluation of f or a vector-Jacobian product.
PHANTOM_STEPS = 5
# Damping of these steps.
# Why: by judgement: it contracts for all eigenvalues of J between -3 and 1.
PHANTOM_DAMPING = 0.5


@declares(makes_products=True)
def phantom(
    linearisation: Linearisation,
    inverse_jacobian: LowRank,
    grad: Tensor,
    *,
    steps: int = PHANTOM_STEPS,
    damping: float = PHANTOM_DAMPING,
) -> Adjoint:
    r"""Return the gradient of k damped steps of f that are unrolled at the fixed point.

    :math:`u = \tau \sum_{i < k} (\tau J^\top + (1 - \tau) I)^i \nabla L`, by Horner's rule with
    k - 1 vector-Jacobian products in the memory of one step.

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
    # u_1 = tau grad; u_{i+1} = tau grad + (tau J^T + (1 - tau) I) u_i.
    u = damping * grad
    for _ in range(steps - 1):
        u = damping * (grad + linearisation.vjp(u)) + (1 - damping) * u
    return Adjoint(u)


@declares(records=True)
def unrolled_phantom(
    f: FlatMap, z: Tensor, *, steps: int = PHANTOM_STEPS, damping: float = PHANTOM_DAMPING
) -> Tensor:
    r"""Take damped steps :math:`z \leftarrow (1 - \tau) z + \tau f(z)`, recorded by autograd.

    The steps start from the solver's z, which counts as a constant, and change the value, too: the
    gradient is exactly that of these steps. It has derivatives of any order and works within
    ``torch.func``. Memory grows with the number of steps.

    Parameters
    ----------
    f : FlatMap
    z : Tensor of shape (batch, n)
    steps : int, default=5
        Number of steps.
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
