"""The diagnostics that a layer returns beside z: of the solve, and of its backward pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .low_rank import LowRank
from .solvers import Status
from .state import State


@dataclass(frozen=True)
class BackwardInfo:
    r"""Diagnostics of a backward pass.

    Attributes
    ----------
    residual : Tensor of shape (batch,) or None
        :math:`\|\nabla L - (I - J^\top) u\| / \|\nabla L\|`, if the method computes it; NaN for
        samples for which it does not.
    fell_back : bool Tensor of shape (batch,) or None
        Samples for which the fallback was taken, if the method has one.
    n_vjp : int
        Number of vector-Jacobian products.
    """

    residual: Tensor | None
    fell_back: Tensor | None
    n_vjp: int


@dataclass(repr=False)
class Info:
    """Diagnostics of a solve.

    Attributes
    ----------
    residual, relative_residual : Tensor of shape (batch,)
        Norm of z - f(z) at the returned z, and that norm over the norm of f(z).
    n_steps : int64 Tensor of shape (batch,)
        Number of steps after which the returned z was reached.
    status : int8 Tensor of shape (batch,)
        Values of :class:`Status`.
    trace : Tensor of shape (steps + 1, batch)
        At every iterate, the residual that is compared with the tolerance. With ``monitor=False``,
        that of the last iterate only, of shape (1, batch).
    inverse_jacobian : LowRank
        The solver's estimate of the inverse of I - J at z.
    n_evals : int
        Number of evaluations of f by the solver.
    iterates : tuple of states
        Those that ``indexing`` asked for.
    backward : BackwardInfo or None
        None until the backward pass through z has run.
    """

    residual: Tensor
    relative_residual: Tensor
    n_steps: Tensor
    status: Tensor
    trace: Tensor
    inverse_jacobian: LowRank
    n_evals: int
    iterates: tuple[State, ...] = ()
    backward: BackwardInfo | None = field(default=None)

    def __repr__(self) -> str:
        """Return a summary, without the tensors."""
        counts = {s.name.lower(): int((self.status == s).sum()) for s in Status}
        samples = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        steps, largest = (
            x.max().item() if x.numel() else 0 for x in (self.n_steps, self.relative_residual)
        )
        backward = f"; backward: {self.backward.n_vjp} products" if self.backward else ""
        return (
            f"Info({len(self.status)} samples: {samples or 'none'}; at most {steps} steps and "
            f"relative residual {largest:.1e}; {self.n_evals} evaluations of f{backward})"
        )

    @property
    def converged(self) -> Tensor:
        """Samples whose residual is within the tolerance, a bool tensor of shape (batch,)."""
        return self.status == Status.CONVERGED

    @property
    def diverged(self) -> Tensor:
        """Samples that diverged, a bool tensor of shape (batch,)."""
        return self.status == Status.DIVERGED
