"""HOAG's own step rule."""

from __future__ import annotations

import numpy as np

from .base import Ask, StepRule, Vector, ending


def adaptive(
    theta: Vector, lower: Vector, upper: Vector, tol: float, first_step: float = 1.0
) -> StepRule:
    r"""Projected gradient steps with HOAG's adaptive step size, the first of a given length.

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
    evaluation = yield Ask(theta)
    # The estimate L of the Lipschitz constant of the hypergradient: steps are p / L long.
    lipschitz = float(np.linalg.norm(evaluation.grad)) / first_step or 1.0
    while True:
        following = np.clip(evaluation.theta - evaluation.grad / lipschitz, lower, upper)
        if np.abs(following - evaluation.theta).max() <= tol:
            return ending(evaluation, lower, upper)
        previous, evaluation = evaluation, (yield Ask(following))
        length = float(np.linalg.norm(evaluation.theta - previous.theta))
        # epsilon_k and epsilon_{k-1} are the tolerances to which the inner problems were solved.
        allowed = (
            previous.value
            + 0.25 * evaluation.tolerance
            + 1.25 * previous.tolerance * length
            - 0.5 * lipschitz * length**2
        )
        lipschitz *= 1.0 / 1.05 if evaluation.value <= allowed else 2.0
