"""What a backward method is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..execution import select_rows
from ..low_rank import LowRank
from ..state import FlatMap


@dataclass(frozen=True)
class Adjoint:
    r"""An answer to :math:`(I - J^\top) u = \nabla L`.

    Attributes
    ----------
    value : Tensor of shape (batch, n)
        u.
    residual : Tensor of shape (batch,) or None
        :math:`\|\nabla L - (I - J^\top) u\| / \|\nabla L\|` where the method knows it, with NaN for
        samples for which it does not.
    fell_back : bool Tensor of shape (batch,) or None
        Samples whose first estimate was rejected, where the method has a test.
    """

    value: Tensor
    residual: Tensor | None = None
    fell_back: Tensor | None = None


class Linearisation:
    """The transposed Jacobian J of f at the fixed point.

    Methods that never ask for a product never pay for the graph behind it.

    Parameters
    ----------
    f : FlatMap
    z : Tensor of shape (batch, n)
        The fixed point.
    converged : bool Tensor of shape (batch,), optional
        Samples whose z is known to be within the tolerance; by default all of them.

    Attributes
    ----------
    converged : bool Tensor of shape (batch,)
    precision : torch.dtype
        The lowest in which f computes.
    n_vjp : int
        Products so far.
    """

    def __init__(self, f: FlatMap, z: Tensor, converged: Tensor | None = None) -> None:
        self._f = f
        self._z = z
        everyone = z.new_ones(z.shape[0], dtype=torch.bool)
        self.converged = everyone if converged is None else converged
        self.precision = f.precision
        self._vjp: Callable[[Tensor], Tensor] | None = None
        self.n_vjp = 0

    def vjp(self, v: Tensor) -> Tensor:
        """Return the transposed J times v; ``v`` and the result have shape (batch, n)."""
        if self._vjp is None:
            _, self._vjp = self._f.value_and_vjp(self._z)
        self.n_vjp += 1
        return self._vjp(v)

    def free(self) -> None:
        """Drop the graph behind the products; another product would build it again."""
        self._vjp = None

    def times(self, v: Tensor) -> Tensor:
        """Return (I - J^T) v, for one product."""
        return v - self.vjp(v)

    def residual(self, u: Tensor, grad: Tensor) -> Tensor:
        """Return ``grad - (I - J^T) u``, of shape (batch, n), for one product."""
        return grad - self.times(u)

    def measured(self, u: Tensor, grad: Tensor) -> Adjoint:
        """Return u with its residual on the whole state, for one product.

        What an iteration believes of its residual may be of the past, or of another system. Where
        the residual is not finite u is no answer, and is NaN.
        """
        return checked_adjoint(u, relative_norm(self.residual(u, grad), grad))


Method: TypeAlias = Callable[[Linearisation, LowRank, Tensor], Adjoint]
"""``method(linearisation, inverse_jacobian, grad)``, with ``grad`` of shape (batch, n)."""


Recorder: TypeAlias = Callable[[FlatMap, Tensor], Tensor]
"""``recorder(f, z)``, which returns z, or what it becomes, with a graph."""


def relative_norm(x: Tensor, to: Tensor) -> Tensor:
    """Return the norms of x over those of ``to`` for every sample; 0 over 0 is 0."""
    return norm_ratio(torch.linalg.vector_norm(x, dim=1), torch.linalg.vector_norm(to, dim=1))


def norm_ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """Return a ratio of norms; 0 over 0 is 0."""
    return torch.where(top == 0, 0, top / bottom)


def checked_adjoint(u: Tensor, residual: Tensor) -> Adjoint:
    """Return u with its residual; where that is not finite u is no answer, and is NaN."""
    finite = torch.isfinite(residual)
    return Adjoint(select_rows(finite, u, torch.full_like(u, torch.nan)), residual)
