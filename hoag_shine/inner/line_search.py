"""A line search for the strong Wolfe conditions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..linalg.precision import SUM_ROUNDING
from ..problems.requests import Evaluate, Line, Solver

Vector = NDArray[np.float64]

# The constant c1 of the strong Wolfe conditions.
# Why: Nocedal and Wright's choice (2nd ed., section 3.1): any decrease in proportion to the slope.
SUFFICIENT_DECREASE = 1e-4
# The constant c2.
# Why: Nocedal and Wright's choice for quasi-Newton methods: a loose search, since a new direction
# is worth more than a better length along an old one.
CURVATURE = 0.9
# Factor by which the step grows while it is too short.
# Why: by judgement; with the first step of a quasi-Newton method, it is rarely needed.
EXPANSION_FACTOR = 3.0
# Distance that a new step keeps from both ends of the interval, as a share of it.
# Why: by judgement: the interval shrinks by a tenth at least, whatever the cubic says.
INTERVAL_MARGIN = 0.1
# Width of the interval, relative to its ends, at which it has collapsed.
# Why: the value is the same to all digits over such a width.
COLLAPSED_WIDTH = 1e-12


class Trial(NamedTuple):
    """A point on the line: its step, inner value, slope along the line, position and gradient."""

    step: float
    value: float
    slope: float
    w: Vector
    grad: Vector


def strong_wolfe(
    origin: Trial, direction: Vector, step: float, *, max_evaluations: int = 30
) -> Solver[tuple[Trial | None, int]]:
    r"""Search along ``origin.w + t * direction`` for the strong Wolfe conditions.

    .. math:: \phi(t) \le \phi(0) + c_1 t \phi'(0), \qquad |\phi'(t)| \le c_2 |\phi'(0)|

    with :math:`c_1 = 10^{-4}` and :math:`c_2 = 0.9`. The interval between the best point so far
    and one that is too far is narrowed by cubic interpolation (Nocedal and Wright, 2nd ed.,
    algorithms 3.5 and 3.6, as a single loop). The decrease is tested up to rounding, so that the
    search works down to machine precision, where slopes are still right but values are not.

    Parameters
    ----------
    origin : Trial
        The start, with ``step=0`` and a negative ``slope``.
    direction : ndarray of shape (n,)
    step : float
        The first step to try.
    max_evaluations : int, default=30

    Returns
    -------
    trial : Trial or None
        A point that satisfies both conditions; failing that, the lowest one with sufficient
        decrease; None when there is none.
    n_evaluations : int
    """
    slack = SUM_ROUNDING * abs(origin.value)
    # ``low`` is the lowest point with sufficient decrease. Once there is a ``high``, the interval
    # between the two holds points that satisfy both conditions; ``high`` may lie on either side.
    low, high = origin, None
    line: Line | None = None
    for n_evaluations in range(1, max_evaluations + 1):
        w = step * direction
        w += origin.w
        value, grad = yield Evaluate(w, line)
        trial = Trial(step, value, float(grad @ direction), w, grad)
        allowed = origin.value + SUFFICIENT_DECREASE * step * origin.slope + slack
        if not (np.isfinite(value) and np.isfinite(trial.slope)):
            high = trial._replace(value=np.inf)  # beyond the domain, or overflow: step back
        elif value > allowed or value > low.value + slack:
            high = trial  # too far: no sufficient decrease, or no better than the best
        elif abs(trial.slope) <= -CURVATURE * origin.slope:
            return trial, n_evaluations
        else:
            # Low enough but still steep. Where it rises towards ``high``, the minimum lies between
            # this point and the last ``low``.
            toward_high = 1.0 if high is None else high.step - low.step
            if trial.slope * toward_high >= 0.0:
                high = low
            low = trial
        following = _next_step(low, high)
        if following is None:
            break
        # The next point lies on the line through two whose linear predictors are known.
        line = Line(origin.w, w, following / step)
        step = following
    return (low if low.value < origin.value else None), n_evaluations


def _next_step(low: Trial, high: Trial | None) -> float | None:
    """Return the step to try next, or None when the interval has collapsed."""
    if high is None:  # the slope is still steep: further out
        return EXPANSION_FACTOR * low.step
    width = high.step - low.step
    if abs(width) <= COLLAPSED_WIDTH * max(abs(low.step), abs(high.step)):
        return None
    known = np.isfinite(high.value)
    fraction = _cubic_minimum(low, high, width) if known else INTERVAL_MARGIN
    return low.step + float(np.clip(fraction, INTERVAL_MARGIN, 1.0 - INTERVAL_MARGIN)) * width


def _cubic_minimum(low: Trial, high: Trial, width: float) -> float:
    """Return where the cubic through both points has its minimum, as a fraction of the interval.

    Nocedal and Wright, 2nd ed., equation 3.59, written for the unit interval.
    """
    slope_low, slope_high, fall = low.slope * width, high.slope * width, low.value - high.value
    # Only ratios matter, and the square of a large number would overflow.
    unit = max(abs(slope_low), abs(slope_high), abs(fall))
    if not 0.0 < unit < np.inf:
        return 0.5
    slope_low, slope_high, fall = slope_low / unit, slope_high / unit, fall / unit
    # d1 and d2 of equation 3.59; the fraction is 1 - (slope_high + d2 - d1) / (... + 2 d2).
    d = slope_low + slope_high + 3.0 * fall
    root = d * d - slope_low * slope_high
    if root < 0.0:  # no minimum
        return 0.5
    root = np.sqrt(root)
    denominator = slope_high - slope_low + 2.0 * root
    if denominator == 0.0:
        return 0.5
    return float(1.0 - (slope_high + root - d) / denominator)
