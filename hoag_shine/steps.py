r"""Step rules: which hyperparameters to look at next, and how closely.

A rule is a generator. It yields an :class:`Ask` and is sent the :class:`Sample` taken there; when
it has seen enough it returns an :class:`Outcome`. Asking again for the theta just sampled, with a
smaller ``accuracy``, continues the inner solves where they stand.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .inner.inverse_hessian import InverseHessian

Vector = NDArray[np.float64]

# A hypergradient whose linear system is solved to this relative residual is taken at its word.
RELIABLE_RESIDUAL = 0.1


class Outcome(Enum):
    """Why the outer loop ended."""

    CONVERGED = "the next step would change the criterion or theta by less than the tolerance"
    BOUND = "the best hyperparameter lies on a bound, and the criterion falls beyond it"
    MAX_ITER = "the limit of outer iterations was reached"
    CALLBACK = "the callback asked to stop"
    INTERRUPTED = "the search was interrupted"


class Ask(NamedTuple):
    """A wish for a sample at ``theta`` whose criterion is known to about ``accuracy``.

    ``tolerance`` is what the inner gradients' norm must fall to in any case, relative to the start.
    """

    theta: Vector
    accuracy: float = float("inf")
    tolerance: float = float("inf")


@dataclass(frozen=True)
class Sample:
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
    prior : float
        What shrinkage adds to the criterion at this theta.
    final : bool
        Whether the inner solves have given all they can.
    tolerance : float
        Relative inner tolerance in force.
    """

    theta: Vector
    value: float
    grad: Vector
    error: float
    residual: float
    prior: float
    final: bool
    tolerance: float

    @property
    def reliable(self) -> bool:
        """Whether the hypergradient may be trusted against the values."""
        return self.residual <= RELIABLE_RESIDUAL


StepRule = Generator[Ask, Sample, Outcome]


def adaptive(theta: Vector, lower: Vector, upper: Vector, tol: float) -> StepRule:
    r"""Projected gradient steps with HOAG's adaptive step size.

    :math:`\theta_{k+1} = P(\theta_k - p_k / L_k)`. The step lengthens by a twentieth while

    .. math:: f_k \le f_{k-1} + C \varepsilon_k + \varepsilon_{k-1} (C + M) \|\Delta\|
              - \tfrac{L}{2} \|\Delta\|^2

    with :math:`C = 1/4, M = 1`, and is halved where this fails. Ends when a step is shorter than
    ``tol`` in every coordinate.

    References
    ----------
    .. [1] F. Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016,
       algorithm 1 and section 5, "Adaptive step size".
    """
    sample = yield Ask(theta)
    lipschitz = float(np.linalg.norm(sample.grad)) or 1.0
    while True:
        following = np.clip(sample.theta - sample.grad / lipschitz, lower, upper)
        if np.abs(following - sample.theta).max() <= tol:
            return _ending(sample, lower, upper)
        previous, sample = sample, (yield Ask(following))
        length = float(np.linalg.norm(sample.theta - previous.theta))
        allowed = (
            previous.value
            + 0.25 * sample.tolerance
            + 1.25 * previous.tolerance * length
            - 0.5 * lipschitz * length**2
        )
        lipschitz *= 1.0 / 1.05 if sample.value <= allowed else 2.0


def _ending(sample: Sample, lower: Vector, upper: Vector) -> Outcome:
    outward = ((sample.theta <= lower) & (sample.grad > 0.0)) | (
        (sample.theta >= upper) & (sample.grad < 0.0)
    )
    return Outcome.BOUND if outward.any() else Outcome.CONVERGED


FIRST_RADIUS = 2.0
# A value of the criterion is asked for to this share of the gain that is expected of a step.
SHARE_OF_GAIN = 0.1
# A secant through points further apart than this is no ground to stop on.
NEAR = 1.0
# Where values decide against derivatives, the inner gradients fall to this before they may.
VALUE_TOLERANCE = 2e-5
# Without reliable derivatives, the parabola's points stand no further from its middle than this.
PARABOLA = 0.5


def secant(theta: Vector, lower: Vector, upper: Vector, tol: float) -> StepRule:
    r"""Find the root of the derivative in one hyperparameter, or failing that, the lowest value.

    While the hypergradients are reliable, this is a safeguarded secant method on the derivative:
    steps of doubling length until its sign changes, then secant steps inside the bracket, halved
    when they make no progress. Derivatives of unknown error only open the search: as soon as a
    value contradicts them, parabolas through the values take their place, so that a wrong
    derivative costs iterations but not the optimum.

    A sample is refined until its error is at most a tenth of the gain expected of the next step.
    Ends when that step is at most ``tol`` long, or should gain no more than ``tol**2`` of the
    criterion: near its minimum a function is known to the square of what its argument is.
    """
    search = _Search(float(lower[0]), float(upper[0]))
    search.add((yield Ask(theta)))
    while True:
        move = search.propose()
        middle = search.middle
        negligible = tol**2 * abs(middle.value)
        wanted = max(SHARE_OF_GAIN * move.gain, negligible)
        tolerance = np.inf if search.reliable or not search.rejected else VALUE_TOLERANCE
        short = middle.error > wanted or middle.tolerance > tolerance
        if short and not middle.final:
            search.add((yield Ask(middle.theta, wanted, tolerance)))
        elif (
            abs(move.target - _at(middle)) <= tol
            or (move.settled and move.gain <= negligible)
            or search.knows(move.target, wanted)
        ):
            return search.outcome()
        else:
            search.add((yield Ask(np.array([move.target]), wanted, tolerance)))


class _Move(NamedTuple):
    """Where to go next, what it should gain, and whether a curvature stands behind that."""

    target: float
    gain: float
    settled: bool


def _at(sample: Sample) -> float:
    return float(sample.theta[0])


def _slope(sample: Sample) -> float:
    return float(sample.grad[0])


class _Search:
    """The samples of a search in one dimension, in order of theta, and what follows from them."""

    def __init__(self, lower: float, upper: float) -> None:
        self.lower, self.upper = lower, upper
        self.samples: list[Sample] = []
        self.latest: Sample
        self.radius = FIRST_RADIUS
        self.widths: list[float] = []

    def add(self, sample: Sample) -> None:
        self.samples = [s for s in self.samples if _at(s) != _at(sample)]
        if self.samples and abs(_at(sample) - _at(self.latest)) > 0.99 * self.radius:
            self.radius *= 2.0
        insort(self.samples, sample, key=_at)
        self.latest = sample

    @property
    def best(self) -> Sample:
        """The sample that is lowest even if its error is against it."""
        return min(self.samples, key=lambda s: s.value + s.error)

    @property
    def middle(self) -> Sample:
        """The sample from which the next step starts."""
        return self.latest if self.reliable else self.best

    @property
    def reliable(self) -> bool:
        return all(sample.reliable for sample in self.samples)

    def knows(self, target: float, accuracy: float) -> bool:
        """Whether a sample at ``target`` would say nothing new."""
        return any(_at(s) == target and (s.final or s.error <= accuracy) for s in self.samples)

    @property
    def rejected(self) -> bool:
        """Whether the lowest sample is not the latest, so that a value has spoken."""
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
        x, slope = _at(self.latest), _slope(self.latest)
        others = sorted(
            (s for s in self.samples if s is not self.latest), key=lambda s: abs(_at(s) - x)
        )
        ahead = [s for s in others if (_at(s) - x) * slope < 0.0 and _slope(s) * slope < 0.0]
        step, reach = self._secant_step(others[0]) if others else (None, np.inf)
        if not ahead:
            return self._extrapolate(slope, step)
        width = _at(ahead[0]) - x
        if step is None or not 0.0 < step / width < 1.0:
            step, reach = width * slope / (slope - _slope(ahead[0])), abs(width)
        self.widths.append(abs(width))
        if len(self.widths) > 3 and self.widths[-1] > 0.5 * self.widths[-4]:
            step = 0.5 * width
        elif reach > NEAR:
            # A line through distant points says little: the derivative grows like exp(theta).
            step = min(max(step / width, 0.25), 0.75) * width
        return _Move(x + step, 0.5 * abs(slope * step), reach <= NEAR)

    def _secant_step(self, other: Sample) -> tuple[float | None, float]:
        """Return the step to the minimum of the parabola with both derivatives, if it has one.

        Second comes the distance of the points it rests on.
        """
        distance = _at(other) - _at(self.latest)
        curvature = (_slope(other) - _slope(self.latest)) / distance
        step = -_slope(self.latest) / curvature if curvature > 0.0 else None
        return step, abs(distance)

    def _extrapolate(self, slope: float, step: float | None) -> _Move:
        x = _at(self.middle)
        inside = step is not None and abs(step) < self.radius
        if step is None or not inside:
            # A derivative of zero that cannot be relied on says nothing; values have to.
            step = -(np.sign(slope) or float(not self.reliable)) * self.radius
        target = min(max(x + step, self.lower), self.upper)
        return _Move(target, 0.5 * abs(slope * (target - x)), inside or self._levels_off(slope))

    def _levels_off(self, slope: float) -> bool:
        """Whether the criterion has run out into a plain, rather than not yet left one."""
        return any(abs(_slope(s)) > 10.0 * abs(slope) for s in self.samples)

    def _by_value(self) -> _Move:
        i, x = self.samples.index(self.best), _at(self.best)
        before, after = self.samples[:i], self.samples[i + 1 :]
        if not before and not after:
            return self._extrapolate(_slope(self.best), None)
        if not before and x > self.lower:
            return self._outward(-1.0, after[0])
        if not after and x < self.upper:
            return self._outward(1.0, before[-1])
        if not before or not after:
            return self._inward((after[:1] or before[-1:])[0], 0.0, 0.0)
        step, curvature = _parabola(before[-1], self.best, after[0])
        # Its minimum is no further, unless an error and not its value makes another point best.
        step = min(max(step, 0.5 * (_at(before[-1]) - x)), 0.5 * (_at(after[0]) - x))
        far = max(before[-1], after[0], key=lambda s: abs(_at(s) - x))
        return self._inward(far, step, curvature)

    def _outward(self, direction: float, neighbour: Sample) -> _Move:
        """Step to the open side, since the best point must have neighbours on both."""
        x = _at(self.best)
        curvature = (_slope(neighbour) - _slope(self.best)) / (_at(neighbour) - x)
        reach = -_slope(self.best) / curvature * direction if curvature > 0.0 else self.radius
        if _slope(self.best) * direction > 0.0:
            reach = PARABOLA
        target = x + direction * min(max(reach, PARABOLA), self.radius)
        target = min(max(target, self.lower), self.upper)
        return _Move(target, 0.5 * abs(_slope(self.best) * (target - x)), False)

    def _inward(self, far: Sample, step: float, curvature: float) -> _Move:
        """Step to the parabola's minimum, or bring a neighbour nearer that makes it inaccurate."""
        distance = _at(far) - _at(self.best)
        if abs(distance) > 2.0 * PARABOLA and abs(step) < PARABOLA:
            step = np.copysign(PARABOLA, distance)
            return _Move(_at(self.best) + step, 0.5 * curvature * step**2, False)
        return _Move(_at(self.best) + step, 0.5 * curvature * step**2, True)


def _parabola(left: Sample, middle: Sample, right: Sample) -> tuple[float, float]:
    """Return the step from the middle to the minimum of the parabola, and its curvature."""
    a, b = _at(left) - _at(middle), _at(right) - _at(middle)
    rise_a, rise_b = (left.value - middle.value) / a, (right.value - middle.value) / b
    curvature = 2.0 * (rise_b - rise_a) / (b - a)
    if not curvature > 0.0:
        return 0.0, 0.0
    return -(rise_a - 0.5 * curvature * a) / curvature, curvature


# Largest change of one log hyperparameter in a step of several: at first, and ever.
VECTOR_RADIUS = (1.0, 4.0)
# Pairs that the quasi-Newton model of the criterion keeps.
VECTOR_MEMORY = 10
# Accuracy of the common shift before they part.
COMMON_TOL = 0.05


def trust_region(theta: Vector, lower: Vector, upper: Vector, tol: float) -> StepRule:
    r"""Search one common shift of all hyperparameters, then each of them.

    The first stage is :func:`secant` along :math:`\theta + t\,(1, \dots, 1)`, to a tenth in t. The
    second is a quasi-Newton method whose model has the memory of L-BFGS, so that its cost is
    linear in the number of hyperparameters. No hyperparameter moves by more than the radius in one
    step; the radius shrinks where the criterion does not fall and grows where it falls as the
    model says. A hyperparameter on a bound that its derivative points out of stays there.

    Ends when a step changes no hyperparameter by more than ``tol``, or should gain no more than
    ``tol**2`` of the criterion.
    """
    sample = yield from _common_shift(theta, lower, upper, COMMON_TOL)
    model = InverseHessian(theta.size, VECTOR_MEMORY)
    radius, largest = VECTOR_RADIUS
    while True:
        step, slope = _model_step(model, sample, lower, upper, radius)
        gain, length = -0.5 * slope, float(np.abs(step).max())
        wanted = max(SHARE_OF_GAIN * gain, tol**2 * abs(sample.value))
        if sample.error > wanted and not sample.final:
            sample = yield Ask(sample.theta, wanted)
            continue
        if length <= tol or gain <= tol**2 * abs(sample.value):
            return _ending(sample, lower, upper)
        trial = yield Ask(sample.theta + step, wanted)
        model.append(trial.theta - sample.theta, trial.grad - sample.grad)
        fall = sample.value - trial.value
        if fall > 0.5 * gain:
            radius = min(max(radius, 2.0 * length), largest)
        elif fall <= 0.0:
            radius = length * min(max(gain / (2.0 * gain - fall), 0.1), 0.5)
        if fall > 0.0:
            sample = trial


def _common_shift(
    theta: Vector, lower: Vector, upper: Vector, tol: float
) -> Generator[Ask, Sample, Sample]:
    """Run :func:`secant` on a common shift of all hyperparameters; return the best sample."""
    reach = (lower - theta).min(), (upper - theta).max()
    search = secant(np.zeros(1), np.array(reach[:1]), np.array(reach[1:]), tol)
    ask = next(search)
    best: Sample | None = None
    while True:
        shifted = np.clip(theta + ask.theta, lower, upper)
        sample = yield ask._replace(theta=shifted)
        if best is None or sample.value + sample.error < best.value + best.error:
            best = sample
        total = np.array([sample.grad.sum()])
        try:
            ask = search.send(replace(sample, theta=ask.theta, grad=total))
        except StopIteration:
            return best


def _model_step(
    model: InverseHessian, sample: Sample, lower: Vector, upper: Vector, radius: float
) -> tuple[Vector, float]:
    """Return the model's step within radius and bounds, and the criterion's slope along it."""
    blocked = ((sample.theta <= lower) & (sample.grad > 0.0)) | (
        (sample.theta >= upper) & (sample.grad < 0.0)
    )
    grad = np.where(blocked, 0.0, sample.grad)
    candidates = [grad * radius / max(float(np.abs(grad).max()), np.finfo(float).tiny)]
    if model.n_pairs:
        candidates.insert(0, np.where(blocked, 0.0, model @ grad))
    for candidate in candidates:
        target = sample.theta - np.clip(candidate, -radius, radius)
        step = np.clip(target, lower, upper) - sample.theta
        slope = float(step @ grad)
        if slope < 0.0:
            break
    return step, slope


RULES: dict[str, Callable[[Vector, Vector, Vector, float], StepRule]] = {
    "adaptive": adaptive,
    "secant": secant,
    "trust-region": trust_region,
}


def resolve_step(step: str, n_hyperparameters: int) -> Callable[..., StepRule]:
    """Return the step rule of that name; ``"auto"`` chooses by the number of hyperparameters."""
    if step == "auto":
        return secant if n_hyperparameters == 1 else trust_region
    if step not in RULES:
        raise ValueError(f"step must be 'auto' or one of {sorted(RULES)}, got {step!r}.")
    if step == "secant" and n_hyperparameters > 1:
        raise ValueError(
            f"step='secant' tunes one hyperparameter and the problem has {n_hyperparameters}; "
            "use step='trust-region'."
        )
    return RULES[step]
