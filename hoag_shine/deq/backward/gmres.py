"""GMRES for a batch of linear systems, one for each sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..execution import check_interval
from .base import ROUNDING_UNITS


def gmres(
    matvec: Callable[[Tensor], Tensor],
    residual: Tensor,
    *,
    max_iter: int,
    tol: Tensor | None = None,
    check_every: int | None = None,
) -> Tensor:
    r"""Find, for every sample, the x in the Krylov space that minimises :math:`\|r - A x\|`.

    Arnoldi's process builds an orthonormal basis with :math:`A V_k = V_{k+1} \bar H_k`, where
    :math:`\bar H_k` is upper Hessenberg. Then :math:`x = V_k y` with the y that minimises
    :math:`\|\beta e_1 - \bar H_k y\|`, where :math:`\beta = \|r\|`.

    Parameters
    ----------
    matvec : callable
        Multiplies a tensor of shape (batch, n) by A.
    residual : Tensor of shape (batch, n)
        r, the right-hand side.
    max_iter : int
        Largest dimension of the Krylov space, which is the number of products.
    tol : Tensor of shape (batch,), optional
        Stop when every sample's residual norm, that of the least-squares problem, is at most its
        entry.
    check_every : int, optional
        Steps between two checks of that, by default 1 on a CPU and 5 elsewhere, because a check
        makes the host wait for the device.

    Returns
    -------
    x : Tensor of shape (batch, n)

    References
    ----------
    Saad and Schultz (1986), *GMRES: a generalized minimal residual algorithm for solving
    nonsymmetric linear systems*. Gram-Schmidt is the classical one, done twice, which is two
    matrix products and keeps the basis orthogonal: Giraud, Langou, Rozloznik and van den Eshof
    (2005), *Rounding error analysis of the classical Gram-Schmidt orthogonalization process*.
    """
    batch, n = residual.shape
    every = check_every or check_interval(residual)
    # Not zeros: pages that are never written to take no memory.
    basis = residual.new_empty(batch, max_iter + 1, n)
    hessenberg = residual.new_zeros(batch, max_iter + 1, max_iter)
    beta = torch.linalg.vector_norm(residual, dim=1)
    basis[:, 0] = _unit(residual, beta)
    least_squares = _LeastSquaresResidual(beta, max_iter)
    k = 0
    while k < max_iter:
        w = matvec(basis[:, k])[:, None, :]
        # Arnoldi's step: column k of H = V'A v_k, and v_{k+1} is what is left of A v_k, normalised.
        V = basis[:, : k + 1]
        for _ in range(2):
            coefficients = torch.bmm(w, V.mT)
            w = torch.baddbmm(w, coefficients, V, alpha=-1)
            hessenberg[:, : k + 1, k] += coefficients.squeeze(1)
        norm = torch.linalg.vector_norm(w, dim=2)[:, 0]
        # Once the Krylov space is invariant, only rounding is left of w: the solution is exact.
        norm = torch.where(norm > _rounding(hessenberg[:, : k + 1, k]), norm, 0)
        hessenberg[:, k + 1, k] = norm
        basis[:, k + 1] = _unit(w.squeeze(1), norm)
        k += 1
        if tol is not None:
            least_squares.add(hessenberg[:, : k + 1, k - 1])
            if k % every == 0 and bool((least_squares.norm() <= tol).all()):
                break
    # x = V_k y
    y = _least_squares(hessenberg[:, : k + 1, :k], beta)
    return torch.bmm(y[:, None, :], basis[:, :k]).squeeze(1)


class _LeastSquaresResidual:
    r"""The norm of the residual :math:`\beta e_1 - \bar H_k y`, for one small product a step.

    The residual is the part of :math:`\beta e_1` that is normal to the range of the
    :math:`(k + 1) \times k` matrix :math:`\bar H_k`. The normal direction is unique: the vector
    with first entry 1 whose product with every column is zero, :math:`n^\top \bar H_k = 0`. Each
    column gives one more entry of n, and the norm is :math:`\beta / \|n\|`.
    """

    def __init__(self, beta: Tensor, max_iter: int) -> None:
        self.beta = beta
        self.normal = beta.new_zeros(beta.shape[0], max_iter + 1)
        self.normal[:, 0] = 1
        self.exhausted = torch.zeros_like(beta, dtype=torch.bool)

    def add(self, column: Tensor) -> None:
        k = column.shape[1] - 1
        product, subdiagonal = (self.normal[:, :k] * column[:, :k]).sum(1), column[:, k]
        self.exhausted = self.exhausted | (subdiagonal == 0)
        self.normal[:, k] = torch.where(self.exhausted, 0, -product / subdiagonal)

    def norm(self) -> Tensor:
        norm = self.beta / torch.linalg.vector_norm(self.normal, dim=1)
        # A sample that is not finite counts as solved: the others need not wait for it.
        return torch.where(self.exhausted, 0, torch.nan_to_num(norm))


def _unit(x: Tensor, norm: Tensor) -> Tensor:
    return x * torch.where(norm > 0, 1 / norm, 0)[:, None]


def _rounding(column: Tensor) -> Tensor:
    """Return the norm up to which what is left of a vector with such coefficients is rounding."""
    norm: Tensor = torch.linalg.vector_norm(column, dim=1)
    return norm * (ROUNDING_UNITS * torch.finfo(column.dtype).eps)


def _least_squares(hessenberg: Tensor, beta: Tensor) -> Tensor:
    """Return the least-squares solution of H y = beta e1."""
    # pinv raises an error if any sample is not finite.
    hessenberg = torch.nan_to_num(hessenberg, posinf=0, neginf=0)
    target = torch.zeros_like(hessenberg[:, :, :1])
    target[:, 0, 0] = beta
    # The pseudoinverse, since columns after the space has become invariant are zero.
    inverse = torch.linalg.pinv(hessenberg)
    y: Tensor = inverse @ target
    return y.squeeze(2)
