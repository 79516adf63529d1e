"""GMRES for a batch of linear systems at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gmres(
    matvec: Callable[[Tensor], Tensor],
    residual: Tensor,
    *,
    max_iter: int,
    tol: Tensor | None = None,
    check_every: int | None = None,
) -> Tensor:
    """Find, for every sample, the x in the Krylov space with the smallest ``residual - A x``.

    Parameters
    ----------
    matvec : callable
        Multiplies a tensor of shape (batch, n) by A.
    residual : Tensor of shape (batch, n)
        Right-hand side.
    max_iter : int
        Dimension of the Krylov space, the number of products.
    tol : Tensor of shape (batch,), optional
        Stop when every sample's residual norm is no larger than its entry, according to the
        projected system.
    check_every : int, optional
        How often that is looked at, by default at every step on a CPU and at every fifth elsewhere,
        since it makes the host wait for the device.

    Returns
    -------
    x : Tensor of shape (batch, n)

    References
    ----------
    Saad and Schultz (1986), *GMRES*; classical Gram-Schmidt is done twice, so that it costs few
    large products and stays orthogonal.
    """
    batch, n = residual.shape
    every = check_every or (1 if residual.device.type == "cpu" else 5)
    basis = residual.new_empty(batch, max_iter + 1, n)  # what is not used is not touched
    hessenberg = residual.new_zeros(batch, max_iter + 1, max_iter)
    beta = torch.linalg.vector_norm(residual, dim=1)
    basis[:, 0] = _unit(residual, beta)
    distance = _Distance(beta, max_iter)
    k = 0
    while k < max_iter:
        w = matvec(basis[:, k])[:, None, :]
        held = basis[:, : k + 1]
        for _ in range(2):
            shares = torch.bmm(w, held.mT)
            w = torch.baddbmm(w, shares, held, alpha=-1)
            hessenberg[:, : k + 1, k] += shares.squeeze(1)
        norm = torch.linalg.vector_norm(w, dim=2)[:, 0]
        # What rounding leaves of an exhausted Krylov space is no direction.
        norm = torch.where(norm > _rounding(hessenberg[:, : k + 1, k]), norm, 0)
        hessenberg[:, k + 1, k] = norm
        basis[:, k + 1] = _unit(w.squeeze(1), norm)
        k += 1
        if tol is not None:
            distance.add(hessenberg[:, : k + 1, k - 1])
            if k % every == 0 and bool((distance.norm() <= tol).all()):
                break
    y = _project(hessenberg[:, : k + 1, :k], beta)
    return torch.bmm(y[:, None, :], basis[:, :k]).squeeze(1)


class _Distance:
    """The distance of beta e1 to the range of H, from the vector normal to that range.

    The normal n, with first entry 1, gets an entry a column: its product with the column is zero.
    So the residual norm of an iteration is known for one small product.
    """

    def __init__(self, beta: Tensor, max_iter: int) -> None:
        self.beta = beta
        self.normal = beta.new_zeros(beta.shape[0], max_iter + 1)
        self.normal[:, 0] = 1
        self.exhausted = torch.zeros_like(beta, dtype=torch.bool)

    def add(self, column: Tensor) -> None:
        k = column.shape[1] - 1
        product, last = (self.normal[:, :k] * column[:, :k]).sum(1), column[:, k]
        self.exhausted = self.exhausted | (last == 0)
        self.normal[:, k] = torch.where(self.exhausted, 0, -product / last)

    def norm(self) -> Tensor:
        norm = self.beta / torch.linalg.vector_norm(self.normal, dim=1)
        # A sample that is not finite is not waited for.
        return torch.where(self.exhausted, 0, torch.nan_to_num(norm))


def _unit(x: Tensor, norm: Tensor) -> Tensor:
    return x * torch.where(norm > 0, 1 / norm, 0)[:, None]


def _rounding(column: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(column, dim=1)
    return norm * (10 * torch.finfo(column.dtype).eps)


def _project(hessenberg: Tensor, beta: Tensor) -> Tensor:
    """Return the least-squares solution of H y = beta e1."""
    # One sample that is not finite must not end the others' computation.
    hessenberg = torch.nan_to_num(hessenberg, posinf=0, neginf=0)
    target = torch.zeros_like(hessenberg[:, :, :1])
    target[:, 0, 0] = beta
    inverse = torch.linalg.pinv(hessenberg)  # a space that is exhausted early has zero columns
    y: Tensor = inverse @ target
    return y.squeeze(2)
