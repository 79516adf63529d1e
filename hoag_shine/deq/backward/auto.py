"""The shared estimate, measured, and refined only as far as is asked."""

from __future__ import annotations

import torch
from torch import Tensor

from ..capabilities import declares
from ..execution import can_read_values, select_rows
from ..low_rank import LowRank
from .base import Adjoint, Linearisation, relative_norm
from .conjugate_residuals import ConjugateResiduals


@declares(takes_tol=True)
def auto(
    linearisation: Linearisation,
    inverse_jacobian: LowRank,
    grad: Tensor,
    *,
    tol: float = 0.1,
    max_iter: int = 10,
) -> Adjoint:
    r"""Start from the better one of two estimates and improve it until its residual is small.

    One product measures the shared estimate :math:`B^\top \nabla L`. If it will not do, a second
    one measures the Jacobian-free :math:`\nabla L`, each sample goes on with the better of the two,
    at its best length, and every further product lowers the residual by a step of conjugate
    residuals. Samples that are done no longer change, so that none depends on its batch.

    Parameters
    ----------
    linearisation : Linearisation
    inverse_jacobian : LowRank
        Where it is the identity, the Jacobian-free estimate is the only one.
    grad : Tensor of shape (batch, n)
    tol : float, default=0.1
        On the residual relative to :math:`\|\nabla L\|`. 0 takes all products.
    max_iter : int, default=10
        Largest number of products.

    Returns
    -------
    adjoint : Adjoint
        With the residual of every sample, never above 1. Samples that went on with the
        Jacobian-free estimate have fallen back.

    Notes
    -----
    After every product a device is asked whether all samples are done.

    References
    ----------
    Ramzi et al. (2022), *SHINE*, section 3: fallback and refinement.
    """
    if not (isinstance(max_iter, int) and max_iter >= 1):
        raise ValueError(f"max_iter must be an integer of at least 1, got {max_iter!r}.")
    if not tol >= 0:
        raise ValueError(f"tol must be at least 0, got {tol!r}.")
    wanted = tol * torch.linalg.vector_norm(grad, dim=1)
    before = linearisation.n_vjp
    solver, fell_back = _started(linearisation, inverse_jacobian, grad, wanted, max_iter)
    while linearisation.n_vjp - before < max_iter:
        open_ = _open(solver, wanted) & ~solver.failed
        if not _any(open_):
            break
        direction = select_rows(open_, solver.residual, torch.zeros_like(grad))
        solver.add(direction, linearisation.times(direction))
    u = select_rows(solver.failed, torch.full_like(grad, torch.nan), solver.u)
    if torch.finfo(linearisation.precision).eps > torch.finfo(torch.float32).eps:
        # In low precision products are not linear, and the residual is not what was subtracted.
        return Adjoint(u, linearisation.measured(u, grad).residual, fell_back)
    return Adjoint(u, relative_norm(solver.residual, grad), fell_back)


def _started(
    linearisation: Linearisation,
    inverse_jacobian: LowRank,
    grad: Tensor,
    wanted: Tensor,
    max_iter: int,
) -> tuple[ConjugateResiduals, Tensor]:
    """Return the solver with its first direction, and which samples took the Jacobian-free one."""
    solver = ConjugateResiduals(grad)
    fell_back = torch.zeros_like(wanted, dtype=torch.bool)
    if inverse_jacobian.rank == 0:
        return solver, fell_back
    shared = inverse_jacobian.rmatvec(grad)
    image = linearisation.times(shared)
    solver.add(shared, image)
    open_ = _open(solver, wanted)
    if max_iter == 1 or not _any(open_):
        return solver, fell_back
    own_image = linearisation.times(grad)
    fell_back = open_ & ~(_explained(image, grad) >= _explained(own_image, grad))
    solver = ConjugateResiduals(grad)
    solver.add(select_rows(fell_back, grad, shared), select_rows(fell_back, own_image, image))
    return solver, fell_back


def _explained(image: Tensor, grad: Tensor) -> Tensor:
    """Return how much of the gradient's norm a direction explains at its best length."""
    length = torch.linalg.vector_norm(image, dim=1)
    return torch.where(length > 0, (image * grad).sum(1).abs() / length, 0)


def _open(solver: ConjugateResiduals, wanted: Tensor) -> Tensor:
    """Return which samples are not done."""
    norm: Tensor = torch.linalg.vector_norm(solver.residual, dim=1)
    return norm > wanted


def _any(samples: Tensor) -> bool:
    return not can_read_values(samples) or bool(samples.any())
