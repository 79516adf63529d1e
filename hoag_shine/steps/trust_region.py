"""A search in several hyperparameters."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np

from ..inner.inverse_hessian import InverseHessian
from .base import Ask, Sample, StepRule, Vector, ending, outward
from .secant import FIRST_RADIUS, secant

# Largest change of one log hyperparameter in a step of several: at first, and ever.
VECTOR_RADIUS = (1.0, 4.0)
# Pairs that the quasi-Newton model of the criterion keeps.
VECTOR_MEMORY = 10
# Accuracy of the common shift before they part.
COMMON_TOL = 0.05

# A value that is too good to be true makes every later step look like a failure, and a derivative
# that is wrong in some components spoils the model: both are asked for more accurately than in a
# search for one hyperparameter, by this factor and to this share of itself.
CAUTION = 0.3
SHARE_OF_GRADIENT = 0.5


def trust_region(
    theta: Vector, lower: Vector, upper: Vector, tol: float, first_step: float = FIRST_RADIUS
) -> StepRule:
    r"""Search one common shift of all hyperparameters, then each of them.

    The first stage is :func:`secant` along :math:`\theta + t\,(1, \dots, 1)`, to 0.05 in t. The
    second is a quasi-Newton method whose model has the memory of L-BFGS, so that its cost is
    linear in the number of hyperparameters. No hyperparameter moves by more than the radius in one
    step; the radius shrinks where the criterion does not fall and grows where it falls as the
    model says. A hyperparameter on a bound that its derivative points out of stays there.

    Ends when a step changes no hyperparameter by more than ``tol``, or should gain no more than
    ``tol**2`` of the criterion.
    """
    sample = yield from _common_shift(theta, lower, upper, COMMON_TOL, first_step)
    model = InverseHessian(theta.size, VECTOR_MEMORY)
    radius, largest = VECTOR_RADIUS
    radius = min(radius, first_step)
    while True:
        step, slope = _model_step(model, sample, lower, upper, radius)
        gain, length = -0.5 * slope, float(np.abs(step).max())
        wanted = max(CAUTION * sample.share * gain, tol**2 * sample.size)
        grad = SHARE_OF_GRADIENT * float(np.linalg.norm(sample.grad))
        short = sample.error > wanted and not sample.final
        if short or sample.improvable(grad):
            sample = yield Ask(sample.theta, wanted, grad_accuracy=grad)
            continue
        if length <= tol or gain <= tol**2 * sample.size:
            return ending(sample, lower, upper)
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
    theta: Vector, lower: Vector, upper: Vector, tol: float, first_step: float
) -> Generator[Ask, Sample, Sample]:
    """Run :func:`secant` on a common shift of all hyperparameters; return the best sample."""
    reach = (lower - theta).min(), (upper - theta).max()
    search = secant(np.zeros(1), np.array(reach[:1]), np.array(reach[1:]), tol, first_step)
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
    blocked = outward(sample, lower, upper)
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
