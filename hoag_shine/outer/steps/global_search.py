"""A search in one hyperparameter that looks at the whole range."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import pairwise
from math import sqrt

import numpy as np

from ..tolerances import NULL_VALUE_SHARE
from .base import Ask, Evaluation, Outcome, StepRule, Vector, accurately, ending, pessimistic
from .certificate import Certificate, certify, seen_curvature
from .evaluations import Evaluations
from .secant import FIRST_STEP_LENGTH, FIRST_VALUE_ERROR, secant

# Values of a grid over the range, a step of which is the widest gap between evaluations that is
# left alone although nothing shows that it hides nothing.
# Why: users would otherwise search such a grid, as LogisticRegressionCV(Cs=20) does; what they
# would find must not be better.
GRID_VALUES = 20
# Passes that looks at the range may cost, as a share of those that the search has cost, where
# passes are not cheap.
# Why: by judgement: a user gives a fifth for knowing the neighbourhood of the result.
LOOK_PASS_SHARE = 0.2
# Factor a in a exp(-d), the slope that a dip of depth 1 has at a distance d from it.
# Why: no term of the criterion dies away faster than a sigmoid S of theta. Far from the dip
# 4 S (1 - S), which is made of two of them and has depth 1, its slope is 4 exp(-d).
DIP_SLOPE_FACTOR = 4.0
# Width up to which a gap counts as a step of the grid, in steps.
# Why: rounding, and bounds that are not a whole number of steps away.
GAP_SLACK_FACTOR = 1.05
# Error with which an evaluation is asked for again that leaves open whether it is lower than the
# best, as a share of its last error.
# Why: by judgement; it is asked for again until its error no longer leaves that open.
LOOK_ERROR_SHARE = 0.3
# Error that a look may have where nothing bounds errors, as a share of the value.
# Why: of a loss that is not convex, inner problems that are solved to a twentieth are often near
# another minimum.
UNBOUNDED_VALUE_ERROR = 1e-3
# Distance from the ends of a gap within which the lowest point of a cubic is not looked at, in
# steps of the grid.
# Why: by judgement; the evaluation at the end says the same.
CUBIC_END_STEPS = 0.02
# Longest step by a parabola or Newton's method that makes the best evaluation more certain, in log
# penalty.
# Why: half of the distance within which a parabola describes the criterion.
MAX_CERTAIN_STEP = 0.5
# Difference of log penalties below which two evaluations are at the same place.
# Why: by judgement; no criterion changes over it by more than rounding.
SAME_THETA_DISTANCE = 1e-9
# Most evaluations that are to make what can still be gained certain.
# Why: by judgement. Every second one halves the interval, so that ten halvings make it a thousandth
# as wide.
MAX_ATTEMPTS = 20
# Most local searches that looks may start.
# Why: by judgement; it bounds the time where the criterion has many minima.
MAX_BASINS = 10


def global_search(
    theta: Vector,
    lower: Vector,
    upper: Vector,
    tol: float,
    first_step: float = FIRST_STEP_LENGTH,
    accuracy: float | None = None,
    looks: bool = True,
) -> StepRule:
    r"""Search from the start, then look at the rest of the range, and search wherever it is lower.

    The local search is :func:`secant`. What it has found is solved accurately; then every gap
    between neighbouring evaluations, and between the outermost ones and the bounds, is looked at
    that may hide a value lower than the best by more than ``tol**2`` of it:

    * A gap no wider than the step of a grid of 20 values over the range hides nothing but what the
      cubic through values and derivatives at its ends shows.
    * Nor does a wider one, if the derivatives at its ends are smaller than those of a dip that
      would matter. The coefficients of ridge regression are sums of
      :math:`1 / (1 + e^{\theta - \theta_i})`, one for each singular value, so that no term of the
      criterion dies away faster than :math:`e^{-|\theta - \theta_i|}`.

    Where an evaluation is lower by more than that, a local search begins there. Where evaluations
    are expensive, looks may cost a fifth of the passes that the search has cost: the nearest gaps
    are looked at, and the certificate says which part of the range that covers.

    Parameters
    ----------
    theta, lower, upper : ndarray of shape (1,)
    tol : float
    first_step : float, default=2.0
    accuracy : float, optional
        Relative error of the criterion at the result; ``tol**2`` by default.
    looks : bool, default=True
        Whether to go on after the local search.

    Returns
    -------
    outcome : Outcome
        ``UNCERTAIN`` where more than ``tol**2`` of the criterion may be gained around the result.
    """
    seen = _Seen(lower, upper, tol, tol**2 if accuracy is None else accuracy)
    yield from _noted(secant(theta, lower, upper, tol, first_step), seen)
    if not looks:
        return seen.outcome()
    spent = seen.passes
    yield from _make_certain(seen)
    for _ in range(MAX_BASINS):
        lower_one = yield from _look(seen, spent)
        if lower_one is None:
            break
        seen.add(lower_one)
        local = secant(lower_one.theta, lower, upper, tol, 0.5 * seen.step, seen.others(lower_one))
        yield from _noted(local, seen)
        yield from _make_certain(seen)
    # A look may be lower by less than is worth another search: it is the result, all the same, but
    # not for the sake of so little at a bound, or where less is certain.
    inside = [s for s in seen.evaluations if (lower < s.theta).all() and (s.theta < upper).all()]
    lowest = min(inside, key=pessimistic, default=seen.best)
    if pessimistic(lowest) < pessimistic(seen.best) and (lowest.exact or seen.certain(lowest)):
        seen.add((yield Ask(lowest.theta)))
    yield from _make_certain(seen)  # looks may have seen less curvature than the search had
    return seen.outcome()


class _Seen(Evaluations):
    """What a search in one hyperparameter has seen, and what that leaves open.

    ``evaluations`` are the newest, sorted by theta.
    """

    def __init__(self, lower: Vector, upper: Vector, tol: float, accuracy: float) -> None:
        super().__init__()
        self.lower, self.upper = lower, upper
        self.tol, self.accuracy = tol, accuracy
        self.step = float(upper[0] - lower[0]) / (GRID_VALUES - 1)
        self.evaluations: list[Evaluation] = []
        self.passes = 0.0

    def add(self, evaluation: Evaluation, *, look: bool = False) -> None:
        super().add(evaluation, look=look)
        self.evaluations = sorted(self.newest, key=_at)
        self.passes = evaluation.passes

    @property
    def negligible(self) -> float:
        """What a gain must exceed to be of interest.

        The floor is a share of the criterion at coefficients zero, intercept included. At the
        strongest penalty seen, the intercept is fitted, so that its value is the better measure.
        """
        null = abs(self.evaluations[-1].value) or np.inf
        return self.tol**2 * max(
            abs(self.best.value), min(self.best.floor, NULL_VALUE_SHARE * null)
        )

    def others(self, evaluation: Evaluation) -> list[Evaluation]:
        return [s for s in self.evaluations if s is not evaluation and s.reliable]

    def certain(self, best: Evaluation) -> bool:
        """Whether next to nothing can be gained around an evaluation that is taken as the best."""
        return certify(self.evaluations, best, self.lower, self.upper).gain <= self.negligible

    def outcome(self) -> Outcome:
        """Return how the search ends; a method that knows no errors cannot be uncertain."""
        best = self.best
        silent = not (best.exact or best.slope_error < np.inf)
        unknown = any(s.value < best.value and not s.error < np.inf for s in self.evaluations)
        certain = silent or (self.certain(best) and not unknown)
        return ending(best, self.lower, self.upper) if certain else Outcome.UNCERTAIN

    def next_look(self) -> float | None:
        """Return where to look next, None if nothing is left open."""
        x = _at(self.best)
        ends: list[Evaluation | None] = [None, *self.evaluations, None]
        found = [(gap, self._inside(*gap)) for gap in pairwise(ends)]
        places = [(self._urgency(gap, x), place) for gap, place in found if place is not None]
        return min(places)[1] if places else None

    def _urgency(
        self, gap: tuple[Evaluation | None, Evaluation | None], x: float
    ) -> tuple[int, float]:
        """Return a key: gaps with a lower value inside come first, then stronger penalties."""
        left, right = gap
        inner = [_at(s) for s in gap if s is not None]
        weaker = 2 if sum(inner) / len(inner) < x else 1
        if left is not None and right is not None:
            fall = self.best.value - _lowest(left, right)[1]
            weaker = 0 if fall > self.negligible else weaker
        return weaker, min(abs(t - x) for t in inner)

    def _inside(self, left: Evaluation | None, right: Evaluation | None) -> float | None:
        """Return where to look in a gap, None if it hides nothing."""
        if left is None or right is None:
            return self._beyond(left or right, -1.0 if left is None else 1.0)
        a, b = _at(left), _at(right)
        place, value = _lowest(left, right)
        if (
            self.best.value - value > self.negligible
            and _apart(place, a, b) > CUBIC_END_STEPS * self.step
        ):
            return place
        if b - a <= GAP_SLACK_FACTOR * self.step:
            return None
        # A local search seeks places with small slopes; only the slope of a look, whose place was
        # not chosen for it, says that no dip is near.
        telling = [s for s in (left, right) if not self.may_be_result(s)]
        if telling and all(b - a <= GAP_SLACK_FACTOR * 2.0 * self._reach(s) for s in telling):
            return None
        if self.best in (left, right) and b - a > 2.0 * self.step:
            return a + self.step if left is self.best else b - self.step
        return 0.5 * (a + b)

    def _reach(self, evaluation: Evaluation) -> float:
        """Return how far from an evaluation a dip below the best must be, given the slope there.

        At a distance d from a dip, the slope is at least DIP_SLOPE_FACTOR depth exp(-d).
        """
        depth = max(evaluation.value - self.best.value, 0.0) + self.negligible
        slope = abs(_slope(evaluation))
        return float(np.log(DIP_SLOPE_FACTOR * depth / slope)) if slope > 0.0 else np.inf

    def _beyond(self, last: Evaluation | None, direction: float) -> float | None:
        """Return where to look between the outermost evaluation and the bound."""
        assert last is not None
        bound = float(self.upper[0] if direction > 0.0 else self.lower[0])
        room = abs(bound - _at(last))
        if room <= 0.0:
            return None
        chosen = self.may_be_result(last)
        stride = self.step if chosen else max(self.step, 2.0 * self._reach(last))
        # No stretch is left that is shorter than half a step: the bound is looked at instead.
        if room < stride + 0.5 * self.step:
            return bound
        return _at(last) + direction * stride


def _apart(place: float, a: float, b: float) -> float:
    """Return how far a place is from the nearer of two ends."""
    return min(abs(place - a), abs(place - b))


def _at(evaluation: Evaluation) -> float:
    return float(evaluation.theta[0])


def _slope(evaluation: Evaluation) -> float:
    return float(evaluation.grad[0])


def _noted(rule: StepRule, seen: _Seen) -> Generator[Ask, Evaluation, Outcome]:
    """Run a local search and note its evaluations."""
    ask = next(rule)
    while True:
        evaluation = yield ask
        seen.add(evaluation)
        try:
            ask = rule.send(evaluation)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


def _make_certain(seen: _Seen) -> Generator[Ask, Evaluation, None]:
    """Solve accurately at the best, and evaluate around it until no more can be gained.

    Where errors are estimates, the looks that follow provide the curvature that ends the search.
    """
    for attempt in range(MAX_ATTEMPTS):
        ask = _wish(seen, halve=attempt % 2 == 1)
        if ask is None:
            return
        seen.add((yield ask))


def _wish(seen: _Seen, *, halve: bool) -> Ask | None:
    """Return what to ask next to be certain of the best evaluation; None if nothing helps."""
    best, ask = seen.best, accurately(seen.best, seen.accuracy)
    given_up = best.final or best.exhausted
    if not given_up and (best.error > ask.accuracy or best.tolerance > ask.tolerance):
        return ask
    if not best.slope_error < np.inf:
        return None
    if not best.exact:
        if seen.certain(best):
            return None
        # The gain (|s| + e)**2 / (2 kappa) is negligible for this error e of the slope; 0.8 and not
        # 2, because the certificate's kappa is smaller than this estimate.
        curvature = _likely_curvature(seen.evaluations, best)
        enough = np.sqrt(0.8 * seen.negligible * curvature) - abs(_slope(best))
        if enough >= best.slope_error:  # the certificate's curvature is smaller still
            half = 0.5 * best.slope_error
            helps = best.slope_error > abs(_slope(best)) and best.improvable(half)
            return ask._replace(grad_accuracy=half) if helps else None
        if enough > 0.5 * abs(_slope(best)):
            return ask._replace(grad_accuracy=enough)
        return _nearer_minimum(seen, best, ask, curvature)
    certificate = certify(seen.evaluations, best, seen.lower, seen.upper)
    if certificate.gain <= seen.negligible:
        return None
    target = _nearer(seen, best, certificate, halve=halve)
    known = any(abs(target - _at(s)) < SAME_THETA_DISTANCE for s in seen.evaluations)
    return None if known else Ask(np.array([target]))


def _nearer_minimum(seen: _Seen, best: Evaluation, ask: Ask, curvature: float) -> Ask | None:
    """Ask for the minimum of the parabola with the slope and curvature at the best."""
    slope = abs(_slope(best))
    if not curvature > 0.0:
        return None
    if slope <= best.slope_error:  # its sign is not known: it must be known better first
        return ask._replace(grad_accuracy=0.5 * best.slope_error)
    step = np.clip(-_slope(best) / curvature, -MAX_CERTAIN_STEP, MAX_CERTAIN_STEP)
    target = np.clip(best.theta + step, seen.lower, seen.upper)
    return ask._replace(theta=target) if abs(target[0] - _at(best)) > seen.tol else None


def _likely_curvature(evaluations: Sequence[Evaluation], best: Evaluation) -> float:
    """Return the curvature towards the minimum beside the best, whatever the errors.

    It is that of the secant to the nearest other evaluation; to the nearest on the other side of
    the minimum, if the slopes say that there is one.
    """
    downhill = -np.sign(_slope(best))

    def by_side(other: Evaluation) -> tuple[bool, float]:
        distance = _at(other) - _at(best)
        beyond = distance * downhill > 0.0 and _slope(other) * downhill > 0.0
        return not beyond, abs(distance)

    for other in sorted((s for s in evaluations if s is not best), key=by_side):
        curvature = (_slope(other) - _slope(best)) / (_at(other) - _at(best))
        if curvature > 0.0:
            return curvature
    return 0.0


def _nearer(seen: _Seen, best: Evaluation, certificate: Certificate, *, halve: bool) -> float:
    """Return where to evaluate next to come nearer the minimum: Newton's step, or half a unit away.

    Where the slope has kinks, Newton's steps may not lead to the minimum: ``halve`` halves the
    distance to the end of the interval instead.
    """
    slope = _slope(best)
    curvature = seen_curvature(seen.evaluations, best, -float(np.sign(slope)))
    step = -slope / curvature if curvature > 0.0 else -0.5 * (np.sign(slope) or 1.0)
    (start,), (end,) = certificate.interval
    step = np.clip(step, -MAX_CERTAIN_STEP, MAX_CERTAIN_STEP)
    target = float(np.clip(_at(best) + step, start, end))
    known = any(abs(target - _at(s)) < SAME_THETA_DISTANCE for s in seen.evaluations)
    if halve or known:
        return float(0.5 * (_at(best) + (start if slope > 0.0 else end)))
    return target


def _look(seen: _Seen, spent: float) -> Generator[Ask, Evaluation, Evaluation | None]:
    """Look at gaps until none is left; return an evaluation that is lower than the best."""
    while (target := seen.next_look()) is not None:
        best = seen.best
        before = seen.passes
        bounded = any(s.grad_bound < np.inf for s in seen.evaluations)
        share = FIRST_VALUE_ERROR if bounded else UNBOUNDED_VALUE_ERROR
        evaluation = yield Ask(np.array([target]), relative=share, look=True)
        while _undecided(evaluation, best) and evaluation.error > seen.negligible:
            wanted = max(LOOK_ERROR_SHARE * evaluation.error, seen.negligible)
            if evaluation.final or evaluation.exhausted:
                break
            evaluation = yield Ask(evaluation.theta, wanted, look=True)
        seen.add(evaluation, look=True)
        if _lower(evaluation, best, seen.negligible):
            return evaluation
        cost = seen.passes - before
        if not evaluation.cheap and seen.passes + 2.0 * cost > (1.0 + LOOK_PASS_SHARE) * spent:
            return None
    return None


def _undecided(evaluation: Evaluation, best: Evaluation) -> bool:
    """Whether the error of an evaluation leaves open which of the two is lower."""
    return abs(evaluation.value - best.value) <= evaluation.error


def _lower(evaluation: Evaluation, best: Evaluation, negligible: float) -> bool:
    """Whether an evaluation is lower than the best, and by more than is negligible.

    One that is known is lower than all that are not.
    """
    if not best.error < np.inf:
        return evaluation.error < np.inf or evaluation.value < best.value - negligible
    return evaluation.value + evaluation.error < best.value - negligible


def _lowest(left: Evaluation, right: Evaluation) -> tuple[float, float]:
    """Return where the cubic through two evaluations is lowest in between, and its value."""
    a, width = _at(left), _at(right) - _at(left)
    value, rise = float(left.value), float(right.value - left.value)
    d0, d1 = _slope(left) * width, _slope(right) * width
    # Hermite: f(t) = left.value + d0 t + c t**2 + e t**3 for t from 0 to 1; its slope vanishes
    # where d0 + 2 c t + 3 e t**2 does.
    c, e = 3.0 * rise - 2.0 * d0 - d1, d0 + d1 - 2.0 * rise
    places = [0.0, 1.0, *_minimum_inside(d0, c, e)]
    values = [value + t * (d0 + t * (c + t * e)) for t in places]
    i = int(np.argmin(values))
    return a + places[i] * width, values[i]


def _minimum_inside(d0: float, c: float, e: float) -> list[float]:
    """Return the local minimum of d0 t + c t^2 + e t^3, if there is one between 0 and 1.

    Of the roots of the derivative, d0 + 2 c t + 3 e t^2, it is the one where that rises, in the
    form that subtracts nothing.
    """
    discriminant = c * c - 3.0 * e * d0
    if not 0.0 < discriminant < np.inf:
        return []
    root = sqrt(discriminant)
    top, bottom = (-d0, c + root) if c >= 0.0 else (root - c, 3.0 * e)
    return [top / bottom] if bottom and 0.0 < top / bottom < 1.0 else []
