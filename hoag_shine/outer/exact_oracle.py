"""The oracle that solves small inner problems by factorised Hessians."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..inner import Solution
from ..inner.factorised import FactorisedSolutions
from ..linalg.threads import one_blas_thread
from ..problems.base import ProblemSet
from ..problems.direct import DirectProblems
from ..problems.direct.newton import MAX_NEWTON_STEPS
from .inner_state import Map
from .oracle import Oracle, prior
from .steps import Ask, Evaluation
from .steps.base import NotFiniteError
from .tolerances import NULL_VALUE_SHARE

Vector = NDArray[np.float64]

# Newton steps of a search that may lead nowhere.
# Why: by judgement. It only bounds how long a search goes on at penalties where no solve ends well.
MAX_VAIN_NEWTON_STEPS = 400
# Solves among which the steps that are left are shared out.
# Why: by judgement: the first vain solves may be long, later ones are short.
SOLVES_SHARING_STEPS = 4
# Newton steps that each solve may take in any case.
# Why: of solves that end well, nine in ten take no more than 8.
MIN_NEWTON_STEPS = 20


class ExactOracle(Oracle):
    """All inner problems, solved by Newton's method to the accuracy of the arithmetic.

    Its first answer is final, however accurately it was asked.
    """

    def __init__(
        self,
        problems: ProblemSet,
        parts: Sequence[DirectProblems],
        theta: Vector,
        shrinkage: float,
        map: Map,  # noqa: A002
        deadline: float = np.inf,
    ) -> None:
        super().__init__(problems, deadline)
        self.theta = theta
        self.n_iter = 0
        self.n_hvp = 0
        self._in_vain = 0
        self.solutions: Sequence[Solution] = []
        self.fold_values = np.full(len(problems), np.nan)
        self._parts = parts
        self._shrinkage = shrinkage
        self._map = map
        self._last: Evaluation | None = None
        for part in parts:
            part.forget()  # a search does not depend on what was solved before it

    @property
    def _most_steps(self) -> int:
        """Newton steps that the next solve may take: fewer after many that led nowhere."""
        return max(
            MIN_NEWTON_STEPS,
            min(MAX_NEWTON_STEPS, (MAX_VAIN_NEWTON_STEPS - self._in_vain) // SOLVES_SHARING_STEPS),
        )

    def restart(self, theta: Vector, ws: Sequence[Vector]) -> None:
        self.theta, self._last = theta, None
        own = iter(ws)
        for part in self._parts:
            part.start([next(own) for _ in range(part.n_folds)])

    def evaluate(self, ask: Ask, scheduled: float | None = None) -> Evaluation:
        if self._last is None or not np.array_equal(ask.theta, self._last.theta):
            self.theta = ask.theta
            self._last = self._evaluate(ask.theta)
        return self._last

    def _evaluate(self, theta: Vector) -> Evaluation:
        try:
            most = self._most_steps
            with one_blas_thread():
                solved = list(self._map(lambda part: part.solve(theta, most), self._parts))
        except FloatingPointError as error:
            raise NotFiniteError(theta) from error
        n_iter = max(s.n_iter for s in solved)
        self.n_iter += n_iter
        self._in_vain += n_iter * any(not np.isfinite(s.errors).all() for s in solved)
        self.solutions = FactorisedSolutions(self._parts, solved, theta)
        self.fold_values = np.concatenate([s.values for s in solved])
        grad = np.concatenate([s.hypergradients for s in solved]).mean(axis=0)
        if not (np.isfinite(self.fold_values).all() and np.isfinite(grad).all()):
            raise NotFiniteError(theta)
        shrinkage, pull = prior(theta, self._shrinkage)
        bound = float(np.concatenate([s.bounds for s in solved]).mean())
        return Evaluation(
            theta=theta,
            value=float(self.fold_values.mean()) + shrinkage,
            grad=grad + pull,
            error=float(np.concatenate([s.errors for s in solved]).mean()),
            residual=0.0,
            final=True,
            tolerance=0.0,
            prior=shrinkage,
            grad_error=bound,
            grad_bound=bound,
            grad_asked=0.0,  # asking again makes it no more accurate
            used="newton",
            floor=NULL_VALUE_SHARE * self.problems.null_value,
            exact=True,
            smooth=all(part.loss.smooth for part in self._parts),
            cheap=True,
            passes=self.n_passes,
        )
