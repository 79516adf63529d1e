"""When a search has settled: the sets of penalties that are good enough, and a trace against them.

A search is there from the first moment after which its theta never leaves the set in which the
converged criterion is within a tolerance of its optimum.
"""

from dataclasses import dataclass

from scipy.optimize import brentq, minimize_scalar

BOUNDS = (-18.0, 18.0)
# The scan goes on to either side until the criterion is this much above the lowest value seen.
HIGH_ENOUGH = 1.05
# Accuracy of the optimum and of the ends of the sets, in log alpha.
RESOLUTION = 1e-3


@dataclass(frozen=True)
class Landscape:
    """Where the criterion is lowest, and around that, where it is low enough.

    Attributes
    ----------
    theta, value : float
        The optimum.
    sets : dict of float to (float, float)
        By relative tolerance, the interval around the optimum where it is kept.
    """

    theta: float
    value: float
    sets: dict[float, tuple[float, float]]


@dataclass(frozen=True)
class Moment:
    """What a search had spent when it moved to theta."""

    theta: float
    passes: float
    seconds: float


def explore(criterion, tolerances, start=0.0):
    """Scan a `ConvergedCriterion` in unit steps, refine its minimum, then find the sets' ends."""
    left, right = _walk(criterion, start, -1.0), _walk(criterion, start, 1.0)
    low, high = left[-1], right[-1]
    centre = min(left + right, key=criterion)
    minimize_scalar(
        criterion,
        bounds=(max(centre - 1.0, low), min(centre + 1.0, high)),
        method="bounded",
        options={"xatol": RESOLUTION},
    )
    theta = min(criterion.values, key=criterion.values.get)
    value = criterion.values[theta]
    sets = {
        tol: (
            _crossing(criterion, (1.0 + tol) * value, theta, low),
            _crossing(criterion, (1.0 + tol) * value, theta, high),
        )
        for tol in tolerances
    }
    return Landscape(theta, value, sets)


def _walk(criterion, theta, step):
    """Return the points to where the criterion has become high, or to the bound."""
    points = [theta]
    while BOUNDS[0] < theta < BOUNDS[1]:
        theta += step
        points.append(theta)
        if criterion(theta) > HIGH_ENOUGH * min(criterion(point) for point in points):
            break
    return points


def _crossing(criterion, level, inside, end):
    """Return where the criterion reaches the level on the way from inside to end, or the end."""
    known = [t for t in criterion.values if min(inside, end) <= t <= max(inside, end)]
    above = [t for t in known if criterion(t) > level]
    if not above:
        return end
    outer = min(above, key=lambda t: abs(t - inside))
    inner = max(
        (t for t in known if abs(t - inside) < abs(outer - inside)), key=lambda t: abs(t - inside)
    )
    return float(brentq(lambda t: criterion(t) - level, inner, outer, xtol=RESOLUTION))


def settled(trace, interval):
    """Return the first moment of a trace after which theta stays in the interval, or None."""
    low, high = interval
    since = None
    for moment in reversed(trace):
        if not low <= moment.theta <= high:
            break
        since = moment
    return since
