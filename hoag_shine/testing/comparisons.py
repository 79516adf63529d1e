"""Comparisons that say what is wrong, where, and by how much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..linalg.precision import EPSILON
from ..problems.base import Problem
from ..utils.validation import check_vector, shown

Array = NDArray[np.float64]
# Most coordinates that are checked; drawn at random where there are more.
# Why: by judgement: a mistake in more than a tenth of the coordinates is met nearly nine times in
# ten.
MAX_COORDINATES = 20

Where = Callable[[tuple[int, ...]], str]


def difference(
    function: Callable[[Any], Any], step: float | Array
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the derivative at 0 by central differences, and a bound of its error.

    ``function`` takes a step, or an array of steps, one for each of its values.
    """
    step = np.asarray(step, dtype=np.float64)
    estimates, rounding = [], np.zeros(())
    for h in (step, 0.5 * step):
        # One more axis where a step changes several outputs.
        ahead, behind = (np.asarray(function(_as_step(s))) for s in (h, -h))
        width = h if ahead.ndim == h.ndim or not h.ndim else h[..., None]
        estimates.append((ahead - behind) / (2.0 * width))
        rounding = 10.0 * EPSILON * (1.0 + np.abs(ahead) + np.abs(behind)) / width
    # Richardson's extrapolation: the errors of the two are h**2 and h**2 / 4 times the same number.
    coarse, fine = estimates
    return (4.0 * fine - coarse) / 3.0, np.abs(fine - coarse) + rounding


def _as_step(step: NDArray[Any]) -> Any:
    return step[..., None] if step.ndim else float(step)


def require_close(
    what: str,
    found: Any,
    difference: tuple[NDArray[Any], NDArray[Any]],
    rtol: float,
    where: Where,
    scale: float = 0.0,
) -> None:
    """Compare with finite differences, to their accuracy and that of numbers of size one."""
    expected, doubt = difference
    allowed = rtol * np.maximum(np.abs(expected), scale) + doubt + 10.0 * EPSILON
    require_within(what, "finite differences say", np.asarray(found), expected, allowed, where)


def require_equal(
    what: str, found: Any, expected: Any, rtol: float, where: Where, scale: float = 0.0
) -> None:
    """Raise unless found equals expected, to ``rtol`` of its size or of a scale."""
    found, expected = np.asarray(found), np.asarray(expected)
    allowed = rtol * np.maximum(np.abs(expected), scale or 1.0)
    require_within(what, "it should be", found, expected, allowed, where)


def require_within(
    what: str, source: str, found: Any, expected: Any, allowed: Any, where: Where
) -> None:
    """Raise if a difference is larger than allowed; name the worst one."""
    excess = np.abs(found - expected) / np.maximum(allowed, 1e-300)
    wrong = ~(excess <= 1.0)
    if not wrong.any():
        return
    worst = np.unravel_index(int(np.argmax(np.where(wrong, excess, 0.0))), np.shape(excess))
    i = tuple(int(axis) for axis in worst)
    f, e = float(np.asarray(found)[i]), float(np.asarray(expected)[i])
    relative = abs(f - e) / abs(e) if e else np.inf
    share = (
        f"in {int(wrong.sum())} of {wrong.size} places, worst{where(i)}" if wrong.size > 1 else ""
    )
    raise AssertionError(
        f"{what} is wrong {share}: it is {f:.8g}, but {source} {e:.8g} (relative error "
        f"{relative:.2g}).".replace("  ", " ").replace(" :", ":")
    )


def nowhere(index: tuple[int, ...]) -> str:
    """Say where, by the index alone."""
    return f" at index {index[0]}" if len(index) == 1 else ""


def at_point(**arrays: Array) -> Where:
    """Return a function that says at which point something happened."""

    def where(index: tuple[int, ...]) -> str:
        point = ", ".join(f"{name}={array[index]}" for name, array in arrays.items())
        return f" at {point}"

    return where


def require_array(what: str, found: Any, shapes: set[tuple[int, ...]], where: Where) -> None:
    """Raise unless found is a finite float64 array of one of the shapes."""
    require(isinstance(found, np.ndarray), f"{what} is {type(found).__name__}, not an ndarray.")
    allowed = " or ".join(map(str, sorted(shapes)))
    require(found.shape in shapes, f"{what} has shape {found.shape}, but it must be {allowed}.")
    require(found.dtype == np.float64, f"{what} has dtype {found.dtype}, but it must be float64.")
    bad = ~np.isfinite(found)
    if bad.any():
        i = tuple(int(j) for j in np.argwhere(bad)[0])
        raise AssertionError(
            f"{what} is not finite in {int(bad.sum())} of {bad.size} places, first{where(i)}: "
            f"it is {found[i]}."
        )


def require_untouched(what: str, **arrays: tuple[Array, Array]) -> None:
    """Raise if an argument differs from its copy, so that it has been changed."""
    for name, (now, before) in arrays.items():
        require(np.array_equal(now, before), f"{what} changes its argument {name} in place.")


def directions(n: int, rng: Any) -> list[tuple[Array, str]]:
    """Return directions to differentiate along: random ones, and some coordinates."""
    coordinates = [(np.eye(1, n, j)[0], f"for variable {j}") for j in some(n, rng)]
    return [(rng.normal(size=n) / np.sqrt(n), "in a random direction"), *coordinates]


def some(n: int, rng: Any) -> list[int]:
    """Return all coordinates, or a random choice where they are many."""
    return (
        list(range(n))
        if n <= MAX_COORDINATES
        else sorted(rng.choice(n, MAX_COORDINATES, replace=False).tolist())
    )


def name_of(problem: Any) -> str:
    """Return the name of the class."""
    return type(problem).__name__


def require(holds: bool, message: str) -> None:
    """Raise an AssertionError with a message unless something holds."""
    # Not the ``assert`` statement, which Python leaves out when it optimises.
    if not holds:
        raise AssertionError(message)


def given_name(function: Any) -> str:
    """Return the name that a solver or method was given by, or else its own."""
    return function if isinstance(function, str) else getattr(function, "__name__", repr(function))


def of_all_sizes(shape: int | tuple[int, ...], largest: float, rng: Any) -> Array:
    """Return numbers of both signs, from a ten-thousandth of the largest up to it."""
    sizes = largest * 10.0 ** rng.uniform(-4.0, 0.0, size=shape)
    return np.asarray(sizes * rng.choice([-1.0, 1.0], size=shape))


def problem_at(problem: Any, theta: ArrayLike | None) -> tuple[Problem, Array]:
    """Return a problem and where to check it: at theta, or at zero."""
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, got {shown(problem)}.")
    d = problem.n_hyperparameters
    return problem, np.zeros(d) if theta is None else check_vector("theta", theta, d)
