"""SHINE's estimate with its residual measured, and refined until that is small enough."""

from __future__ import annotations

import torch
from torch import Tensor

from ..capabilities import declares
from ..execution import can_read_values, select_rows
from ..low_rank import LowRank
from .base import Adjoint, Linearisation, relative_norm
from .conjugate_residuals import ConjugateResiduals

# Residual of the adjoint, relative to the gradient, that is small enough.
# Why: on three layers that contract, the gradient of the parameters then has a cosine of 0.999 or
# more with the exact one, for 1.2 to 1.6 times the time of the cheapest method; with 0.5 the cosine
# is 0.96 to 0.98, and with 0.02 hardly better.
AUTO_TOL = 0.1
# Most vector-Jacobian products.
# Why: by judgement; a residual of 0.1 took 3 to 7 products on those layers.
AUTO_MAX_ITER = 10


@declares(makes_products=True, takes_tol=True)
def auto(
    linearisation: Linearisation,
    inverse_jacobian: LowRank,
    grad: Tensor,
    *,
    tol: float = AUTO_TOL,
    max_iter: int = AUTO_MAX_ITER,
) -> Adjoint:
    r"""Start from the better one of two estimates and refine it until its residual is small.

    One vector-Jacobian product gives the residual of SHINE's estimate :math:`B^\top \nabla L`. If
    that is above the tolerance, a second product gives that of the Jacobian-free estimate
    :math:`\nabla L`. Each sample continues with the better of the two, scaled to the length at
    which its residual is smallest, and every further product is a step of conjugate residuals.
    Samples that are within the tolerance no longer change, so that no sample depends on the rest of
    its batch.

    Parameters
    ----------
    linearisation : Linearisation
    inverse_jacobian : LowRank
        If it is the identity, only the Jacobian-free estimate is tried.
    grad : Tensor of shape (batch, n)
    tol : float, default=0.1
        Of the residual, relative to :math:`\|\nabla L\|`. With 0 all products are made.
    max_iter : int, default=10
        Largest number of products.

    Returns
    -------
    adjoint : Adjoint
        With the residual of every sample, never above 1. ``fell_back`` marks the samples that
        continued with the Jacobian-free estimate.

    Notes
    -----
    After every product the host waits for the device, to see whether all samples are done.

    References
    ----------
    Ramzi et al. (2022), *SHINE*, section 3: fallback and refinement.
    """
    if not (isinstance(max_iter, int) and max_iter >= 1):
        raise ValueError(f"max_iter must be an integer of at least 1, got {max_iter!r}.")
    if not tol >= 0:
        raise ValueError(f"tol must be at least 0, got {tol!r}.")
    target = tol * torch.linalg.vector_norm(grad, dim=1)
    n_vjp = linearisation.n_vjp
    solver, fell_back = _first_direction(linearisation, inverse_jacobian, grad, target, max_iter)
    while linearisation.n_vjp - n_vjp < max_iter:
        unsolved = _unsolved(solver, target) & ~solver.failed
        if not _any(unsolved):
            break
        # A direction of zero leaves a sample as it is.
        direction = select_rows(unsolved, solver.residual, torch.zeros_like(grad))
        solver.add(direction, linearisation.times(direction))
    u = select_rows(solver.failed, torch.full_like(grad, torch.nan), solver.u)
    if torch.finfo(linearisation.precision).eps > torch.finfo(torch.float32).eps:
        # In half precision, rounded products are far from linear in their argument, so that the
        # residual that the recursion keeps is not that of u.
        return Adjoint(u, linearisation.measured(u, grad).residual, fell_back)
    return Adjoint(u, relative_norm(solver.residual, grad), fell_back)


def _first_direction(
    linearisation: Linearisation,
    inverse_jacobian: LowRank,
    grad: Tensor,
    target: Tensor,
    max_iter: int,
) -> tuple[ConjugateResiduals, Tensor]:
    """Return the solver after its first direction, if any, and the samples that fell back."""
    solver = ConjugateResiduals(grad, max_iter)
    fell_back = torch.zeros_like(target, dtype=torch.bool)
    if inverse_jacobian.rank == 0:
        return solver, fell_back
    shared = inverse_jacobian.rmatvec(grad)
    image = linearisation.times(shared)
    solver.add(shared, image)
    unsolved = _unsolved(solver, target)
    if max_iter == 1 or not _any(unsolved):
        return solver, fell_back
    grad_image = linearisation.times(grad)
    # The smaller residual, NaN counting as the larger one.
    fell_back = unsolved & ~(_projection(image, grad) >= _projection(grad_image, grad))
    solver = ConjugateResiduals(grad, max_iter)
    solver.add(select_rows(fell_back, grad, shared), select_rows(fell_back, grad_image, image))
    return solver, fell_back


def _projection(image: Tensor, grad: Tensor) -> Tensor:
    """Return the norm of the gradient's projection onto an image A p.

    The residual of p at its best length is min_t ||grad - t A p||, the square of which is
    ||grad||^2 minus the square of this norm, |grad' A p| / ||A p||.
    """
    norm = torch.linalg.vector_norm(image, dim=1)
    return torch.where(norm > 0, (image * grad).sum(1).abs() / norm, 0)


def _unsolved(solver: ConjugateResiduals, target: Tensor) -> Tensor:
    """Return which samples have a residual above the target."""
    norm: Tensor = torch.linalg.vector_norm(solver.residual, dim=1)
    return norm > target


def _any(samples: Tensor) -> bool:
    """Whether any sample is marked; true where the host cannot read that."""
    return not can_read_values(samples) or bool(samples.any())
