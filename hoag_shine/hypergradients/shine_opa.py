"""Outer-problem awareness: L-BFGS pairs in the direction that the hypergradient needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..inner.inverse_hessian import InverseHessian
from ..problems.base import Problem
from .base import AdjointProblem, Hypergradient, Vector
from .shine import shine


@dataclass(frozen=True)
class ShineOPA:
    r"""SHINE with outer-problem awareness (OPA) in the inner solver.

    Every ``every`` inner iterations, the memory takes in a pair in the direction
    :math:`e = B d`, with :math:`d = (\partial^2 g / \partial\theta \partial w)\, s` the cross
    derivative along the last hypergradient s (along all ones before there is one). With
    :math:`Be \approx d` secured, :math:`d^\top B \nabla f` is right where the outer step needs it.

    Parameters
    ----------
    every : int or callable, default=5
        Inner iterations between two pairs, or a schedule: a function that maps the number of an
        inner iteration (1, 2, ..., counted over all solves of a problem) to whether a pair follows.

    Notes
    -----
    The paper takes :math:`y = \nabla g(w + t_n e) - \nabla g(w)` with summable
    :math:`t_n`; here :math:`y = He`, its limit for :math:`t_n \to 0`, at the same cost of one data
    pass. A pair is kept only where :math:`e^\top y > 0`. The published code takes the outer
    gradient in place of the cross derivative; the paper has the cross derivative, which serves
    better.

    References
    ----------
    .. [1] Z. Ramzi et al., "SHINE: SHaring the INverse Estimate from the forward pass for bi-level
       optimization and implicit models", ICLR 2022, section 2.3, algorithm LBFGS-OPA.
    """

    every: int | Callable[[int], bool] = 5

    def __post_init__(self) -> None:
        if not callable(self.every) and self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}.")

    def __call__(self, adjoint: AdjointProblem) -> Hypergradient:
        """Return the SHINE estimate; what OPA does, it has done in the inner solver."""
        return shine(adjoint)

    def probe(
        self, problem: Problem
    ) -> Callable[[Vector, Vector, int, Vector, InverseHessian], Iterator[Vector]]:
        """Return the function that chooses the directions; it counts all inner iterations."""
        every = self.every
        due = every if callable(every) else lambda n: n % every == 0
        n_calls = 0

        def directions(
            theta: Vector, along: Vector, n_iter: int, w: Vector, inverse_hessian: InverseHessian
        ) -> Iterator[Vector]:
            nonlocal n_calls
            n_calls += 1
            if due(n_calls):
                # e = B d with d = (d2g / dtheta dw) s; the solver appends the pair (e, H e).
                cross = problem.cross_jvp(w, theta, along)
                if np.any(cross):
                    yield inverse_hessian @ cross

        return directions
