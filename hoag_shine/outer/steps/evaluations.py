"""What a search has seen: its evaluations, and which of them may be the result."""

from __future__ import annotations

from .base import Evaluation, Vector, pessimistic


class Evaluations:
    """The newest evaluation at each theta.

    Those at some thetas are *candidates* for the result. A look, which only explores another part
    of the range, is not one, unless its theta is asked for again.
    """

    def __init__(self) -> None:
        self._newest: dict[bytes, Evaluation] = {}
        self._candidates: set[bytes] = set()
        self._best: Evaluation | None = None  # once it is asked for

    def add(self, evaluation: Evaluation, *, look: bool = False) -> None:
        """Put an evaluation in the place of an older one at the same theta."""
        place = _place(evaluation.theta)
        self._newest[place] = evaluation
        self._best = None
        if not look:
            self._candidates.add(place)

    @property
    def newest(self) -> list[Evaluation]:
        """The newest evaluation at each theta, in the order in which the thetas were first seen."""
        return list(self._newest.values())

    @property
    def best(self) -> Evaluation:
        """The candidate that is lowest with its error added."""
        if self._best is None:
            candidates = (s for place, s in self._newest.items() if place in self._candidates)
            self._best = min(candidates, key=pessimistic)
        return self._best

    def may_be_result(self, evaluation: Evaluation) -> bool:
        """Whether an evaluation is at the theta of a candidate."""
        return _place(evaluation.theta) in self._candidates


def _place(theta: Vector) -> bytes:
    return (theta + 0.0).tobytes()  # the sum is 0 for -0, too
