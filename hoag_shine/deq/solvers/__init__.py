"""Batched fixed-point solvers, which solve for each sample separately.

A solver is a function ``solver(f, z0, stopping) -> Solution`` of a
:class:`~hoag_shine.deq.FlatMap`, a tensor of shape (batch, n) and a
:class:`~hoag_shine.deq.Stopping`. Further options are keyword arguments, set with
``functools.partial``. A solver declares its capabilities as attributes of the function, each of
them true by default:

- ``estimates_inverse``: the solution's inverse Jacobian is an estimate, not the identity, so that
  ``backward="shine"`` can use it.
- ``takes_outer_grad``: the solver uses ``outer_grad``.
"""

from .adjoint_broyden import adjoint_broyden
from .anderson import anderson
from .base import Monitor, Solution, Solver, Status, Stopping
from .broyden import broyden
from .picard import picard

SOLVERS: dict[str, Solver] = {
    "adjoint-broyden": adjoint_broyden,
    "anderson": anderson,
    "broyden": broyden,
    "picard": picard,
}

__all__ = [
    "SOLVERS",
    "Monitor",
    "Solution",
    "Solver",
    "Status",
    "Stopping",
    "adjoint_broyden",
    "anderson",
    "broyden",
    "picard",
]
