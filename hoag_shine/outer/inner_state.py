"""The inner problems at one theta: where their solvers stand, and what is known there.

A state does not change: an iteration or a move makes a new one, so that nothing has to be
invalidated. What can be derived from a state is computed when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hypergradients import Hypergradient
from ..inner import Solution, quasi_newton_step
from ..problems.base import ProblemSet
from .steps import RELIABLE_RESIDUAL

Vector = NDArray[np.float64]
Map = Callable[..., Iterable[Any]]


@dataclass(frozen=True, eq=False)
class Iterates:
    """Where the inner solvers stand, and the outer losses there.

    ``map`` says where work on single problems is done, such as that of an executor of threads.
    """

    problems: ProblemSet
    solutions: list[Solution]
    map: Map = map

    @cached_property
    def outer_losses(self) -> list[tuple[float, Vector]]:
        """Each problem's outer loss with its gradient."""
        return self.problems.outer_values_and_grads([s.w for s in self.solutions])

    @property
    def outer_values(self) -> Vector:
        return np.array([value for value, _ in self.outer_losses])

    @property
    def outer_grads(self) -> list[Vector]:
        return [grad for _, grad in self.outer_losses]


@dataclass(frozen=True, eq=False)
class Adjoints:
    r"""Answers to :math:`Hq = \nabla f` at some iterates.

    ``weights`` are the q that an inner gradient is weighted by to estimate what it is worth in the
    outer loss (the dual-weighted residual of Becker and Rannacher, Acta Numerica 2001, section 2).
    """

    iterates: Iterates
    answers: list[Hypergradient]
    weights: list[Vector]

    @classmethod
    def of(cls, iterates: Iterates, answers: list[Hypergradient]) -> Adjoints:
        # A q without a small residual or a known error is not relied on: the estimate of the
        # solver, B grad f, takes its place.
        weights = [
            answer.q if vouched(answer) else s.inverse_hessian @ grad
            for answer, s, grad in zip(
                answers, iterates.solutions, iterates.outer_grads, strict=True
            )
        ]
        return cls(iterates, answers, weights)

    @property
    def known(self) -> bool:
        """Whether the method knows its errors; one that does not is asked at every iterate."""
        return all(np.isfinite(answer.error) for answer in self.answers)


@dataclass(frozen=True, eq=False)
class InnerState:
    """The inner problems at ``theta``.

    Attributes
    ----------
    theta : ndarray of shape (n_hyperparameters,)
    iterates : Iterates
    arrived : bool
        Whether the iterates are those of another theta, with no iteration made at this one.
    adjoints : Adjoints or None
        Those last computed at this theta, which may be at earlier iterates.
    """

    theta: Vector
    iterates: Iterates
    arrived: bool = True
    adjoints: Adjoints | None = None

    def iterated(self, solutions: list[Solution]) -> InnerState:
        """Return the state after iterations of the inner solvers."""
        iterates = replace(self.iterates, solutions=solutions)
        return InnerState(self.theta, iterates, arrived=False, adjoints=self.adjoints)

    def with_adjoints(self, answers: list[Hypergradient]) -> InnerState:
        """Return the state with new adjoints at its iterates."""
        return replace(self, adjoints=Adjoints.of(self.iterates, answers))

    @property
    def solutions(self) -> list[Solution]:
        return self.iterates.solutions

    @property
    def fresh(self) -> bool:
        """Whether the adjoints are those of these very iterates."""
        return self.adjoints is not None and self.adjoints.iterates is self.iterates

    @cached_property
    def next_steps(self) -> list[Vector]:
        """The steps that the inner solvers would try next."""
        return list(self.iterates.map(quasi_newton_step, self.solutions))

    @property
    def next_steps_if_known(self) -> Sequence[Vector | None]:
        """The next steps if they were computed, so that the solvers need not do it again."""
        known: Sequence[Vector | None] | None = self.__dict__.get("next_steps")
        return known or [None] * len(self.solutions)

    @property
    def weighted_residuals(self) -> Vector:
        r"""What solving exactly would change of each outer loss: :math:`-q^\top \nabla g`.

        To first order, the solution is :math:`w - H^{-1} \nabla g`, and the outer loss there
        differs by :math:`-\nabla f^\top H^{-1} \nabla g`.
        """
        weights = self.adjoints.weights if self.adjoints is not None else ()
        return -np.array([q @ s.grad for q, s in zip(weights, self.solutions, strict=True)])

    @property
    def largest_changes(self) -> Vector:
        r"""What solving exactly may change of each outer loss, whatever the direction of the error.

        By Cauchy and Schwarz, :math:`|q^\top \nabla g|` is at most
        :math:`\sqrt{\nabla f^\top H^{-1} \nabla f} \sqrt{\nabla g^\top H^{-1} \nabla g}`, where q
        gives the first root and the solver's estimate of the inverse Hessian the second. What is
        not a number is infinite: a maximum would pass over it.
        """
        if self.adjoints is None:
            return np.full(len(self.solutions), np.inf)
        found = zip(
            self.adjoints.weights,
            self.adjoints.iterates.outer_grads,
            self.solutions,
            strict=True,
        )
        squares = [(q @ grad) * (s.grad @ (s.inverse_hessian @ s.grad)) for q, grad, s in found]
        return np.sqrt(np.where(np.isnan(squares), np.inf, np.maximum(squares, 0.0)))

    @property
    def promised_changes(self) -> Vector:
        r"""The change of each outer loss along the solver's next step d: :math:`\nabla f^\top d`.

        It costs half a pass for the outer gradients and no adjoint, and is right to a factor of
        two.
        """
        pairs = zip(self.iterates.outer_grads, self.next_steps, strict=True)
        return np.array([grad @ step for grad, step in pairs])


def vouched(answer: Hypergradient) -> bool:
    """Whether q can be relied on: its residual is small, or its method knows its error."""
    return answer.residual <= RELIABLE_RESIDUAL or np.isfinite(answer.error)


def mean_size(changes: Vector) -> float:
    """Return how much the outer losses change, whatever the signs."""
    return float(np.mean(np.abs(changes)))
