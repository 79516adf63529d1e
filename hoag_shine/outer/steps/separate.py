"""Several searches in one hyperparameter each, run together."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from .base import Ask, Evaluation, Outcome, StepRule, Vector, accurately
from .evaluations import Evaluations
from .global_search import global_search
from .secant import FIRST_STEP_LENGTH


def separate(
    theta: Vector,
    lower: Vector,
    upper: Vector,
    tol: float,
    first_step: float = FIRST_STEP_LENGTH,
    accuracy: float | None = None,
    looks: bool = True,
) -> StepRule:
    """Run :func:`global_search` for each hyperparameter by itself, all of them together.

    For problems whose criterion is a sum of terms with one hyperparameter each, as that of several
    targets: each term has its own units, tolerance and end. The ``parts`` of an evaluation are
    those of the terms. A search that has ended stays at its best point until the others have ended.
    """
    options = tol, first_step, accuracy, looks
    each = [
        _One.begin(theta[j : j + 1], lower[j : j + 1], upper[j : j + 1], *options)
        for j in range(theta.size)
    ]
    while not all(one.outcome for one in each):
        asks = tuple(one.ask for one in each)
        look = any(ask.look for ask in asks)
        evaluation = yield Ask(np.concatenate([a.theta for a in asks]), parts=asks, look=look)
        for one, part in zip(each, evaluation.parts, strict=True):
            one.hear(part)
    share = tol**2 if accuracy is None else accuracy
    asks = tuple(accurately(one.heard.best, share) for one in each)
    yield Ask(np.concatenate([a.theta for a in asks]), parts=asks)
    outcomes = {one.outcome for one in each}
    return Outcome.UNCERTAIN if Outcome.UNCERTAIN in outcomes else Outcome.CONVERGED


@dataclass
class _One:
    """The search of one hyperparameter: what it asks for, and the answers that it has got."""

    rule: StepRule
    ask: Ask
    heard: Evaluations
    outcome: Outcome | None = None

    @classmethod
    def begin(cls, *arguments: object) -> _One:
        rule: Generator[Ask, Evaluation, Outcome] = global_search(*arguments)  # type: ignore[arg-type]
        return cls(rule, next(rule), Evaluations())

    def hear(self, evaluation: Evaluation) -> None:
        """Give the search its evaluation, unless it has ended."""
        if self.outcome is not None:
            return
        self.heard.add(evaluation, look=self.ask.look)
        try:
            self.ask = self.rule.send(evaluation)
        except StopIteration as stop:
            self.outcome = stop.value
            self.ask = Ask(self.heard.best.theta)
