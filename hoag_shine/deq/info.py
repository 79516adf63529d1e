"""What a layer tells of a solve and of its backward pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .low_rank import LowRank
from .solvers import Status
from .state import State


@dataclass(frozen=True)
class BackwardInfo:
    r"""What is known of a backward pass.

    Attributes
    ----------
    residual : Tensor of shape (batch,) or None
        :math:`\|\nabla L - (I - J^\top) u\| / \|\nabla L\|`, if the method computes it; NaN where
        it does not.
    fell_back : bool Tensor of shape (batch,) or None
        Samples for which the fallback was taken, if there is one.
    n_vjp : int
        Products with the transposed Jacobian.
    """

    residual: Tensor | None
    fell_back: Tensor | None
    n_vjp: int


@dataclass(repr=False)
class Info:
    """What is known of a solve.

    Attributes
    ----------
    residual, relative_residual : Tensor of shape (batch,)
        Norm of z - f(z) at the returned z, and that over the norm of f(z).
    n_steps : int64 Tensor of shape (batch,)
        Steps after which z was found.
    status : int8 Tensor of shape (batch,)
        Values of :class:`Status`.
    trace : Tensor of shape (steps + 1, batch)
        The residual that is compared with the tolerance, at every iterate; without a monitor, at
        the last one.
    inverse_jacobian : LowRank
        The solver's estimate of the inverse of I - J at z.
    n_evals : int
        Calls of f by the solver.
    iterates : tuple of states
        Those that ``indexing`` asked for.
    backward : BackwardInfo or None
        None until gradients have gone through z.
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
        """Summarise; the tensors are too large to be read."""
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
        """Samples within the tolerance, a bool tensor of shape (batch,)."""
        return self.status == Status.CONVERGED

    @property
    def diverged(self) -> Tensor:
        """Samples given up, a bool tensor of shape (batch,)."""
        return self.status == Status.DIVERGED
