"""Checks of a penalty."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np

from ..problems.penalties import Penalty
from ..utils.validation import check_positive, check_seed, shown
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


def check_penalty(
    penalty: Penalty, *, largest: float = 10.0, rtol: float = 1e-6, random_state: Any = 0
) -> None:
    """Check that a penalty is what :class:`~hoag_shine.Penalty` asks for.

    Shapes, types and finiteness; zero at zero, nowhere below, and even; the first derivative
    against differences of the value, the second against differences of the first; the promises
    ``convex`` and ``quadratic``; the prox, where there is one, against its definition; arguments
    left as they were; a copy that equals the original.

    Parameters
    ----------
    penalty : Penalty
    largest : float, default=10.0
        Largest coefficient, of either sign, at which the penalty has to be finite.
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
    >>> from hoag_shine import L2
    >>> from hoag_shine.testing import check_penalty
    >>> check_penalty(L2())
    """
    if not isinstance(penalty, Penalty):
        raise TypeError(f"penalty must be an instance of hoag_shine.Penalty, got {shown(penalty)}.")
    check_positive("largest", largest)
    check_positive("rtol", rtol)
    rng = check_seed("random_state", random_state)
    w = of_all_sizes(200, largest, rng)
    w[:3] = 0.0, largest, -largest
    before, where = w.copy(), at_point(w=w)
    value, gradient, hessian = penalty.value(w), penalty.gradient(w), penalty.hessian(w)
    for name, answer in {"value": value, "gradient": gradient, "hessian": hessian}.items():
        require_array(f"{name} of {penalty!r}", answer, {w.shape}, where)
    step = 1e-4 * np.maximum(1.0, np.abs(w))

    def along(function: Any, t: Any) -> Any:
        return function(w[:, None] + t)[:, 0]

    for name, found, function in (
        ("gradient", gradient, penalty.value),
        ("hessian", hessian, penalty.gradient),
    ):
        expected = difference(partial(along, function), step)
        require_close(f"{name} of {penalty!r}", found, expected, rtol, where)
    _check_promises(penalty, w, value, hessian)
    _check_prox(penalty, w, rng)
    require_untouched(repr(penalty), w=(w, before))
    require(deepcopy(penalty) == penalty, f"a copy of {penalty!r} does not equal it, but must.")
    hash(penalty)


def _check_promises(penalty: Penalty, w: Array, value: Array, hessian: Array) -> None:
    where = at_point(w=w)
    require(value[0] == 0.0, f"{penalty!r} is {value[0]:g} at zero, where it must be zero.")
    lowest = int(np.argmin(value))
    require(
        bool(value[lowest] >= 0.0), f"{penalty!r} is negative at w={w[lowest]}: {value[lowest]:g}."
    )
    require_equal(f"value of {penalty!r} at -w", penalty.value(-w), value, 1e-12, where)
    lowest = int(np.argmin(hessian))
    require(
        not penalty.convex or hessian[lowest] >= -1e-12 * np.abs(hessian).max(),
        f"{penalty!r} promises to be convex, but its second derivative is negative at "
        f"w={w[lowest]}: {hessian[lowest]:g}.",
    )
    if penalty.quadratic:
        what = f"hessian of {penalty!r}, which promises to be quadratic,"
        require_equal(what, hessian, np.ones_like(w), 1e-12, where)


def _check_prox(penalty: Penalty, w: Array, rng: Any) -> None:
    """Check that no point near by is better than the prox, if there is one."""
    step = 10.0 ** rng.uniform(-2.0, 1.0, size=w.size)
    try:
        found = penalty.prox(w, step)
    except NotImplementedError:
        return

    def objective(v: Array) -> Array:
        return np.asarray(0.5 * (v - w) ** 2 + step * penalty.value(v))

    reached = objective(found)
    for shift in (-1e-3, -1e-5, 1e-5, 1e-3):
        other = found + shift * np.maximum(1.0, np.abs(w))
        worse = reached - objective(other) > 1e-12 * (1.0 + np.abs(reached))
        i = int(np.argmax(worse))
        require(
            not worse.any(),
            f"prox of {penalty!r} at w={w[i]}, step={step[i]:.6g} is {found[i]:.8g}, but "
            f"{other[i]:.8g} is better.",
        )
