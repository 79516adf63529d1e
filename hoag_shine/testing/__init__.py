"""Checks for your own loss, penalty, problem, inner solver or hypergradient method.

Each returns nothing if all is well, and otherwise raises an AssertionError that says what is wrong,
where, and by how much. Derivatives are compared with central differences, extrapolated from two
steps; how far the two disagree says how accurate the differences themselves are.
"""

from __future__ import annotations

from .hypergradients import check_hypergradient
from .inner_solvers import check_inner_solver
from .losses import check_loss
from .penalties import check_penalty
from .problems import check_problem

__all__ = [
    "check_hypergradient",
    "check_inner_solver",
    "check_loss",
    "check_penalty",
    "check_problem",
]
