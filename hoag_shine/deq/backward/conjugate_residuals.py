"""Generalised conjugate residuals for a batch of linear systems, with directions from anywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from ..execution import in_torch_func
from .base import ROUNDING_UNITS


class ConjugateResiduals:
    r"""The combination of all directions so far with the smallest residual b - A u.

    A direction p with image q = A p is orthogonalised against the earlier ones, in the inner
    product of the images, and scaled so that :math:`\|q\| = 1`. Then

    .. math::

        u \leftarrow u + (q^\top r)\, p, \qquad r \leftarrow r - (q^\top r)\, q.

    Invariants: images are orthonormal, ``residual`` is b - A u and is orthogonal to all images, so
    that its norm never grows. Unlike GMRES, this can start from an estimate, scaled to its best
    length, and knows the residual after every step.

    Parameters
    ----------
    target : Tensor of shape (batch, n)
        b.
    capacity : int
        Largest number of directions.

    Attributes
    ----------
    u, residual : Tensor of shape (batch, n)
        The solution so far, and b - A u.
    failed : bool Tensor of shape (batch,)
        Samples with an image that was not finite.

    References
    ----------
    Eisenstat, Elman and Schultz (1983), *Variational iterative methods for nonsymmetric systems of
    linear equations*: GCR. Giraud, Langou, Rozloznik and van den Eshof (2005), *Rounding error
    analysis of the classical Gram-Schmidt orthogonalization process*: why Gram-Schmidt is done
    twice.
    """

    def __init__(self, target: Tensor, capacity: int) -> None:
        self.u = torch.zeros_like(target)
        self.residual = target
        self.failed = target.new_zeros(target.shape[0], dtype=torch.bool)
        self._directions, self._images = _Rows(target, capacity), _Rows(target, capacity)

    def add(self, direction: Tensor, image: Tensor) -> None:
        """Add a direction p and its image A p, both of shape (batch, n)."""
        p, q = direction[:, None, :], image[:, None, :]
        length = torch.linalg.vector_norm(q, dim=2, keepdim=True)
        directions, images = self._directions.held, self._images.held
        for _ in range(2 if images.shape[1] else 0):
            # q -= Q'Q q and p by the same coefficients, so that q stays A p.
            coefficients = torch.bmm(q, images.mT)
            q = torch.baddbmm(q, coefficients, images, alpha=-1)
            p = torch.baddbmm(p, coefficients, directions, alpha=-1)
        norm = torch.linalg.vector_norm(q, dim=2, keepdim=True)
        finite = torch.isfinite(norm)
        self.failed = self.failed | ~finite[:, 0, 0]
        # A direction in the span of the earlier ones leaves only rounding: it becomes zero.
        new = (norm > ROUNDING_UNITS * torch.finfo(q.dtype).eps * length) & finite
        p, q = (torch.where(new, v / torch.where(new, norm, 1), 0) for v in (p, q))
        # u += (q'r) p and r -= (q'r) q.
        step = torch.bmm(q, self.residual[:, :, None])
        self.u = torch.baddbmm(self.u[:, None, :], step, p).squeeze(1)
        self.residual = torch.baddbmm(self.residual[:, None, :], step, q, alpha=-1).squeeze(1)
        self._directions.append(p)
        self._images.append(q)


class _Rows:
    """Vectors of every sample, in memory that is allocated once for all that may be added.

    Attributes
    ----------
    held : Tensor of shape (batch, k, n)
        The vectors so far.
    """

    def __init__(self, like: Tensor, capacity: int) -> None:
        # Not zeros: pages that are never written to take no memory.
        self._buffer = like.new_empty(like.shape[0], capacity, like.shape[1])
        self.held = self._buffer[:, :0]

    def append(self, row: Tensor) -> None:
        """Add a vector, of shape (batch, 1, n)."""
        k = self.held.shape[1]
        if in_torch_func():  # which differentiates no writing in place
            self.held = torch.cat([self.held, row], dim=1)
            return
        self._buffer[:, k : k + 1] = row
        self.held = self._buffer[:, : k + 1]
