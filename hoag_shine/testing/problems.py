"""Checks of a problem."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..problems.base import Problem, ProblemSet
from ..problems.requests import Evaluate, HessianProduct
from ..utils.validation import check_positive, check_seed, check_vector, shown
from .comparisons import (
    Array,
    at_point,
    difference,
    directions,
    name_of,
    nowhere,
    require,
    require_array,
    require_close,
    require_equal,
    require_untouched,
    some,
)


def check_problem(
    problem: Problem | ProblemSet,
    *,
    theta: ArrayLike | None = None,
    w: ArrayLike | None = None,
    rtol: float = 1e-5,
    random_state: Any = 0,
) -> None:
    """Check that a problem is what :class:`~hoag_shine.Problem` asks for.

    The gradient, the outer gradient, ``hessp`` and ``cross_vjp`` against differences; the symmetry
    and linearity of ``hessp``; ``cross_jvp``, where there is one, against ``cross_vjp``; the
    promises of ``penalty_hessian``, ``data_diagonal`` and ``convex``; shapes, types, finiteness,
    and arguments left as they were. For a set, all of this for each member, and that the set
    answers as its members do.

    Parameters
    ----------
    problem : Problem or ProblemSet
    theta : array-like of shape (n_hyperparameters,), optional
        Where to check; around 0 if not given.
    w : array-like of shape (n_params,), optional
        Where to check; normally distributed, of norm one, if not given.
    rtol : float, default=1e-5
        Relative error that is allowed in a derivative.
    random_state : int, RandomState instance or None, default=0

    Raises
    ------
    AssertionError
        If something is wrong.
    ValueError, TypeError
        For bad arguments; the message names them.
    """
    check_positive("rtol", rtol)
    rng = check_seed("random_state", random_state)
    if isinstance(problem, ProblemSet):
        for member in problem:
            check_problem(member, theta=theta, w=w, rtol=rtol, random_state=rng)
        _check_set(problem, rng)
        return
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem or a ProblemSet, got {shown(problem)}.")
    n, d = problem.n_params, problem.n_hyperparameters
    theta_ = rng.normal(size=d) if theta is None else check_vector("theta", theta, d)
    w_ = rng.normal(size=n) / np.sqrt(n) if w is None else check_vector("w", w, n)
    before = w_.copy(), theta_.copy()
    _check_values(problem, w_, theta_, rtol, rng)
    _check_cross(problem, w_, theta_, rtol, rng)
    _check_penalty_hessian(problem, w_, theta_, rng)
    _check_hessian(problem, w_, theta_, rtol, rng)
    _check_diagonal(problem, w_, theta_, rng)
    require_untouched(name_of(problem), w=(w_, before[0]), theta=(theta_, before[1]))


def _check_values(problem: Problem, w: Array, theta: Array, rtol: float, rng: Any) -> None:
    functions: dict[str, Callable[[Array], tuple[float, Array]]] = {
        "value_and_grad": lambda w: problem.value_and_grad(w, theta),
        "outer_value_and_grad": problem.outer_value_and_grad,
    }
    for name, function in functions.items():
        what = f"the gradient in {name} of {name_of(problem)}"
        value, grad = function(w)
        require(np.ndim(value) == 0 and bool(np.isfinite(value)), f"{name} gives {value!r}.")
        require_array(what, grad, {w.shape}, at_point(w=w))

        def value_along(f: Callable[[Array], tuple[float, Array]], v: Array, t: float) -> float:
            return f(w + t * v)[0]

        for direction, along in directions(w.size, rng):
            expected = difference(partial(value_along, function, direction), 1e-4)
            require_close(f"{what}, {along},", grad @ direction, expected, rtol, nowhere)


def _check_hessian(problem: Problem, w: Array, theta: Array, rtol: float, rng: Any) -> None:
    what = f"hessp of {name_of(problem)}"
    product = problem.hessp(w, theta)
    u, v = rng.normal(size=(2, w.size))
    Hu, Hv = np.array(product(u)), np.array(product(v))
    require_array(what, Hv, {w.shape}, nowhere)
    expected = difference(lambda t: problem.value_and_grad(w + t * v, theta)[1], 1e-4)
    require_close(what, Hv, expected, rtol, at_point(w=w), scale=float(np.abs(Hv).max()))
    size = float(np.linalg.norm(u) * np.linalg.norm(Hv))
    require(
        abs(u @ Hv - v @ Hu) <= 1e-10 * size,
        f"{what} is not symmetric: u @ (H @ v) = {u @ Hv:.10g}, but v @ (H @ u) = {v @ Hu:.10g}.",
    )
    scale = float(np.abs(Hu).max() + np.abs(Hv).max())
    linear = product(2.0 * u - v)
    require_equal(f"{what}, of 2 u - v,", linear, 2.0 * Hu - Hv, 1e-10, nowhere, scale=scale)
    if problem.convex:
        h = problem.penalty_hessian(theta)
        data = v @ Hv - (0.0 if h is None else v @ (h * v))
        require(
            data >= -1e-10 * abs(v @ Hv),
            f"{name_of(problem)} promises to be convex, but v @ (H @ v) = {data:g} for some v.",
        )


def _check_cross(problem: Problem, w: Array, theta: Array, rtol: float, rng: Any) -> None:
    what = f"cross_vjp of {name_of(problem)}"
    q, s = rng.normal(size=w.size), rng.normal(size=theta.size)
    found = problem.cross_vjp(w, theta, q)
    require_array(what, found, {theta.shape}, nowhere)

    def along_q(e: Array, t: float) -> float:
        return float(q @ problem.value_and_grad(w, theta + t * e)[1])

    for j in some(theta.size, rng):
        expected = difference(partial(along_q, np.eye(1, theta.size, j)[0]), 1e-3)
        require_close(f"{what}, for hyperparameter {j},", found[j], expected, rtol, nowhere)
    try:
        along = problem.cross_jvp(w, theta, s)
    except NotImplementedError:
        return
    require_array(f"cross_jvp of {name_of(problem)}", along, {w.shape}, nowhere)
    size = float(np.linalg.norm(along) * np.linalg.norm(q))
    require(
        abs(along @ q - s @ found) <= 1e-10 * size,
        f"cross_jvp of {name_of(problem)} is not the transpose of cross_vjp: q @ cross_jvp(s) = "
        f"{along @ q:.10g}, but s @ cross_vjp(q) = {s @ found:.10g}.",
    )


def _check_penalty_hessian(problem: Problem, w: Array, theta: Array, rng: Any) -> None:
    """Check that only half of w' diag(h) w depends on theta, if the problem says so."""
    h = problem.penalty_hessian(theta)
    if h is None:
        return
    what = f"penalty_hessian of {name_of(problem)}"
    require_array(what, h, {w.shape}, nowhere)
    require(bool((h >= 0.0).all()), f"{what} is negative: its smallest entry is {h.min():g}.")
    other = theta + rng.normal(size=theta.size)
    change = problem.penalty_hessian(other)
    require(change is not None, f"{what} is None at one theta and an array at another.")
    change = np.asarray(change) - h
    (value, grad), (value_, grad_) = (problem.value_and_grad(w, t) for t in (theta, other))
    scale = abs(value) + abs(value_)
    expected = 0.5 * w @ (change * w)
    what = f"{{}} of {name_of(problem)} between two thetas, compared with penalty_hessian,"
    require_equal(
        what.format("the change of value"), value_ - value, expected, 1e-10, nowhere, scale
    )
    scale = float(np.abs(grad).max() + np.abs(grad_).max())
    what = what.format("the change of gradient")
    require_equal(what, grad_ - grad, change * w, 1e-10, at_point(w=w), scale)


def _check_diagonal(problem: Problem, w: Array, theta: Array, rng: Any) -> None:
    diagonal = problem.data_diagonal(w)
    if diagonal is None:
        return
    what = f"data_diagonal of {name_of(problem)}"
    require_array(what, diagonal, {w.shape}, nowhere)
    lowest = diagonal.min()
    require(bool(lowest >= 0.0), f"{what} is negative: its smallest entry is {lowest:g}.")
    if not problem.convex:
        return
    h = problem.penalty_hessian(theta)
    h = np.zeros_like(w) if h is None else h
    product = problem.hessp(w, theta)
    for j in some(w.size, rng):
        expected = product(np.eye(1, w.size, j)[0])[j]
        found = diagonal[j] + h[j]
        require_equal(
            f"{what}, plus penalty_hessian, for variable {j},", found, expected, 1e-9, nowhere
        )


def _check_set(problems: ProblemSet, rng: Any) -> None:
    theta = rng.normal(size=problems.n_hyperparameters)
    ws = [rng.normal(size=p.n_params) / np.sqrt(p.n_params) for p in problems]
    what = f"{{}} of {type(problems).__name__}, compared with member {{}},"
    values = problems.answer({k: Evaluate(w) for k, w in enumerate(ws)}, theta)
    products = problems.answer({k: HessianProduct(w, w) for k, w in enumerate(ws)}, theta)
    outer = problems.outer_values_and_grads(ws)
    diagonals = problems.data_diagonals(ws)
    for k, (member, w) in enumerate(zip(problems, ws, strict=True)):
        pairs: dict[str, tuple[Any, Any]] = {
            "answer to Evaluate": (values[k], member.value_and_grad(w, theta)),
            "answer to HessianProduct": ((products[k],), (member.hessp(w, theta)(w),)),
            "outer_values_and_grads": (outer[k], member.outer_value_and_grad(w)),
        }
        if diagonals[k] is not None:
            pairs["data_diagonals"] = ((diagonals[k],), (member.data_diagonal(w),))
        for name, (together, alone) in pairs.items():
            for found, expected in zip(together, alone, strict=True):
                scale = float(np.abs(expected).max())
                require_equal(what.format(name, k), found, expected, 1e-10, nowhere, scale)
