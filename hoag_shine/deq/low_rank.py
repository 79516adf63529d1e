r"""The inverse-Jacobian estimate of a quasi-Newton solver, as the identity plus low rank.

Broyden's methods start from c I and add a rank-one term in each update, so that after k updates
:math:`B = c (I + L^\top M R)`, with k rows in both factors. The cost of a product with B or its
transpose is that of reading both factors once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, repr=False)
class LowRank:
    r"""The identity plus a low-rank matrix for every sample, :math:`B = c (I + L^\top M R)`.

    Attributes
    ----------
    left, right : Tensor of shape (batch, rank, n)
        Factors in the order of the updates, the oldest first. They may be views of one buffer.
    middle : Tensor of shape (batch, rank, rank) or None
        M; None is the identity.
    scale : float
        c.
    """

    left: Tensor
    right: Tensor
    middle: Tensor | None = None
    scale: float = 1.0

    def __repr__(self) -> str:
        batch, rank, n = self.left.shape
        return f"LowRank(batch={batch}, rank={rank}, n={n}, dtype={self.left.dtype})"

    @classmethod
    def identity(cls, like: Tensor) -> LowRank:
        """Return the identity for vectors like ``like``, of shape (batch, n)."""
        empty = like.new_zeros(like.shape[0], 0, like.shape[1])
        return cls(empty, empty)

    @property
    def rank(self) -> int:
        """Number of rows of the factors, some of which may be zero for some samples."""
        return self.left.shape[1]

    @property
    def core(self) -> Tensor:
        """M, of shape (batch, rank, rank), also where it is the identity."""
        if self.middle is not None:
            return self.middle
        eye = torch.eye(self.rank, dtype=self.left.dtype, device=self.left.device)
        return eye.expand(self.left.shape[0], -1, -1)

    def matvec(self, x: Tensor) -> Tensor:
        """Return B x for every sample; ``x`` and the result have shape (batch, n)."""
        return self._scaled(_apply(self.left, self.middle, self.right, x))

    def rmatvec(self, x: Tensor) -> Tensor:
        """Return the transpose of B times x; ``x`` and the result have shape (batch, n)."""
        middle = None if self.middle is None else self.middle.mT
        return self._scaled(_apply(self.right, middle, self.left, x))

    def dense(self) -> Tensor:
        """Return B as a tensor of shape (batch, n, n), for tests and small problems."""
        n = self.left.shape[2]
        eye = torch.eye(n, dtype=self.left.dtype, device=self.left.device)
        return self._scaled(eye + self.left.mT @ (self.core @ self.right))

    def keep(self, wanted: Tensor) -> LowRank:
        """Return the operator of only some updates.

        The rows of M that are not wanted are set to zero. Its columns need not be: M is lower
        triangular, so that early rows do not depend on later updates.

        Parameters
        ----------
        wanted : bool Tensor of shape (batch, rank)
            True for a sample's first updates, false for all that follow.
        """
        return LowRank(self.left, self.right, self.core * wanted[:, :, None], self.scale)

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.scale == 1 else self.scale * x


def choose(first: Tensor, a: LowRank, b: LowRank) -> LowRank:
    """Return ``a`` for the samples where the mask ``first`` is true, and ``b`` for the others.

    Parameters
    ----------
    first : bool Tensor of shape (batch,)
    a, b : LowRank
        With equal scales.
    """
    rank = max(a.rank, b.rank)
    mask = first[:, None, None]
    pairs = zip(_padded(a, rank), _padded(b, rank), strict=True)
    left, right, middle = (torch.where(mask, x, y) for x, y in pairs)
    return LowRank(left, right, middle, a.scale)


def _padded(operator: LowRank, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return left, right and middle, padded with zeros to a rank."""
    missing = rank - operator.rank
    pad = torch.nn.functional.pad
    return (
        pad(operator.left, (0, 0, 0, missing)),
        pad(operator.right, (0, 0, 0, missing)),
        pad(operator.core, (0, missing, 0, missing)),
    )


def _apply(left: Tensor, middle: Tensor | None, right: Tensor, x: Tensor) -> Tensor:
    # x^T R^T M^T L + x^T: with vectors as rows, products run along contiguous memory, which is up
    # to ten times faster on a CPU than the same products with columns.
    row = x[:, None, :]
    coefficients = torch.bmm(row, right.mT)
    if middle is not None:
        coefficients = torch.bmm(coefficients, middle.mT)
    return torch.baddbmm(row, coefficients, left).squeeze(1)
