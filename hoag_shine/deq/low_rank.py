"""The inverse-Jacobian estimate that a quasi-Newton solver leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, repr=False)
class LowRank:
    r"""The identity plus a low-rank matrix for every sample, :math:`B = I + L^\top M R`.

    Attributes
    ----------
    left, right : Tensor of shape (batch, rank, n)
        Factors in time order, the oldest first. They may be views of one buffer.
    middle : Tensor of shape (batch, rank, rank) or None
        M; None is the identity.
    """

    left: Tensor
    right: Tensor
    middle: Tensor | None = None

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
        """Number of factors held, of which some may be zero for some samples."""
        return self.left.shape[1]

    def matvec(self, x: Tensor) -> Tensor:
        """Return B x for every sample; ``x`` and the result have shape (batch, n)."""
        return _apply(self.left, self.middle, self.right, x)

    def rmatvec(self, x: Tensor) -> Tensor:
        """Return the transpose of B times x; ``x`` and the result have shape (batch, n)."""
        middle = None if self.middle is None else self.middle.mT
        return _apply(self.right, middle, self.left, x)

    def dense(self) -> Tensor:
        """Return B as a tensor of shape (batch, n, n), for tests and small problems."""
        middle_right = self.right if self.middle is None else self.middle @ self.right
        n = self.left.shape[2]
        eye = torch.eye(n, dtype=self.left.dtype, device=self.left.device)
        return eye + self.left.mT @ middle_right

    def keep(self, wanted: Tensor) -> LowRank:
        """Return the operator without the pairs that are not wanted.

        Parameters
        ----------
        wanted : bool Tensor of shape (batch, rank)
            True for a sample's leading pairs, those up to some time.
        """
        if self.middle is None:
            return LowRank(self.left, self.right, torch.diag_embed(wanted.to(self.left.dtype)))
        return LowRank(self.left, self.right, self.middle * wanted[:, :, None])


def choose(first: Tensor, a: LowRank, b: LowRank) -> LowRank:
    """Return ``a`` for the samples where the mask ``first`` is true, and ``b`` for the others.

    Parameters
    ----------
    first : bool Tensor of shape (batch,)
    a, b : LowRank
        With middles.
    """
    rank = max(a.rank, b.rank)
    mask = first[:, None, None]

    def pick(x: Tensor | None, y: Tensor | None, *, square: bool = False) -> Tensor:
        assert x is not None
        assert y is not None
        return torch.where(mask, _padded(x, rank, square), _padded(y, rank, square))

    return LowRank(
        pick(a.left, b.left),
        pick(a.right, b.right),
        pick(a.middle, b.middle, square=True),
    )


def _padded(x: Tensor, rank: int, square: bool) -> Tensor:
    missing = rank - x.shape[1]
    return torch.nn.functional.pad(x, (0, missing if square else 0, 0, missing))


def _apply(left: Tensor, middle: Tensor | None, right: Tensor, x: Tensor) -> Tensor:
    # Vectors are rows: products that run along contiguous memory are up to ten times faster on a
    # CPU than the same ones with columns.
    row = x[:, None, :]
    coefficients = torch.bmm(row, right.mT)
    if middle is not None:
        coefficients = torch.bmm(coefficients, middle.mT)
    return torch.baddbmm(row, coefficients, left).squeeze(1)
