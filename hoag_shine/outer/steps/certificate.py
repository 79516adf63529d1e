"""What is known at the end of a search: why it may end, and what is still unknown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...inner.inverse_hessian import InverseHessian
from .base import NEAR_DISTANCE, Evaluation, Vector

Array = NDArray[np.float64]

# Most secants of a model of several hyperparameters.
# Why: by judgement. Up to as many hyperparameters their Hessian is fitted; for more, a quasi-Newton
# model with more pairs than this is rarely better.
MAX_SECANTS = 30
# Distances in log penalty within which evaluations whose errors are estimates tell of the curvature
# at the result, the second where there are none within the first; where errors are certain, it is
# NEAR_DISTANCE.
# Why: slopes must differ by more than their errors, which takes a longer way where these are
# larger; but those of a9a, phishing and 20news show that two units away it is another curvature.
ESTIMATED_NEAR_DISTANCES = (1.5, 2.0)
# Largest rate, per unit of log penalty, at which the curvature of the criterion may die away.
# Why: coefficients of ridge regression are sums of sigmoids of theta, which change no faster than
# exp(theta), and the criterion is their square.
CURVATURE_DECAY_RATE = 2.0
# Distance in log penalty over which a slope is taken to grow exponentially, at most.
# Why: exp(2 t) must be finite; by then, any slope has outgrown what doubles can tell.
MAX_GROWTH = 50.0


@dataclass(frozen=True)
class Certificate:
    r"""Why a search may end: what can still be gained, where, and how much was looked at.

    All thetas are logarithms of hyperparameters, ``log(alpha)`` for an estimator's ``alpha`` and
    ``-log(C)`` for its ``C``.

    Attributes
    ----------
    theta : ndarray of shape (d,)
        Of the lowest criterion: of the result, unless a rule such as ``selection="one-se"`` has
        taken another.
    value : float
        What is minimised, there: the criterion and what shrinkage adds to it.
    error : float
        Of ``value``.
    slope : ndarray of shape (d,)
        The hypergradient there.
    slope_error : float
        What the norm of the slope's error does not exceed; an estimate unless ``certain``.
    interval : tuple of two ndarrays of shape (d,)
        Ends of the part of the range that holds an optimum: the nearest evaluations from which the
        criterion falls towards the result by more than the errors, or the bounds of the search.
        With several hyperparameters, a box around the result: to each side twice the step to the
        minimum of a model of the nearest evaluations, or once where errors are estimates, and at
        most 1.
    gain : float
        What can at most be gained inside the interval, in units of the criterion; infinite where
        the method does not know its errors. See Notes.
    seen : tuple of two ndarrays of shape (d,)
        Ends of the part of the range from which there are evaluations.
    n_evaluations : int
        Number of places at which the criterion was evaluated.
    spacing : float
        Largest distance of neighbouring evaluations in the seen part of the range, in log
        hyperparameters; NaN for several hyperparameters.
    accuracy : float
        Largest error of the criterion among the evaluations.
    certain : bool
        Whether errors are bounds, from factorised Hessians. Otherwise they are estimates.

    Notes
    -----
    Let s be the slope at the result, known to e, and let an end of the interval lie at a distance d
    on the side that the criterion may fall to. No more than :math:`(|s| + e)\,d` can be gained if
    the criterion is convex in between, and no more than :math:`(|s| + e)^2 / 2 \kappa` if its
    curvature is at least :math:`\kappa`. ``gain`` is the smaller of the two. The curvature is taken
    between the result and an evaluation near it, with all errors against it; where errors are
    certain, it is multiplied by :math:`e^{-2 t}` for an evaluation at a distance t. Of a criterion
    with kinks, whose loss is not ``smooth``, no curvature counts then. Where the nearest evaluation
    on a side is more than one unit away, the criterion may leave a plateau in between: unless
    errors are estimates and evaluations nearer by tell of the curvature, its slope at a distance t
    is then taken to be :math:`-a e^t + b e^{2 t}`, and ``gain`` is no less than the depth of that
    dip. Nor is it less than the amount by which an evaluation in the interval is known to be lower
    than the result, as one on a bound may be, or one by too little to be worth another search. It
    is infinite where a direct solve in the interval has failed. With several hyperparameters, it is
    the sum of :math:`(|s_j| + e)\,d_j` over the sides of the box.
    """

    theta: Vector
    value: float
    error: float
    slope: Vector
    slope_error: float
    interval: tuple[Vector, Vector]
    gain: float
    seen: tuple[Vector, Vector]
    n_evaluations: int
    spacing: float
    accuracy: float
    certain: bool


def certify(
    evaluations: Sequence[Evaluation], best: Evaluation, lower: Vector, upper: Vector
) -> Certificate:
    """Return the certificate of the best of some evaluations.

    Parameters
    ----------
    evaluations : sequence of Evaluation
        The newest at each theta, the best one among them.
    best : Evaluation
        The result.
    lower, upper : ndarray of shape (d,)
        Bounds of theta.
    """
    if best.parts:
        return _of_parts(evaluations, best, lower, upper)
    thetas = np.stack([s.theta for s in evaluations])
    one = best.theta.size == 1
    interval, gain = (_in_one_dimension if one else _in_a_box)(evaluations, best, lower, upper)
    return Certificate(
        theta=best.theta,
        value=best.value,
        error=best.error,
        slope=best.grad,
        slope_error=best.slope_error,
        interval=interval,
        gain=gain,
        seen=(thetas.min(axis=0), thetas.max(axis=0)),
        n_evaluations=len(evaluations),
        spacing=float(np.diff(np.sort(thetas[:, 0])).max(initial=0.0)) if one else float("nan"),
        accuracy=max(s.error for s in evaluations if np.isfinite(s.value)),
        certain=best.exact,
    )


def _of_parts(
    evaluations: Sequence[Evaluation], best: Evaluation, lower: Vector, upper: Vector
) -> Certificate:
    """Return what the certificates of separate hyperparameters say together."""
    each = []
    for j, part in enumerate(best.parts):
        own = {s.parts[j].theta.tobytes(): s.parts[j] for s in evaluations}
        own[part.theta.tobytes()] = part
        each.append(certify(list(own.values()), part, lower[j : j + 1], upper[j : j + 1]))

    def joined(name: str) -> Vector:
        return np.concatenate([np.atleast_1d(getattr(c, name)) for c in each])

    def ends(name: str) -> tuple[Vector, Vector]:
        pairs = [getattr(c, name) for c in each]
        return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])

    return Certificate(
        theta=best.theta,
        value=best.value,
        error=best.error,
        slope=best.grad,
        slope_error=best.slope_error,
        interval=ends("interval"),
        gain=float(joined("gain").sum()),
        seen=ends("seen"),
        n_evaluations=len(evaluations),
        spacing=float(joined("spacing").max()),
        accuracy=float(joined("accuracy").max()),
        certain=all(c.certain for c in each),
    )


def _in_one_dimension(
    evaluations: Sequence[Evaluation], best: Evaluation, lower: Vector, upper: Vector
) -> tuple[tuple[Vector, Vector], float]:
    """Return the interval that holds an optimum, and what can at most be gained in it."""
    x, slope, error = float(best.theta[0]), float(best.grad[0]), best.slope_error
    before = [s for s in evaluations if s.theta[0] < x and _falls_towards(s, best)]
    after = [s for s in evaluations if s.theta[0] > x and _falls_towards(s, best)]
    start = max((s.theta for s in before), key=lambda t: t[0], default=lower)
    end = min((s.theta for s in after), key=lambda t: t[0], default=upper)
    # An evaluation may be lower by so little that it is not the result, as on a bound.
    inside = [s for s in evaluations if start[0] <= s.theta[0] <= end[0]]
    known = [s for s in inside if np.isfinite(s.error)]
    lowest = min((s.value - s.error for s in known if s is not best), default=np.inf)
    # Where a direct solve has failed, the criterion is not known, and may be anything.
    gain = np.inf if best.exact and len(known) < len(inside) else max(0.0, best.value - lowest)
    # ``fall`` is the steepest slope downhill on a side that the errors allow, |s| + e.
    for side, fall, width in (
        (-1.0, slope + error, x - start[0]),
        (1.0, error - slope, end[0] - x),
    ):
        if fall > 0.0 and width > 0.0:
            # Convexity bounds the gain by fall * width, a curvature kappa by fall**2 / (2 kappa).
            curvature = seen_curvature(evaluations, best, side) if best.smooth else 0.0
            curved = 0.5 * fall**2 / curvature if curvature > 0.0 else np.inf
            gain = max(gain, min(fall * float(width), float(curved)))
            if best.exact or not _both_sides(evaluations, best, ESTIMATED_NEAR_DISTANCES[0]):
                gain = max(gain, _unseen_dip(known, best, side, fall))
    return (start, end), gain


def _unseen_dip(known: Sequence[Evaluation], best: Evaluation, side: float, fall: float) -> float:
    """Return the depth of a dip between the best evaluation and a distant one next to it.

    On a plateau, where the singular values are far, the terms of the criterion grow like exp(t) and
    exp(2 t). Of a slope -a exp(t) + b exp(2 t), the values at both ends determine a and b.
    """

    def distance(other: Evaluation) -> float:
        return side * float(other.theta[0] - best.theta[0])

    told = [s for s in known if distance(s) > 0.0 and s.slope_error < np.inf]
    beside = min(told, key=distance, default=None)
    if beside is None or distance(beside) <= NEAR_DISTANCE or not fall < np.inf:
        return 0.0  # an infinite fall leaves an infinite gain in any case
    rise = max(0.0, side * float(beside.grad[0]) + beside.slope_error)
    grown = np.exp(min(distance(beside), MAX_GROWTH))
    b = (rise + fall * grown) / (grown * (grown - 1.0))
    a = fall + b
    bottom = min(a / b, grown)  # exp(t) where the slope vanishes
    return float(a * (bottom - 1.0) - 0.5 * b * (bottom**2 - 1.0))


def _in_a_box(
    evaluations: Sequence[Evaluation], best: Evaluation, lower: Vector, upper: Vector
) -> tuple[tuple[Vector, Vector], float]:
    """Return a box around the result, and what can at most be gained in it."""
    reach = np.minimum(
        (2.0 if best.exact else 1.0) * np.abs(likely_step(evaluations, best)), NEAR_DISTANCE
    )
    start, end = np.maximum(best.theta - reach, lower), np.minimum(best.theta + reach, upper)
    gains = np.zeros(best.theta.size)
    for fall, width in (
        (best.grad + best.slope_error, best.theta - start),
        (best.slope_error - best.grad, end - best.theta),
    ):
        gains = np.maximum(gains, np.where(width > 0.0, np.maximum(fall, 0.0), 0.0) * width)
    return (start, end), float(gains.sum())


def likely_step(evaluations: Sequence[Evaluation], best: Evaluation) -> Vector:
    r"""Return :math:`H^{-1} \nabla f`, minus the step to the minimum of a quadratic model.

    Its Hessian H fits the differences of hypergradients near the best evaluation. Without a model,
    the answer is one unit in every hyperparameter.
    """
    near = [s for s in evaluations if 0.0 < np.abs(s.theta - best.theta).max() <= NEAR_DISTANCE]
    near = sorted((s for s in near if _tells(s, best)), key=_distance(best))
    steps = np.array([s.theta - best.theta for s in near]).reshape(-1, best.theta.size)
    rises = np.array([s.grad - best.grad for s in near]).reshape(-1, best.theta.size)
    step = _newton_step(steps, rises, best.grad)
    if step is None:
        step = _quasi_newton_step(steps[:MAX_SECANTS], rises[:MAX_SECANTS], best.grad)
    return step


def _tells(evaluation: Evaluation, best: Evaluation) -> bool:
    """Whether the slopes of two evaluations differ by more than their errors."""
    rise = float(np.linalg.norm(evaluation.grad - best.grad))
    return bool(np.isfinite(evaluation.value) and evaluation.slope_error + best.slope_error <= rise)


def _newton_step(steps: Array, rises: Array, grad: Vector) -> Vector | None:
    """Return Newton's step by the Hessian of best fit, None if the steps do not determine it."""
    d = grad.size
    if not d <= len(steps) or d > MAX_SECANTS:
        return None
    # Weighted least squares for H in steps @ H = rises. A Hessian changes with the distance, so
    # that far points count less.
    weight = 1.0 / (steps**2).sum(axis=1, keepdims=True)
    hessian, _, rank, _ = np.linalg.lstsq(weight * steps, weight * rises, rcond=1e-6)
    hessian = 0.5 * (hessian + hessian.T)
    values, vectors = np.linalg.eigh(hessian)
    if rank < d or not values[0] > 0.0:
        return None
    return np.asarray(vectors @ ((vectors.T @ grad) / values))


def _quasi_newton_step(steps: Array, rises: Array, grad: Vector) -> Vector:
    """Return the step of L-BFGS with these secants, the first of which is taken as the newest."""
    model = InverseHessian(grad.size, max(1, len(steps)))
    for step, rise in zip(steps[::-1], rises[::-1], strict=True):
        model.append(step, rise)
    return np.asarray(model @ grad) if model.n_pairs else np.full(grad.size, NEAR_DISTANCE)


def _distance(best: Evaluation) -> Callable[[Evaluation], float]:
    return lambda s: float(np.linalg.norm(s.theta - best.theta))


def _falls_towards(evaluation: Evaluation, best: Evaluation) -> bool:
    """Whether the criterion certainly falls on the way from an evaluation to the best one."""
    direction = np.sign(best.theta[0] - evaluation.theta[0])
    descends = float(evaluation.grad[0]) * direction + evaluation.slope_error < 0.0
    return bool(descends or evaluation.value - evaluation.error > best.value + best.error)


def seen_curvature(evaluations: Sequence[Evaluation], best: Evaluation, side: float) -> float:
    """Return the curvature between the best evaluation and others near it, 0 if none is certain.

    If evaluations are exact: the smallest on the side of that sign, since the curvature may fall
    towards a plateau, each reduced by what it may change over the distance. If errors are
    estimates: the largest on each side, with all errors against it, and the smaller one of these,
    from as near as there are any.
    """
    if best.exact:
        found = _near_curvatures(evaluations, best, side, NEAR_DISTANCE, CURVATURE_DECAY_RATE)
        return max(0.0, min(found, default=0.0))
    near, far = (_both_sides(evaluations, best, reach) for reach in ESTIMATED_NEAR_DISTANCES)
    return near or far


def _both_sides(evaluations: Sequence[Evaluation], best: Evaluation, reach: float) -> float:
    """Return the smaller of the largest curvatures of each side, of those that are certain."""
    sides = [_near_curvatures(evaluations, best, side, reach, 0.0) for side in (-1.0, 1.0)]
    return float(min((max(near) for near in sides if max(near, default=0.0) > 0.0), default=0.0))


def _near_curvatures(
    evaluations: Sequence[Evaluation], best: Evaluation, side: float, reach: float, rate: float
) -> list[float]:
    """Return the curvatures on one side up to some distance, times exp(-rate distance)."""
    x, found = float(best.theta[0]), []
    for other in evaluations:
        distance = float(other.theta[0]) - x
        if 0.0 < side * distance <= reach:
            found.append(np.exp(-rate * abs(distance)) * _curvature(best, other, distance))
    return [k for k in found if not np.isnan(k)]


def _curvature(best: Evaluation, other: Evaluation, distance: float) -> float:
    """Return the larger of two lower bounds of the curvature: by the slopes and by the values."""
    # By slopes: (f'(x + d) - f'(x)) / d. By values: 2 (f(x + d) - f(x) - f'(x) d) / d**2. Errors
    # are taken off both.
    rise = float(other.grad[0] - best.grad[0]) * np.sign(distance)
    by_slopes = (rise - other.slope_error - best.slope_error) / abs(distance)
    fall = other.value - best.value - float(best.grad[0]) * distance
    errors = other.error + best.error + best.slope_error * abs(distance)
    return float(max(by_slopes, 2.0 * (fall - errors) / distance**2))
