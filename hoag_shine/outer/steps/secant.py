"""A search in one hyperparameter."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .base import (
    GAIN_ERROR_SHARE,
    GAIN_ERROR_SHARE_BY_VALUE,
    GRADIENT_ERROR_SHARE,
    NEAR_DISTANCE,
    Ask,
    Evaluation,
    Outcome,
    StepRule,
    Vector,
)

# Length of the first step, in log penalty.
# Why: by judgement: a factor of 7 in the penalty. Steps double until the derivative changes its
# sign, and the bounds are 18 away.
FIRST_STEP_LENGTH = 2.0
# Error that is allowed of an evaluation at a new place, in units of what the gain of the last step
# would allow.
# Why: where a search converges, a step gains less than the one before. By judgement; if it asks for
# too little, the evaluation is refined.
NEXT_GAIN_SHARE = 0.6
# Error that is allowed of the first evaluation at a place of which nothing is known, relative to
# its value.
# Why: by judgement; if it asks for too little, the evaluation is refined.
FIRST_VALUE_ERROR = 0.05
# Data passes that the refinement of an evaluation may take while all derivatives point one way.
# Why: where a penalty is far too weak, an accurate solve takes thousands, and the direction is
# known long before: 496 passes for 2,582 on usps as it is, 125 for 260 on digits as it is, 249 for
# 306 on mnist. Elsewhere refinements take less.
OPENING_PASSES = 50.0
# Times that newer evaluations may contradict older ones.
# Why: by judgement. Each takes out an early evaluation whose error was underestimated; a search in
# which it happens more often must not go round in circles.
MAX_CONTRADICTIONS = 5
# Norm of the inner gradient, relative to that at the start, before values may decide against
# derivatives.
# Why: an inner solve that is stopped early regularises, and plain SHINE on 20news took such values
# for better than the optimum.
GRADIENT_TOLERANCE_BY_VALUE = 2e-5
# Distance in log penalty of the points of a parabola through values from its middle.
# Why: by judgement. Nearer, the difference of the values is lost in their errors; further away, the
# criterion is no parabola.
PARABOLA_HALF_WIDTH = 0.5


def secant(
    theta: Vector,
    lower: Vector,
    upper: Vector,
    tol: float,
    first_step: float = FIRST_STEP_LENGTH,
    known: Sequence[Evaluation] = (),
) -> StepRule:
    r"""Find the root of the derivative in one hyperparameter, or failing that, the lowest value.

    While the hypergradients are reliable, this is a safeguarded secant method on the derivative:
    steps of doubling length, from ``first_step``, until its sign changes, then secant steps inside
    the bracket, halved when they make no progress. Derivatives of unknown error only open the
    search: as soon as a value contradicts them, parabolas through the values take their place, so
    that a wrong derivative costs iterations but not the optimum.

    An evaluation is refined until its error is at most 0.3 of the gain expected of the next step
    (0.03 where only values tell), and its derivative good to 0.7 of itself where its error is
    known. While all derivatives point the same way, that may take no more than 50 passes: if the
    sign is known by then, the search goes on. Ends when that step is at most ``tol`` long, or when
    no more than ``tol**2`` of the criterion can be gained, or 0.03 of that where only values tell:
    near its minimum a function is known to the square of what its argument is.

    ``known`` holds evaluations that were taken before, whose derivatives are reliable.
    """
    search = _Search(float(lower[0]), float(upper[0]), first_step)
    search.evaluations = sorted(known, key=_at)
    search.add((yield Ask(theta, relative=FIRST_VALUE_ERROR)))
    while True:
        move = search.propose()
        middle = search.middle
        negligible = tol**2 * middle.size
        wanted = max(search.share * move.gain, negligible)
        # The parabola through three values says less of a gain than two derivatives do.
        enough = negligible if search.reliable else GAIN_ERROR_SHARE_BY_VALUE * negligible
        tolerance = (
            np.inf if search.reliable or not search.rejected else GRADIENT_TOLERANCE_BY_VALUE
        )
        slope = _slope_that_matters(middle, move, negligible)
        short = middle.error > wanted or middle.tolerance > tolerance
        ends = abs(move.target - _at(middle)) <= tol or move.most <= enough
        refine = (short and not middle.final) or middle.improvable(slope)
        patience = OPENING_PASSES if search.opening and not ends else np.inf
        if refine and not (search.refined and patience < np.inf):
            search.refined = True
            ask = Ask(middle.theta, wanted, tolerance, slope, patience=patience)
            search.add((yield ask))
        elif ends:
            return search.outcome()
        else:
            if refine:
                search.crude.append(middle)
            search.refined = False
            ahead = max(NEXT_GAIN_SHARE * wanted, negligible)
            search.add((yield Ask(np.array([move.target]), ahead, tolerance)))


class _Move(NamedTuple):
    """Where to go next, what it should gain, what can be gained at most, and the curvature."""

    target: float
    gain: float
    most: float
    curvature: float | None = None


def _at(evaluation: Evaluation) -> float:
    return float(evaluation.theta[0])


def _slope(evaluation: Evaluation) -> float:
    return float(evaluation.grad[0])


def _slope_that_matters(evaluation: Evaluation, move: _Move, negligible: float) -> float:
    """Return the error of the derivative that leaves the decision as it is.

    It is a share of the derivative itself, or the derivative with which too little can be gained.
    """
    step = abs(move.target - _at(evaluation)) or np.inf
    curvature = 2.0 * move.gain / step**2 if move.curvature is None else move.curvature
    # A slope s gains s**2 / (2 kappa); this one gains what is negligible.
    worthless = float(np.sqrt(2.0 * negligible * curvature))
    return max(GRADIENT_ERROR_SHARE * abs(_slope(evaluation)), worthless)


def _outdated(old: Evaluation, new: Evaluation) -> bool:
    """Whether a newer evaluation near by shows that the errors of an older one were underestimated.

    Their values then differ by more than twice what slopes and errors explain. The inner solutions
    become better as the search goes on, so the newer one is taken for right.
    """
    distance = abs(_at(new) - _at(old))
    steepest = max(abs(_slope(old)), abs(_slope(new)))
    explained = steepest * distance + old.error + new.error
    return (
        new.reliable and distance <= NEAR_DISTANCE and abs(new.value - old.value) > 2.0 * explained
    )


class _Search:
    """The evaluations of a search in one dimension, and the next step that follows from them.

    ``evaluations`` are sorted by theta, one for each theta: a new one replaces the old one at the
    same place. ``radius`` is the longest step beyond the outermost evaluations.
    """

    def __init__(self, lower: float, upper: float, radius: float) -> None:
        self.lower, self.upper = lower, upper
        self.evaluations: list[Evaluation] = []
        self.latest: Evaluation
        self.start: float
        self.radius = radius
        self.widths: list[float] = []  # of the bracket, step by step
        self.corrections = 0
        self.refined = False  # whether the latest was asked for again
        self.crude: list[Evaluation] = []  # left before they were as accurate as they should be

    def add(self, evaluation: Evaluation) -> None:
        first = not hasattr(self, "latest")
        if first:
            self.start = _at(evaluation)
        self.evaluations = [s for s in self.evaluations if _at(s) != _at(evaluation)]
        outdated = any(_outdated(s, evaluation) for s in self.evaluations)
        if outdated and self.corrections < MAX_CONTRADICTIONS:
            self.corrections += 1
            self.evaluations = [s for s in self.evaluations if not _outdated(s, evaluation)]
        if not first and abs(_at(evaluation) - _at(self.latest)) > 0.99 * self.radius:
            self.radius *= 2.0
        insort(self.evaluations, evaluation, key=_at)
        self.latest = evaluation

    @property
    def best(self) -> Evaluation:
        """The lowest with its error added; of equals, the nearest to the start."""
        return min(self.evaluations, key=lambda s: (s.value + s.error, abs(_at(s) - self.start)))

    @property
    def middle(self) -> Evaluation:
        """The evaluation from which the next step starts."""
        return self.latest if self.reliable else self.best

    @property
    def reliable(self) -> bool:
        return all(evaluation.reliable for evaluation in self.evaluations)

    @property
    def opening(self) -> bool:
        """Whether all derivatives point the same way, and the sign of one that is refined is known.

        The search then goes on in that direction, whatever the values are.
        """
        slope = _slope(self.latest)
        same = all(_slope(s) * slope > 0.0 for s in self.evaluations)
        known = not self.refined or self.latest.slope_error < abs(slope)
        return self.reliable and same and known

    @property
    def share(self) -> float:
        """The share of a step's expected gain that a value's error may amount to."""
        return GAIN_ERROR_SHARE if self.reliable else GAIN_ERROR_SHARE_BY_VALUE

    @property
    def rejected(self) -> bool:
        """Whether the lowest evaluation is not the latest: the last step has not led down."""
        return self.best is not self.latest

    def outcome(self) -> Outcome:
        x, slope = _at(self.middle), _slope(self.middle)
        at_lower, at_upper = x <= self.lower, x >= self.upper
        if self.reliable:
            at_lower, at_upper = at_lower and slope > 0.0, at_upper and slope < 0.0
        return Outcome.BOUND if at_lower or at_upper else Outcome.CONVERGED

    def propose(self) -> _Move:
        return self._by_derivative() if self.reliable else self._by_value()

    def _by_derivative(self) -> _Move:
        # The root of the derivative is sought. ``ahead`` are the evaluations downhill whose slopes
        # point back: the nearest of them and the latest are a bracket.
        x, slope = _at(self.latest), _slope(self.latest)
        others = sorted(
            (s for s in self.evaluations if s is not self.latest), key=lambda s: abs(_at(s) - x)
        )
        ahead = [s for s in others if (_at(s) - x) * slope < 0.0 and _slope(s) * slope < 0.0]
        told = [s for s in others if s not in self.crude]  # a crude one shows a direction only
        curvature, reach = self._curvature(self._distinct(told)) if told else (0.0, np.inf)
        step = -slope / curvature if curvature > 0.0 else None
        if not ahead:
            return self._extrapolate(slope, step)
        width = _at(ahead[0]) - x
        # The secant through the nearest point, or if that leads out of the bracket, through its
        # ends.
        if step is None or not 0.0 < step / width < 1.0:
            curvature, reach = self._curvature(ahead[0])
            step = -slope / curvature
        self.widths.append(abs(width))
        if len(self.widths) > 3 and self.widths[-1] > 0.5 * self.widths[-4]:
            step = 0.5 * width  # three steps have not halved the bracket: bisection does
        elif reach > NEAR_DISTANCE:
            # A secant through distant points says little: it stays away from both ends.
            step = min(max(step / width, 0.25), 0.75) * width
        gain = 0.5 * abs(slope * step)
        return _Move(
            x + step, gain, gain if reach <= NEAR_DISTANCE else _most(slope, width), curvature
        )

    def _distinct(self, others: list[Evaluation]) -> Evaluation:
        """Return the nearest evaluation whose derivative differs by more than both errors."""
        for other in others:
            difference = abs(_slope(other) - _slope(self.latest))
            if not difference < np.nan_to_num(other.grad_error + self.latest.grad_error):
                return other
        return others[-1]

    def _curvature(self, other: Evaluation) -> tuple[float, float]:
        """Return that of the parabola with both derivatives, and the distance it rests on."""
        distance = _at(other) - _at(self.latest)
        return (_slope(other) - _slope(self.latest)) / distance, abs(distance)

    def _extrapolate(self, slope: float, step: float | None) -> _Move:
        x = _at(self.middle)
        inside = step is not None and abs(step) < self.radius
        if step is None or not inside:
            # A derivative of zero that cannot be relied on says nothing: a step shows the values.
            step = -(np.sign(slope) or float(not self.reliable)) * self.radius
        target = min(max(x + step, self.lower), self.upper)
        gain = 0.5 * abs(slope * (target - x))
        settled = inside or self._levels_off(slope)
        # Where the derivative dies away like exp(-t) along t, the integral of what is left of it is
        # s**2 / kappa, twice what the parabola promises.
        return _Move(target, gain, 2.0 * gain if settled else np.inf)

    def _levels_off(self, slope: float) -> bool:
        """Whether the criterion levels off, having been ten times as steep elsewhere."""
        return any(abs(_slope(s)) > 10.0 * abs(slope) for s in self.evaluations)

    def _by_value(self) -> _Move:
        i, x = self.evaluations.index(self.best), _at(self.best)
        before, after = self.evaluations[:i], self.evaluations[i + 1 :]
        if not before and not after:
            return self._extrapolate(_slope(self.best), None)
        if not before and x > self.lower:
            return self._outward(-1.0, after[0])
        if not after and x < self.upper:
            return self._outward(1.0, before[-1])
        if not before or not after:
            return self._inward((after[:1] or before[-1:])[0], 0.0, 0.0)
        step, curvature = _parabola(before[-1], self.best, after[0])
        # The minimum lies within these limits, unless a point is best for its error, not its value.
        step = min(max(step, 0.5 * (_at(before[-1]) - x)), 0.5 * (_at(after[0]) - x))
        far = max(before[-1], after[0], key=lambda s: abs(_at(s) - x))
        return self._inward(far, step, curvature)

    def _outward(self, direction: float, neighbour: Evaluation) -> _Move:
        """Step to the open side, since the best point must have neighbours on both."""
        x = _at(self.best)
        curvature = (_slope(neighbour) - _slope(self.best)) / (_at(neighbour) - x)
        reach = -_slope(self.best) / curvature * direction if curvature > 0.0 else self.radius
        if _slope(self.best) * direction > 0.0:
            reach = PARABOLA_HALF_WIDTH
        target = x + direction * min(max(reach, PARABOLA_HALF_WIDTH), self.radius)
        target = min(max(target, self.lower), self.upper)
        return _Move(target, 0.5 * abs(_slope(self.best) * (target - x)), np.inf)

    def _inward(self, far: Evaluation, step: float, curvature: float) -> _Move:
        """Step to the parabola's minimum, or bring a neighbour nearer that makes it inaccurate."""
        distance = _at(far) - _at(self.best)
        near = abs(distance) <= 2.0 * PARABOLA_HALF_WIDTH or abs(step) >= PARABOLA_HALF_WIDTH
        if not near:
            step = np.copysign(PARABOLA_HALF_WIDTH, distance)
        gain = 0.5 * curvature * step**2
        return _Move(_at(self.best) + step, gain, gain if near else np.inf)


def _most(slope: float, width: float) -> float:
    """Return a bound of the gain before the derivative changes its sign, at most ``width`` away.

    Towards stronger penalties a derivative grows no faster than exp(theta), so that its integral is
    at most s (exp(width) - 1); towards weaker ones it does not grow.
    """
    return abs(slope) * float(np.expm1(width) if width > 0.0 else -width)


def _parabola(left: Evaluation, middle: Evaluation, right: Evaluation) -> tuple[float, float]:
    """Return the step from the middle to the minimum of the parabola, and its curvature."""
    # By divided differences: f(t) = f(0) + s t + kappa t**2 / 2, through t = a, 0 and b.
    a, b = _at(left) - _at(middle), _at(right) - _at(middle)
    rise_a, rise_b = (left.value - middle.value) / a, (right.value - middle.value) / b
    curvature = 2.0 * (rise_b - rise_a) / (b - a)
    if not curvature > 0.0:
        return 0.0, 0.0
    return -(rise_a - 0.5 * curvature * a) / curvature, curvature
