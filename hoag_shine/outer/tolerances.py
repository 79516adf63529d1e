r"""How accurately the inner problems are solved along the outer iterations.

A rule returns the tolerance of outer iteration k = 1, 2, ... relative to the norm of the inner
gradient at the start. The published ones are sequences, all summable, as HOAG's convergence
theorem asks (Pedregosa, ICML 2016, theorem 2 and section 5). ``"adjoint"`` instead has no
sequence: the accuracy follows from what the step rule asks for, see :mod:`hoag_shine.outer.hoag`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..linalg.costs import LONG_VECTOR_NUMBERS
from ..utils.validation import check_positive, shown

# Smallest norm of an inner gradient that is asked for, relative to that at the start.
# Why: of a gradient that is a sum over some thousand samples, double precision gives no more.
SMALLEST_TOLERANCE = 1e-12
# Tolerances are relative to the criterion, or to this share of the criterion at coefficients zero,
# whichever is larger: a criterion that is nearly zero need not be known to as many digits.
# Why: with the default tol of 2e-2, tol**2 of this share is 1e-6 of the criterion at zero, and a
# difference of that size is none for a user.
NULL_VALUE_SHARE = 2.5e-3
# Relative accuracy that is asked of the criterion at the result, where vectors are short and digits
# cheap: a third of the 3e-6 that is promised.
# Why: the last digits cost next to nothing there, and results may be compared to five digits. The
# errors are estimates, which were up to 2.5 times too small on digits and on sparse data.
SHORT_VECTOR_ACCURACY = 1e-6
# Error that a criterion has at least where inner objectives are evaluated in single precision, as a
# share of it.
# Why: rounding changed it by 3e-9 to 4e-8 of itself on digits, usps, mnist and 512 columns with 200
# classes.
SINGLE_VALUE_SHARE = 1e-6
# Norm of inner gradients, relative to that at the start, below which they are in double precision.
# Why: rounding changed them by 3e-9 to 9e-8 of that at the start on these sets, at most a hundredth
# of what is left then.
SINGLE_GRADIENT_SHARE = 1e-5
# Smallest share of the criterion that a search may leave for its solves to be led in single
# precision until a result is wanted.
# Why: a hundred times that error, so that it decides nothing.
SINGLE_GAIN_SHARE = 1e-4
# Share of the data up to which a pass counts as free, and a search as better thorough than short.
# Why: measured on least squares whose rows are compressed (cal_housing, cpu_small, puma32H): a
# thorough search costs less there than an early end would lose.
FREE_PASS_SHARE = 0.1
# The tol of such a search, unless the user's is smaller.
# Why: it ends within a millionth of the optimum on these sets.
FREE_PASS_TOL = 1e-3

Schedule = Callable[[int], float]

SCHEDULES: dict[str, Schedule | None] = {
    "adjoint": None,
    "quadratic": lambda k: 0.1 / k**2,
    "cubic": lambda k: 0.1 / k**3,
    "exponential": lambda k: 0.1 * 0.9**k,
    "exact": lambda k: SMALLEST_TOLERANCE,
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
    """Return a user's tolerance for an iteration, after checking that it is one."""
    return check_positive("what tolerance returns", schedule(iteration), zero=True)


def search_tolerance(tol: float, pass_share: float, n_hyperparameters: int) -> float:
    """Return the ``tol`` at which a search ends, given the user's and what a pass costs.

    To end early saves passes; where these are nearly free, it saves nothing. Not for several
    hyperparameters: their last digits take many more steps, and fit the noise of the held-out data.
    """
    free = pass_share <= FREE_PASS_SHARE and n_hyperparameters == 1
    return min(tol, FREE_PASS_TOL) if free else tol


def result_accuracy(tol: float, n_params: int) -> float:
    """Return the relative accuracy to which a search that ends at ``tol`` solves its result.

    A result is looked at more closely than the way there: it is solved better than the search needs
    in order to end.
    """
    # The search leaves tol**2 of the criterion; the inner error adds no more than half of that.
    accuracy = 0.5 * tol**2
    return max(
        min(accuracy, SHORT_VECTOR_ACCURACY) if n_params <= LONG_VECTOR_NUMBERS else accuracy,
        SMALLEST_TOLERANCE,
    )
