"""The inner problem: solvers, and the inverse-Hessian estimate that they return.

Wherever the name of a solver is accepted, a solver of your own can be passed: a function as
:class:`InnerSolver` describes it.
"""

from __future__ import annotations

from ..utils.validation import shown
from .base import InnerSolver, LazySolutions, Probe, Solution, Status, begin, rest
from .inverse_hessian import MOST_PAIRS, InverseHessian
from .lbfgs import lbfgs, quasi_newton_step
from .minimize import minimize_lbfgs

__all__ = [
    "MOST_PAIRS",
    "SOLVERS",
    "InnerSolver",
    "InverseHessian",
    "LazySolutions",
    "Probe",
    "Solution",
    "Status",
    "begin",
    "lbfgs",
    "minimize_lbfgs",
    "quasi_newton_step",
    "resolve_inner_solver",
    "rest",
]

SOLVERS: dict[str, InnerSolver] = {"lbfgs": lbfgs}


def resolve_inner_solver(solver: str | InnerSolver, name: str = "inner_solver") -> InnerSolver:
    """Return the solver of that name, or the callable itself."""
    if callable(solver):
        return solver
    if not isinstance(solver, str) or solver not in SOLVERS:
        raise ValueError(
            f"{name} must be one of {sorted(SOLVERS)} or a callable, got {shown(solver)}."
        )
    return SOLVERS[solver]
