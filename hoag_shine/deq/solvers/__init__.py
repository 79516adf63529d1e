"""Batched fixed-point solvers: one solve per sample.

A solver is a function ``solver(f, z0, stopping) -> Solution`` of a
:class:`~hoag_shine.deq.FlatMap`, a tensor of shape (batch, n) and a
:class:`~hoag_shine.deq.Stopping`; options beyond these are keyword arguments, set with
``functools.partial``. What a solver gives are attributes of the function, all of them true where
they are not set: ``estimates_inverse``, whether the solution's inverse Jacobian is more than the
identity, so that ``backward="shine"`` makes sense; ``takes_outer_grad``, whether the solver makes
use of ``outer_grad``.
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
