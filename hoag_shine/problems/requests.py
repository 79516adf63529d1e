"""How a solver asks for values, and how several solvers share one pass over the data.

A solver is written as a generator: it yields a request and is sent the answer. It reads like
ordinary code for one problem, and yet the K solvers of K folds can advance in lockstep, so that
each pass over the data answers all of them:

>>> def descend(w):
...     value, grad = yield Evaluate(w)
...     return w - 0.1 * grad

``run_together`` starts the generators, collects one request of each, has the problem answer the
collected requests together, and goes on until all have returned.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Result = TypeVar("Result")


class Line(NamedTuple):
    """Where a point lies: at ``start + share * (end - start)``.

    ``end`` is the point asked for last, ``start`` the one where the line search has begun.
    """

    start: Vector
    end: Vector
    share: float


class Evaluate(NamedTuple):
    """Ask for ``(value, grad)`` of the inner objective at ``w``.

    Where ``line`` is given, w lies on a line with two points that have been asked for before, so
    that linear functions of w can be interpolated.
    """

    w: Vector
    line: Line | None = None


class HessianProduct(NamedTuple):
    """Ask for ``H(w) @ v``, or for that of each row of a ``v`` of shape (k, n), in one pass.

    ``single`` says that single precision is enough; the answer is float64 in any case.
    """

    w: Vector
    v: Vector
    single: bool = False


Request = Evaluate | HessianProduct
Solver = Generator[Request, Any, Result]


def run_together(
    problems: Any,
    theta: Vector,
    solvers: Sequence[Solver[Result]],
    *,
    map: Callable[..., Iterable[Any]] = map,  # noqa: A002
) -> list[Result]:
    """Run one solver per problem to its end, answering their requests together.

    Parameters
    ----------
    problems : ProblemSet
        Answers ``answer(requests, theta)``, a dict from the problem's index to its request.
    theta : ndarray of shape (n_hyperparameters,)
        Logarithms of the hyperparameters, the same for all.
    solvers : sequence of generators, one for each problem
    map : callable, default=map
        How to advance the solvers between two passes; that of an executor of threads does it in
        parallel, with the same results.

    Returns
    -------
    results : list
        What each solver returned, in the order of ``solvers``.
    """
    # ``answers`` has an entry for each solver that has not ended; None starts a generator.
    results: dict[int, Result] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(solvers)))
    while answers:
        running = list(answers)
        steps = map(_advance, [solvers[k] for k in running], [answers[k] for k in running])
        requests: dict[int, Request] = {}
        for k, (request, result) in zip(running, steps, strict=True):
            if request is None:
                results[k] = result
            else:
                requests[k] = request
        answers = problems.answer(requests, theta) if requests else {}
    return [results[k] for k in range(len(solvers))]


# Threads of an executor do not inherit the caller's settings for overflow.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def _advance(solver: Solver[Result], answer: Any) -> tuple[Request | None, Result | None]:
    try:
        return solver.send(answer), None
    except StopIteration as stop:
        return None, stop.value
