r"""How accurately the inner problems are solved along the outer iterations.

A rule returns the tolerance of outer iteration k = 1, 2, ... relative to the norm of the inner
gradient at the start. The published ones are sequences, all summable, as HOAG's convergence
theorem asks (Pedregosa, ICML 2016, theorem 2 and section 5). ``"adjoint"`` instead has no
sequence: the accuracy follows from what the step rule asks for, see :mod:`hoag_shine.outer.hoag`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..utils.validation import check_positive, shown

# Double precision allows no more in general.
FLOOR = 1e-12

# Tolerances are relative to the criterion, or to this share of what it is without coefficients: at
# the default tol of a search, differences of 1e-6 of that make no difference.
FLOOR_SHARE = 2.5e-3

# Largest number of inner variables for which a solution to all digits is cheap, and the relative
# accuracy of the criterion that is asked for then.
FEW = 10_000
CHEAP = 3e-6

# Where a pass reads no more than this share of the data, a search need not be short: its tol then.
SMALL_SHARE = 0.1
THOROUGH = 1e-3

Schedule = Callable[[int], float]

SCHEDULES: dict[str, Schedule | None] = {
    "adjoint": None,
    "quadratic": lambda k: 0.1 / k**2,
    "cubic": lambda k: 0.1 / k**3,
    "exponential": lambda k: 0.1 * 0.9**k,
    "exact": lambda k: FLOOR,
}


def resolve_tolerance(tolerance: str | Schedule) -> Schedule | None:
    """Return the schedule of that name, None for ``"adjoint"``, or the callable itself."""
    if callable(tolerance):
        return partial(_scheduled, tolerance)
    if not isinstance(tolerance, str) or tolerance not in SCHEDULES:
        raise ValueError(
            f"tolerance must be one of {sorted(SCHEDULES)} or a callable of the outer iteration, "
            f"got {shown(tolerance)}."
        )
    return SCHEDULES[tolerance]


def _scheduled(schedule: Schedule, iteration: int) -> float:
    """Return what a user's schedule says, if that is a tolerance."""
    return check_positive("what tolerance returns", schedule(iteration), zero=True)


def search_tolerance(tol: float, pass_share: float, n_hyperparameters: int) -> float:
    """Return at which ``tol`` a search ends that was given one, and whose passes cost so much.

    It saves passes to end early, and nothing where these are nearly free. Many hyperparameters take
    many more steps to their last digits, and fit the noise of the held-out data with them.
    """
    free = pass_share <= SMALL_SHARE and n_hyperparameters == 1
    return min(tol, THOROUGH) if free else tol


def result_accuracy(tol: float, n_params: int) -> float:
    """Return how accurately a search that ends at ``tol`` solves what it returns.

    Better than it has to know where to end: a result is looked at more closely than the way there.
    """
    accuracy = 0.5 * tol**2
    return max(min(accuracy, CHEAP) if n_params <= FEW else accuracy, FLOOR)
