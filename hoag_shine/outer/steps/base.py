"""What a step rule asks, the answer that it gets, and how it ends."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

# Error of a value of the criterion that is allowed, as a share of the gain that is expected of the
# next step.
# Why: a tenth cost half as many passes again on 20news. With five folds, a search takes about as
# long with anything from 0.3 to 0.5.
GAIN_ERROR_SHARE = 0.3
# The same where values have to decide, because derivatives cannot be relied on.
# Why: the gain follows from differences of values then, in which errors weigh more. 0.1 was enough
# only while inner problems were solved further than they were asked for.
GAIN_ERROR_SHARE_BY_VALUE = 0.03
# Error of a hypergradient that is allowed where its method knows it, as a share of its norm.
# Why: below 1 its sign is right. With five folds, a search takes about as long with anything from
# 0.5 to 1.
GRADIENT_ERROR_SHARE = 0.7
# Norm of the inner gradient that a result must reach, relative to that at the start, in units of
# the relative accuracy that is asked of the criterion.
# Why: by judgement. It guards results whose adjoint is poor; elsewhere the adjoint asks for more.
RESULT_GRADIENT_FACTOR = 10.0
# Slope that stands for that of a criterion which is not finite.
# Why: larger than any other, and its products with steps are still finite.
UNBOUNDED_SLOPE = 1e100
# Relative residual of a linear system up to which its hypergradient is taken at its word.
# Why: by judgement; a q with such a residual is wrong by a tenth or so, in the directions that H
# does not shrink.
RELIABLE_RESIDUAL = 0.1
# Distance in log penalty within which a secant or a parabola describes the criterion.
# Why: a term of the criterion is a function of exp(theta) and changes from one limit to the other
# within two to four units, so that over one unit its curvature keeps its size.
NEAR_DISTANCE = 1.0


class Outcome(Enum):
    """Why the outer loop ended."""

    CONVERGED = "the next step would change the criterion or theta by less than the tolerance"
    BOUND = "the best hyperparameter lies on a bound, and the criterion still falls there"
    UNCERTAIN = "more than the tolerance may still be gained"
    MAX_ITER = "the limit of outer iterations was reached"
    MAX_INNER_ITER = "the inner problems took all the iterations that a search may take"
    MAX_TIME = "the limit of time was reached"
    CALLBACK = "the callback asked to stop"
    INTERRUPTED = "the search was interrupted"


class Ask(NamedTuple):
    """A request for an evaluation at ``theta`` whose criterion is known to about ``accuracy``.

    ``relative`` is the same relative to the criterion, for use where that is not known yet.
    ``tolerance`` is what the inner gradients must fall to in any case, see :class:`Evaluation`.
    ``grad_accuracy`` is the error of the hypergradient's norm that makes no difference. ``look``
    says that the evaluation only explores another part of the range: it is not a candidate for the
    result unless it is asked for again. After ``patience`` data passes, the evaluation may be as
    inaccurate as it is. Where each hyperparameter has problems of its own, ``parts`` are the
    requests for these.
    """

    theta: Vector
    accuracy: float = float("inf")
    tolerance: float = float("inf")
    grad_accuracy: float = float("inf")
    relative: float = float("inf")
    look: bool = False
    patience: float = float("inf")
    parts: tuple[Ask, ...] = ()

    def allowed(self, size: float) -> float:
        """Return the error that is allowed of a criterion of this size."""
        return min(self.accuracy, np.inf if self.relative == np.inf else self.relative * size)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The outer problem at one theta, as far as the inner solves tell.

    Attributes
    ----------
    theta : ndarray of shape (d,)
    value : float
        What is minimised: the criterion, corrected for the inner error where the adjoint is good
        enough to do so, plus ``prior``.
    grad : ndarray of shape (d,)
        Hypergradient, of the prior too.
    error : float
        What the remaining inner error is worth in the criterion, by the adjoint.
    residual : float
        Relative residual of the hypergradient's linear systems; NaN where it is not known.
    final : bool
        Whether the inner solves cannot become more accurate.
    tolerance : float
        Largest norm of an inner gradient, relative to that at the start. Where that is more than
        was asked, it is a hundred times what errors of second order are worth in the criterion,
        relative to it, if that is less.
    prior : float
        What shrinkage adds to the criterion at this theta.
    grad_error : float
        Estimated error of the hypergradient's norm; NaN where it is not known.
    grad_bound : float
        An upper bound of that error, given the inner solutions that were reached.
    grad_asked : float
        The error that was allowed.
    used : str
        How the hypergradient was computed, where its method has a choice.
    n_steps : int
        Steps of an iterative method that this took.
    exhausted : bool
        Whether that is so because their iterations are used up.
    floor : float
        A size of the criterion; shares of a smaller criterion are taken of this.
    exact : bool
        Whether the inner problems are solved by factorised Hessians: ``error`` and ``grad_bound``
        are then certain.
    smooth : bool
        Whether the criterion has a second derivative everywhere.
    cheap : bool
        Whether evaluations cost so little that the whole range can be looked at.
    passes : float
        Data passes since the search began.
    parts : tuple of Evaluation
        Where each hyperparameter has problems of its own, the evaluations of these; this one is
        their sum.
    """

    theta: Vector
    value: float
    grad: Vector
    error: float
    residual: float
    final: bool
    tolerance: float
    prior: float = 0.0
    grad_error: float = float("nan")
    grad_bound: float = float("inf")
    grad_asked: float = float("inf")
    used: str = ""
    n_steps: int = 0
    exhausted: bool = False
    floor: float = 0.0
    exact: bool = False
    smooth: bool = True
    cheap: bool = False
    passes: float = 0.0
    parts: tuple[Evaluation, ...] = ()

    @property
    def slope_error(self) -> float:
        """Error of the hypergradient's norm: its bound if that is certain, else the estimate."""
        error = self.grad_bound if self.exact else self.grad_error
        return float("inf") if np.isnan(error) else error

    @property
    def size(self) -> float:
        """What tolerances of the value are relative to: the value, or the floor if that is more."""
        return max(abs(self.value), self.floor)

    @property
    def share(self) -> float:
        """The share of a step's expected gain that the value's error may amount to."""
        return GAIN_ERROR_SHARE if self.reliable else GAIN_ERROR_SHARE_BY_VALUE

    @property
    def reliable(self) -> bool:
        """Whether the hypergradient may be trusted against the values."""
        return self.residual <= RELIABLE_RESIDUAL or self.grad_error <= self.grad_asked

    def improvable(self, wanted: float) -> bool:
        """Whether the hypergradient's error exceeds ``wanted``, and asking again may help."""
        return self.reliable and self.grad_error > wanted and self.grad_asked > wanted


class NotFiniteError(ValueError):
    """The criterion or its hypergradient is not finite at some theta."""

    def __init__(self, theta: Vector) -> None:
        super().__init__(
            f"The criterion or its hypergradient is not finite at theta={theta}: scale the "
            "features, or narrow the bounds."
        )


def unbounded(ask: Ask, last: Evaluation) -> Evaluation:
    """Return a substitute for an evaluation that is not finite: steeply downhill to the last one.

    Of its slope, only the direction means anything.
    """
    return Evaluation(
        theta=ask.theta,
        value=np.inf,
        grad=UNBOUNDED_SLOPE * np.sign(ask.theta - last.theta),
        error=np.inf,
        residual=0.0,
        final=True,
        tolerance=0.0,
        grad_error=np.inf,
        grad_asked=np.inf,
        used="not finite",
        floor=last.floor,
        exact=last.exact,
        cheap=last.cheap,
        passes=last.passes,
    )


def pessimistic(evaluation: Evaluation) -> tuple[float, float]:
    """Return what evaluations are compared by: the value plus its error, then the value alone.

    The second decides between evaluations whose errors are infinite.
    """
    return evaluation.value + evaluation.error, evaluation.value


def accurately(evaluation: Evaluation, accuracy: float) -> Ask:
    """Ask for an evaluation at the same theta that knows its value to ``accuracy`` of itself."""
    return Ask(evaluation.theta, accuracy * evaluation.size, RESULT_GRADIENT_FACTOR * accuracy)


StepRule = Generator[Ask, Evaluation, Outcome]


def ending(evaluation: Evaluation, lower: Vector, upper: Vector) -> Outcome:
    """Return how a search ends here: on a bound that the criterion falls beyond, or not."""
    return Outcome.BOUND if outward(evaluation, lower, upper).any() else Outcome.CONVERGED


def outward(evaluation: Evaluation, lower: Vector, upper: Vector) -> NDArray[np.bool_]:
    """Return which hyperparameters are on a bound that the criterion falls beyond."""
    return ((evaluation.theta <= lower) & (evaluation.grad > 0.0)) | (
        (evaluation.theta >= upper) & (evaluation.grad < 0.0)
    )
