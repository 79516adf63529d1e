"""The interface of backward methods: the linearisation they get and the adjoint they return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..execution import select_rows
from ..low_rank import LowRank
from ..state import FlatMap, Graph

# Most products in the exact solution of an adjoint system.
# Why: by judgement; GMRES took 16 to 20 on layers that contract, and where 30 are not enough the
# fixed point itself was rarely found.
ADJOINT_MAX_ITER = 30
# Tolerance of that solution, on the residual relative to the right-hand side.
# Why: by judgement: ten times the rounding of float32.
ADJOINT_TOL = 1e-6
# Norm of what orthogonalisation leaves of a vector, in units of eps times the vector's norm, up to
# which it is rounding and not a new direction.
# Why: by judgement: a few roundings of Gram-Schmidt.
ROUNDING_UNITS = 10


@dataclass(frozen=True)
class Adjoint:
    r"""A solution of the adjoint system :math:`(I - J^\top) u = \nabla L`, or an estimate of it.

    Attributes
    ----------
    value : Tensor of shape (batch, n)
        u.
    residual : Tensor of shape (batch,) or None
        :math:`\|\nabla L - (I - J^\top) u\| / \|\nabla L\|` if the method computes it, with NaN for
        samples for which it does not.
    fell_back : bool Tensor of shape (batch,) or None
        Samples whose first estimate was rejected, if the method has a test.
    """

    value: Tensor
    residual: Tensor | None = None
    fell_back: Tensor | None = None


class Linearisation:
    """Products with the transposed Jacobian J of f at the fixed point.

    The graph of f that they need is built by the first product, unless :meth:`use` gives one.

    Parameters
    ----------
    f : FlatMap
    z : Tensor of shape (batch, n)
        The fixed point.
    converged : bool Tensor of shape (batch,), optional
        Samples whose z is within the solver's tolerance; by default all of them.

    Attributes
    ----------
    converged : bool Tensor of shape (batch,)
    precision : torch.dtype
        The lowest precision in which f computes.
    n_vjp : int
        Number of products so far.
    """

    def __init__(self, f: FlatMap, z: Tensor, converged: Tensor | None = None) -> None:
        self._f = f
        self._z = z
        if converged is None:
            converged = z.new_ones(z.shape[0], dtype=torch.bool)
        self.converged = converged
        self.precision = f.precision
        self._vjp: Callable[[Tensor], Tensor] | None = None
        self.n_vjp = 0

    def vjp(self, v: Tensor) -> Tensor:
        """Return J^T v; ``v`` and the result have shape (batch, n)."""
        if self._vjp is None:
            _, self._vjp = self._f.value_and_vjp(self._z)
        self.n_vjp += 1
        return self._vjp(v)

    def use(self, graph: Graph) -> None:
        """Make products by a graph of f that is there already."""
        self._vjp = graph.vjp

    def free(self) -> None:
        """Let go of the graph of f; a later product builds one."""
        self._vjp = None

    def times(self, v: Tensor) -> Tensor:
        """Return (I - J^T) v, for one product."""
        return v - self.vjp(v)

    def residual(self, u: Tensor, grad: Tensor) -> Tensor:
        """Return ``grad - (I - J^T) u``, of shape (batch, n), for one product."""
        return grad - self.times(u)

    def measured(self, u: Tensor, grad: Tensor) -> Adjoint:
        """Return u with its true residual, for one product.

        The residual that an iteration keeps may be that of an earlier iterate, or far off by
        rounding. For samples whose residual is not finite, u is NaN.
        """
        return checked_adjoint(u, relative_norm(self.residual(u, grad), grad))


Method: TypeAlias = Callable[[Linearisation, LowRank, Tensor], Adjoint]
"""``method(linearisation, inverse_jacobian, grad)``, with ``grad`` of shape (batch, n)."""


Recorder: TypeAlias = Callable[[FlatMap, Tensor], Tensor]
"""``recorder(f, z)``, which returns z, possibly after more steps of f, with its graph."""


def relative_norm(x: Tensor, to: Tensor) -> Tensor:
    """Return the norms of x over those of ``to`` for every sample; 0 over 0 is 0."""
    return norm_ratio(torch.linalg.vector_norm(x, dim=1), torch.linalg.vector_norm(to, dim=1))


def norm_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return a ratio of norms; 0 over 0 is 0."""
    return torch.where(numerator == 0, 0, numerator / denominator)


def checked_adjoint(u: Tensor, residual: Tensor) -> Adjoint:
    """Return u with its residual; u is NaN for samples whose residual is not finite."""
    finite = torch.isfinite(residual)
    return Adjoint(select_rows(finite, u, torch.full_like(u, torch.nan)), residual)
