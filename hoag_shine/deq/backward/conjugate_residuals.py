"""Conjugate residuals for a batch of linear systems, from directions of any kind."""

from __future__ import annotations

import torch
from torch import Tensor


class ConjugateResiduals:
    """The combination of all directions so far that leaves the smallest residual b - A u.

    Unlike GMRES it can start from an estimate at the estimate's best length, and its residual is
    known after every step without a product. Images of directions are kept orthonormal, so that
    the residual never grows.

    Parameters
    ----------
    target : Tensor of shape (batch, n)
        b.

    Attributes
    ----------
    u, residual : Tensor of shape (batch, n)
        The solution so far, and b - A u.
    failed : bool Tensor of shape (batch,)
        Samples of which an image was not finite.

    References
    ----------
    Eisenstat, Elman and Schultz (1983), *Variational iterative methods for nonsymmetric systems of
    linear equations*, where it is called GCR; Gram-Schmidt is done twice.
    """

    def __init__(self, target: Tensor) -> None:
        self.u = torch.zeros_like(target)
        self.residual = target
        self.failed = target.new_zeros(target.shape[0], dtype=torch.bool)
        self._directions = target.new_zeros(target.shape[0], 0, target.shape[1])
        self._images = self._directions

    def add(self, direction: Tensor, image: Tensor) -> None:
        """Take in a direction and its image, A times it, both of shape (batch, n)."""
        p, q = direction[:, None, :], image[:, None, :]
        length = torch.linalg.vector_norm(q, dim=2, keepdim=True)
        for _ in range(2 if self._images.shape[1] else 0):
            shares = torch.bmm(q, self._images.mT)
            q = torch.baddbmm(q, shares, self._images, alpha=-1)
            p = torch.baddbmm(p, shares, self._directions, alpha=-1)
        norm = torch.linalg.vector_norm(q, dim=2, keepdim=True)
        finite = torch.isfinite(norm)
        self.failed = self.failed | ~finite[:, 0, 0]
        # What rounding leaves of a direction that is not new is none.
        new = (norm > 10 * torch.finfo(q.dtype).eps * length) & finite
        p, q = (torch.where(new, v / torch.where(new, norm, 1), 0) for v in (p, q))
        share = torch.bmm(q, self.residual[:, :, None])
        self.u = torch.baddbmm(self.u[:, None, :], share, p).squeeze(1)
        self.residual = torch.baddbmm(self.residual[:, None, :], share, q, alpha=-1).squeeze(1)
        self._directions = torch.cat([self._directions, p], dim=1)
        self._images = torch.cat([self._images, q], dim=1)
