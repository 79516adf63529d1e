"""The strongest penalty whose criterion is within one standard error of the lowest."""

from __future__ import annotations

import numpy as np

from .base import Ask, Evaluation, Outcome, StepRule, Vector

# Most evaluations on the way to the root.
# Why: each halves the bracket at worst, and 60 halvings make any bracket narrower than rounding.
MAX_ROOT_EVALUATIONS = 60


def one_standard_error(
    best: Evaluation, standard_error: float, accuracy: Ask, lower: Vector, upper: Vector, tol: float
) -> StepRule:
    r"""Raise all hyperparameters by a common factor until the criterion has lost one error.

    Along :math:`\theta(t) = \theta^* + t`, clipped to the bounds, this finds the root of
    :math:`f(\theta(t)) = f(\theta^*) + SE` that is met first: steps of doubling length until the
    criterion exceeds that, then Newton's steps on the derivative that every evaluation brings,
    halved where they leave the bracket. It ends at an evaluation that is within the standard error
    even if its error is against it, and at most ``tol`` short of the root. The last evaluation
    asked for is the answer.

    Parameters
    ----------
    best : Evaluation
        At the minimum.
    standard_error : float
        What the criterion may lose.
    accuracy : Ask
        How accurate evaluations must be; its theta is not used.
    lower, upper : ndarray of shape (d,)
        Bounds of theta.
    tol : float

    References
    ----------
    .. [1] L. Breiman, J. Friedman, R. Olshen and C. Stone, *Classification and Regression Trees*,
       1984, section 3.4.3.
    """

    def at(t: float) -> Ask:
        return accuracy._replace(theta=np.clip(best.theta + t, lower, upper))

    farthest = float(np.max(upper - best.theta))  # where all hyperparameters are on their bounds
    # At t = inside the criterion is certainly within the standard error, at t = outside it is not.
    inside, outside = 0.0, np.inf
    t = min(1.0, farthest)
    for _ in range(MAX_ROOT_EVALUATIONS):
        evaluation = yield at(t)
        excess = evaluation.value - evaluation.prior - (best.value - best.prior) - standard_error
        within = excess + evaluation.error <= 0.0
        inside, outside = (t, outside) if within else (inside, t)
        if within and t >= farthest:
            return Outcome.BOUND
        # d f / dt is the sum of the derivatives that still move; ``short`` is Newton's step.
        slope = float(evaluation.grad[evaluation.theta < upper].sum())
        short = -excess / slope if slope > 0.0 else np.inf
        if within and (0.0 <= short <= tol or outside - inside <= tol):
            return Outcome.CONVERGED
        # Half a tolerance short of the root, so that the last step ends inside.
        step = t + short - 0.5 * tol
        if outside == np.inf:
            t = min(max(2.0 * t, tol), farthest)
        elif outside - inside <= tol:
            t = inside
        else:
            t = step if inside < step < outside else 0.5 * (inside + outside)
    yield at(inside)
    return Outcome.CONVERGED
