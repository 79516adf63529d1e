"""Checks of a loss."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..problems.losses import Loss
from ..utils.validation import check_count, check_positive, check_seed, shown
from .comparisons import (
    Array,
    at_point,
    difference,
    of_all_sizes,
    require,
    require_array,
    require_close,
    require_equal,
    require_untouched,
)

# Most outputs of a loss to check.
# Why: by judgement; each costs its own differences, and more show nothing new.
MAX_OUTPUTS = 1000
# Halvings of a way along which a second derivative is looked at.
# Why: as many as leave a distance that a float still tells from nothing.
BISECTIONS = 40
# Change of a second derivative over what is left of the way that counts as a jump, relative to it.
# Why: by judgement; one that is continuous changes by less than a thousandth of that.
LARGEST_JUMP = 1e-6


def check_loss(
    loss: Loss,
    *,
    targets: ArrayLike | None = None,
    n_outputs: int | None = None,
    largest: float = 30.0,
    rtol: float = 1e-6,
    random_state: Any = 0,
) -> None:
    """Check that a loss is what :class:`~hoag_shine.Loss` asks for.

    Shapes and types; values, derivatives and inverse link finite; the first derivative against
    differences of the value, the second against differences of the first; the promises
    ``convex``, ``smooth``, ``quadratic``, ``shift_invariant`` and ``target_range``; problems side
    by side that do not see each other; arguments left as they were; a copy that equals the
    original.

    Parameters
    ----------
    loss : Loss
    targets : array-like of shape (n,) or (n, n_outputs), optional
        Targets to check with; drawn from ``loss.target_range`` if not given.
    n_outputs : int, optional
        Outputs to draw targets for: ``loss.n_predictors``, or 3 for a ``shift_invariant`` loss.
    largest : float, default=30.0
        Largest linear predictor, of either sign, at which the loss has to be finite.
    rtol : float, default=1e-6
        Relative error that is allowed in a derivative.
    random_state : int, RandomState instance or None, default=0

    Raises
    ------
    AssertionError
        If something is wrong.
    ValueError, TypeError
        For bad arguments; the message names them.

    Examples
    --------
    >>> from hoag_shine import LogisticLoss
    >>> from hoag_shine.testing import check_loss
    >>> check_loss(LogisticLoss())
    """
    if not isinstance(loss, Loss):
        raise TypeError(f"loss must be an instance of hoag_shine.Loss, got {shown(loss)}.")
    check_positive("largest", largest)
    check_positive("rtol", rtol)
    rng = check_seed("random_state", random_state)
    if n_outputs is None:
        n_outputs = 3 if loss.shift_invariant else loss.n_predictors
    check_count("n_outputs", n_outputs, most=MAX_OUTPUTS)
    y = _targets(loss, n_outputs, rng) if targets is None else _given_targets(targets)
    y = y.reshape(len(y), 1, -1)
    z = _predictors((len(y), 3, y.shape[2]), largest, rng)
    _check_loss_interface(loss, y, z)
    where = at_point(y=np.broadcast_to(y, z.shape), z=z)
    step = 1e-4 * np.maximum(1.0, np.abs(z))

    def value_along(e: Array, t: Array) -> Array:
        return np.asarray(loss.value(y, z + t * e).sum(axis=-1))

    def gradient_along(e: Array, t: Array) -> Array:
        return loss.gradient(y, z + t * e)

    for c in range(z.shape[2]):
        e = np.zeros_like(z)
        e[..., c] = 1.0
        require_close(
            f"gradient of {loss!r}",
            loss.gradient(y, z)[..., c],
            difference(partial(value_along, e), step[..., c]),
            rtol,
            where,
        )
        product = loss.hessian_product(loss.hessian(y, z), e)
        require_close(
            f"hessian of {loss!r}",
            product,
            difference(partial(gradient_along, e), step[..., c]),
            rtol,
            where,
        )
        diagonal = loss.hessian_diagonal(loss.hessian(y, z))[..., c]
        require_equal(f"hessian_diagonal of {loss!r}", diagonal, product[..., c], 1e-12, where)
    _check_loss_promises(loss, y, z, rng)


def _given_targets(targets: Any) -> Array:
    """Return targets as an array."""
    try:
        y = np.asarray(targets, np.float64)
    except (TypeError, ValueError, OverflowError):
        y = np.empty(0)
    if y.ndim not in (1, 2) or not y.size or not np.isfinite(y).all():
        raise ValueError(
            "targets must hold finite numbers, of shape (n,) or (n, n_outputs), got "
            f"{shown(targets)}."
        )
    return y


def _targets(loss: Loss, n_outputs: int, rng: Any, n: int = 200) -> Array:
    low, high = loss.target_range
    if loss.shift_invariant:
        return np.asarray(np.eye(n_outputs)[rng.randint(n_outputs, size=n)])
    if np.isfinite(high - low):
        ends = rng.choice([low, high], size=(n, n_outputs))
        inside = rng.uniform(low, high, size=(n, n_outputs))
        return np.asarray(np.where(rng.uniform(size=(n, n_outputs)) < 0.75, ends, inside))
    far = 3.0 * rng.normal(size=(n, n_outputs))
    if np.isfinite(low):
        return np.asarray(low + np.abs(far))
    return np.asarray(high - np.abs(far) if np.isfinite(high) else far)


def _predictors(shape: tuple[int, ...], largest: float, rng: Any) -> Array:
    """Return predictors of all sizes up to the largest, and of both signs, with zero."""
    z = of_all_sizes(shape, largest, rng)
    z[:: max(1, len(z) // 4)] = np.array([0.0, largest, -largest])[: z.shape[1], None]
    return z


def _check_loss_interface(loss: Loss, y: Array, z: Array) -> None:
    """Check shapes, types and finiteness, and that nothing is changed or mixed."""
    y_before, z_before = y.copy(), z.copy()
    value, gradient = loss.value_and_gradient(y, z)
    hessian = loss.hessian(y, z)
    answers = {
        "value": loss.value(y, z),
        "gradient": loss.gradient(y, z),
        "hessian_product": loss.hessian_product(hessian, np.ones_like(z)),
        "hessian_diagonal": loss.hessian_diagonal(hessian),
        "inverse_link": loss.inverse_link(z),
    }
    where = at_point(y=np.broadcast_to(y, z.shape), z=z)
    for name, answer in answers.items():
        shapes = {z.shape, (*z.shape[:-1], 1)} if name == "value" else {z.shape}
        require_array(f"{name} of {loss!r}", answer, shapes, where)
    what = f"value_and_gradient of {loss!r}, compared with {{}},"
    require_equal(what.format("value"), value, answers["value"], 1e-14, where)
    require_equal(what.format("gradient"), gradient, answers["gradient"], 1e-14, where)
    alone = loss.gradient(y, z[:, 1:2])
    what = f"gradient of {loss!r}, for one problem beside others,"
    require_equal(what, answers["gradient"][:, 1:2], alone, 1e-14, at_point(z=z[:, 1:2]))
    require_untouched(repr(loss), y=(y, y_before), z=(z, z_before))
    require(deepcopy(loss) == loss, f"a copy of {loss!r} does not equal it, but must.")


def _check_loss_promises(loss: Loss, y: Array, z: Array, rng: Any) -> None:
    low, high = loss.target_range
    link = loss.inverse_link(z)
    require(
        bool((low <= link).all() and (link <= high).all()),
        f"inverse_link of {loss!r} goes from {link.min():g} to {link.max():g}, and leaves "
        f"target_range, which is {low:g} to {high:g}.",
    )
    loss.check_targets(y)
    hessian = loss.hessian(y, z)
    v = rng.normal(size=z.shape)
    curvature = (v * loss.hessian_product(hessian, v)).sum(axis=-1)
    i = np.unravel_index(np.argmin(curvature), curvature.shape)
    require(
        not loss.convex or curvature[i] >= -1e-12 * np.abs(curvature).max(),
        f"{loss!r} promises to be convex, but its second derivative is negative at z={z[i]}, "
        f"y={y[i[0], 0]}: {curvature[i]:g} along {v[i]}.",
    )
    if loss.smooth:
        _check_smooth(loss, y, z)
    if loss.shift_invariant:
        require_equal(
            f"gradient of {loss!r}, which promises shift_invariant, after a shift of z",
            loss.gradient(y, z + 1.0),
            loss.gradient(y, z),
            1e-12,
            at_point(z=z),
        )
    if loss.quadratic:
        other, v = rng.normal(size=y.shape), rng.normal(size=z.shape)
        require_equal(
            f"sum of {loss!r}, which promises to be quadratic, over both diagonals of a "
            "parallelogram",
            loss.value(y + other, z + v) + loss.value(y - other, z - v),
            2.0 * (loss.value(y, z) + loss.value(other, v)),
            1e-12,
            at_point(y=np.broadcast_to(y, z.shape), z=z),
        )


def _check_smooth(loss: Loss, y: Array, z: Array) -> None:
    """Look for a jump of the second derivative on each line from z to -z, by bisection."""

    def second(point: Array) -> Array:
        return loss.hessian_diagonal(loss.hessian(y, point))

    def change(one: Array, other: Array) -> Array:
        return np.asarray(np.abs(second(one) - second(other)).max(axis=-1, keepdims=True))

    low, high = z, -z
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        first = change(low, middle) >= change(middle, high)
        low, high = np.where(first, low, middle), np.where(first, middle, high)
    sizes = np.abs(second(low)).max(axis=-1, keepdims=True)
    jumps = (change(low, high) / np.maximum(sizes, 1.0))[..., 0]
    i = np.unravel_index(np.argmax(jumps), jumps.shape)
    require(
        bool(jumps[i] <= LARGEST_JUMP),
        f"{loss!r} promises to be smooth, but its second derivative jumps at z={low[i]}, "
        f"y={y[i[0], 0]}: from {second(low)[i]} to {second(high)[i]}.",
    )
