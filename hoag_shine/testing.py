"""Checks for a loss, a problem or a hypergradient method of one's own.

Each returns nothing if all is well, and otherwise raises an AssertionError that says what is wrong,
where, and by how much. Derivatives are held against central differences, extrapolated from two
steps; how far these two disagree says how well the differences themselves are known.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .hypergradients import AdjointProblem, Hypergradient, Method, as_solvers, resolve_method
from .inner.lbfgs import Solution, minimize_lbfgs
from .problems.base import Problem, ProblemSet
from .problems.losses import Loss
from .problems.requests import Evaluate, HessianProduct, run_together
from .utils.validation import (
    check_count,
    check_flag,
    check_positive,
    check_seed,
    check_vector,
    shown,
)

__all__ = ["check_hypergradient", "check_loss", "check_problem"]

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
# Of a loss, as many as make no sense to check.
MOST_OUTPUTS = 1000
# Checked in at most so many coordinates, drawn at random where there are more.
MOST = 20
# The norm of an inner gradient, relative to that at 0, where the problem counts as solved.
SOLVED = 1e-9


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
    ``convex``, ``quadratic``, ``shift_invariant`` and ``target_range``; problems side by side that
    do not see each other; arguments left as they were; a copy that equals the original.

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
    check_count("n_outputs", n_outputs, most=MOST_OUTPUTS)
    y = _targets(loss, n_outputs, rng) if targets is None else _given_targets(targets)
    y = y.reshape(len(y), 1, -1)
    z = _predictors((len(y), 3, y.shape[2]), largest, rng)
    _check_loss_interface(loss, y, z)
    where = _where(y=np.broadcast_to(y, z.shape), z=z)
    step = 1e-4 * np.maximum(1.0, np.abs(z))

    def value_along(e: Array, t: Array) -> Array:
        return np.asarray(loss.value(y, z + t * e).sum(axis=-1))

    def gradient_along(e: Array, t: Array) -> Array:
        return loss.gradient(y, z + t * e)

    for c in range(z.shape[2]):
        e = np.zeros_like(z)
        e[..., c] = 1.0
        _close(
            f"gradient of {loss!r}",
            loss.gradient(y, z)[..., c],
            _difference(partial(value_along, e), step[..., c]),
            rtol,
            where,
        )
        product = loss.hessian_product(loss.hessian(y, z), e)
        _close(
            f"hessian of {loss!r}",
            product,
            _difference(partial(gradient_along, e), step[..., c]),
            rtol,
            where,
        )
        diagonal = loss.hessian_diagonal(loss.hessian(y, z))[..., c]
        _equal(f"hessian_diagonal of {loss!r}", diagonal, product[..., c], 1e-12, where)
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
    sizes = largest * 10.0 ** rng.uniform(-4.0, 0.0, size=shape)
    z = np.asarray(sizes * rng.choice([-1.0, 1.0], size=shape))
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
    where = _where(y=np.broadcast_to(y, z.shape), z=z)
    for name, answer in answers.items():
        shapes = {z.shape, (*z.shape[:-1], 1)} if name == "value" else {z.shape}
        _array(f"{name} of {loss!r}", answer, shapes, where)
    what = f"value_and_gradient of {loss!r}, held against {{}},"
    _equal(what.format("value"), value, answers["value"], 1e-14, where)
    _equal(what.format("gradient"), gradient, answers["gradient"], 1e-14, where)
    alone = loss.gradient(y, z[:, 1:2])
    what = f"gradient of {loss!r}, for one problem beside others,"
    _equal(what, answers["gradient"][:, 1:2], alone, 1e-14, _where(z=z[:, 1:2]))
    _untouched(repr(loss), y=(y, y_before), z=(z, z_before))
    _assert(deepcopy(loss) == loss, f"a copy of {loss!r} does not equal it, but must.")


def _check_loss_promises(loss: Loss, y: Array, z: Array, rng: Any) -> None:
    low, high = loss.target_range
    link = loss.inverse_link(z)
    _assert(
        bool((low <= link).all() and (link <= high).all()),
        f"inverse_link of {loss!r} goes from {link.min():g} to {link.max():g}, and leaves "
        f"target_range, which is {low:g} to {high:g}.",
    )
    loss.check_targets(y)
    hessian = loss.hessian(y, z)
    v = rng.normal(size=z.shape)
    curvature = (v * loss.hessian_product(hessian, v)).sum(axis=-1)
    i = np.unravel_index(np.argmin(curvature), curvature.shape)
    _assert(
        not loss.convex or curvature[i] >= -1e-12 * np.abs(curvature).max(),
        f"{loss!r} promises to be convex, but its second derivative is negative at z={z[i]}, "
        f"y={y[i[0], 0]}: {curvature[i]:g} along {v[i]}.",
    )
    if loss.shift_invariant:
        _equal(
            f"gradient of {loss!r}, which promises shift_invariant, after a shift of z",
            loss.gradient(y, z + 1.0),
            loss.gradient(y, z),
            1e-12,
            _where(z=z),
        )
    if loss.quadratic:
        other, v = rng.normal(size=y.shape), rng.normal(size=z.shape)
        _equal(
            f"sum of {loss!r}, which promises to be quadratic, over both diagonals of a "
            "parallelogram",
            loss.value(y + other, z + v) + loss.value(y - other, z - v),
            2.0 * (loss.value(y, z) + loss.value(other, v)),
            1e-12,
            _where(y=np.broadcast_to(y, z.shape), z=z),
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
    _untouched(_name(problem), w=(w_, before[0]), theta=(theta_, before[1]))


def _check_values(problem: Problem, w: Array, theta: Array, rtol: float, rng: Any) -> None:
    functions: dict[str, Callable[[Array], tuple[float, Array]]] = {
        "value_and_grad": lambda w: problem.value_and_grad(w, theta),
        "outer_value_and_grad": problem.outer_value_and_grad,
    }
    for name, function in functions.items():
        what = f"the gradient in {name} of {_name(problem)}"
        value, grad = function(w)
        _assert(np.ndim(value) == 0 and bool(np.isfinite(value)), f"{name} gives {value!r}.")
        _array(what, grad, {w.shape}, _where(w=w))

        def value_along(f: Callable[[Array], tuple[float, Array]], v: Array, t: float) -> float:
            return f(w + t * v)[0]

        for direction, along in _directions(w.size, rng):
            expected = _difference(partial(value_along, function, direction), 1e-4)
            _close(f"{what}, {along},", grad @ direction, expected, rtol, _nowhere)


def _check_hessian(problem: Problem, w: Array, theta: Array, rtol: float, rng: Any) -> None:
    what = f"hessp of {_name(problem)}"
    product = problem.hessp(w, theta)
    u, v = rng.normal(size=(2, w.size))
    Hu, Hv = np.array(product(u)), np.array(product(v))
    _array(what, Hv, {w.shape}, _nowhere)
    expected = _difference(lambda t: problem.value_and_grad(w + t * v, theta)[1], 1e-4)
    _close(what, Hv, expected, rtol, _where(w=w), scale=float(np.abs(Hv).max()))
    size = float(np.linalg.norm(u) * np.linalg.norm(Hv))
    _assert(
        abs(u @ Hv - v @ Hu) <= 1e-10 * size,
        f"{what} is not symmetric: u @ (H @ v) = {u @ Hv:.10g}, but v @ (H @ u) = {v @ Hu:.10g}.",
    )
    scale = float(np.abs(Hu).max() + np.abs(Hv).max())
    linear = product(2.0 * u - v)
    _equal(f"{what}, of 2 u - v,", linear, 2.0 * Hu - Hv, 1e-10, _nowhere, scale=scale)
    if problem.convex:
        h = problem.penalty_hessian(theta)
        data = v @ Hv - (0.0 if h is None else v @ (h * v))
        _assert(
            data >= -1e-10 * abs(v @ Hv),
            f"{_name(problem)} promises to be convex, but v @ (H @ v) = {data:g} for some v.",
        )


def _check_cross(problem: Problem, w: Array, theta: Array, rtol: float, rng: Any) -> None:
    what = f"cross_vjp of {_name(problem)}"
    q, s = rng.normal(size=w.size), rng.normal(size=theta.size)
    found = problem.cross_vjp(w, theta, q)
    _array(what, found, {theta.shape}, _nowhere)

    def along_q(e: Array, t: float) -> float:
        return float(q @ problem.value_and_grad(w, theta + t * e)[1])

    for j in _some(theta.size, rng):
        expected = _difference(partial(along_q, np.eye(1, theta.size, j)[0]), 1e-3)
        _close(f"{what}, for hyperparameter {j},", found[j], expected, rtol, _nowhere)
    try:
        along = problem.cross_jvp(w, theta, s)
    except NotImplementedError:
        return
    _array(f"cross_jvp of {_name(problem)}", along, {w.shape}, _nowhere)
    size = float(np.linalg.norm(along) * np.linalg.norm(q))
    _assert(
        abs(along @ q - s @ found) <= 1e-10 * size,
        f"cross_jvp of {_name(problem)} is not the transpose of cross_vjp: q @ cross_jvp(s) = "
        f"{along @ q:.10g}, but s @ cross_vjp(q) = {s @ found:.10g}.",
    )


def _check_penalty_hessian(problem: Problem, w: Array, theta: Array, rng: Any) -> None:
    """Check that only half of w' diag(h) w depends on theta, if the problem says so."""
    h = problem.penalty_hessian(theta)
    if h is None:
        return
    what = f"penalty_hessian of {_name(problem)}"
    _array(what, h, {w.shape}, _nowhere)
    _assert(bool((h >= 0.0).all()), f"{what} is negative: its smallest entry is {h.min():g}.")
    other = theta + rng.normal(size=theta.size)
    change = problem.penalty_hessian(other)
    _assert(change is not None, f"{what} is None at one theta and an array at another.")
    change = np.asarray(change) - h
    (value, grad), (value_, grad_) = (problem.value_and_grad(w, t) for t in (theta, other))
    scale = abs(value) + abs(value_)
    expected = 0.5 * w @ (change * w)
    what = f"{{}} of {_name(problem)} between two thetas, held against penalty_hessian,"
    _equal(what.format("the change of value"), value_ - value, expected, 1e-10, _nowhere, scale)
    scale = float(np.abs(grad).max() + np.abs(grad_).max())
    what = what.format("the change of gradient")
    _equal(what, grad_ - grad, change * w, 1e-10, _where(w=w), scale)


def _check_diagonal(problem: Problem, w: Array, theta: Array, rng: Any) -> None:
    diagonal = problem.data_diagonal(w)
    if diagonal is None:
        return
    what = f"data_diagonal of {_name(problem)}"
    _array(what, diagonal, {w.shape}, _nowhere)
    lowest = diagonal.min()
    _assert(bool(lowest >= 0.0), f"{what} is negative: its smallest entry is {lowest:g}.")
    if not problem.convex:
        return
    h = problem.penalty_hessian(theta)
    h = np.zeros_like(w) if h is None else h
    product = problem.hessp(w, theta)
    for j in _some(w.size, rng):
        expected = product(np.eye(1, w.size, j)[0])[j]
        found = diagonal[j] + h[j]
        _equal(f"{what}, plus penalty_hessian, for variable {j},", found, expected, 1e-9, _nowhere)


def _check_set(problems: ProblemSet, rng: Any) -> None:
    theta = rng.normal(size=problems.n_hyperparameters)
    ws = [rng.normal(size=p.n_params) / np.sqrt(p.n_params) for p in problems]
    what = f"{{}} of {type(problems).__name__}, held against member {{}},"
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
                _equal(what.format(name, k), found, expected, 1e-10, _nowhere, scale)


def check_hypergradient(
    method: str | Method,
    problem: Problem,
    *,
    theta: ArrayLike | None = None,
    exact: bool = False,
    tol: float = 1e-10,
    rtol: float = 1e-5,
) -> None:
    """Check that a hypergradient method is what :mod:`hoag_shine.hypergradients` asks for.

    Type, shape and finiteness of the answer, with and without a ``start``; ``n_hvp`` against the
    Hessian products that were asked for; ``residual``, where it is known, against its definition;
    arguments left as they were. For an exact method also the hypergradient itself, against
    differences of the outer loss at tightly solved inner problems.

    Parameters
    ----------
    method : str or callable
        A function or a generator function; its name, if it is one of the library's.
    problem : Problem
        On which to check; the inner problem must be solvable to 1e-9 of its gradient at 0.
    theta : array-like of shape (n_hyperparameters,), optional
        Where to check; 0 if not given.
    exact : bool, default=False
        Whether the method claims to solve ``H q = outer_grad`` to ``tol``.
    tol : float, default=1e-10
        Handed to the method.
    rtol : float, default=1e-5
        Relative error that is allowed in the hypergradient's norm, if ``exact``.

    Raises
    ------
    AssertionError
        If something is wrong.
    ValueError, TypeError
        For bad arguments; the message names them.
    """
    function = resolve_method(method, "method")
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, got {shown(problem)}.")
    check_flag("exact", exact)
    check_positive("tol", tol, zero=True)
    check_positive("rtol", rtol)
    what = method if isinstance(method, str) else getattr(method, "__name__", repr(method))
    d = problem.n_hyperparameters
    theta_ = np.zeros(d) if theta is None else check_vector("theta", theta, d)
    solution = _solve(problem, theta_)
    outer_grad = problem.outer_value_and_grad(solution.w)[1]
    first = _ask(what, function, problem, theta_, solution, outer_grad, tol, None)
    again = _ask(what, function, problem, theta_, solution, outer_grad, tol, 0.9 * first.q)
    if not exact:
        return

    def criterion(e: Array, t: float) -> float:
        w = _solve(problem, theta_ + t * e, solution.w).w
        return float(problem.outer_value_and_grad(w)[0])

    expected = [_difference(partial(criterion, e), 1e-2) for e in np.eye(theta_.size)]
    values = np.array([float(value) for value, _ in expected])
    doubts = np.array([float(doubt) for _, doubt in expected])
    for answer, case in ((first, "without a start"), (again, "with a start")):
        found = -problem.cross_vjp(solution.w, theta_, answer.q)
        _close(
            f"the hypergradient by {what}, {case},",
            found,
            (values, doubts),
            rtol,
            _where(theta=theta_),
            scale=float(np.linalg.norm(values)),
        )


class _Counted:
    """A problem that counts its Hessian products."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.n_hvp = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._problem, name)

    def hessp(self, w: Array, theta: Array) -> Callable[[Array], Array]:
        product = self._problem.hessp(w, theta)

        def counted(v: Array) -> Array:
            self.n_hvp += 1
            return product(v)

        return counted


def _solve(problem: Problem, theta: Array, w: Array | None = None) -> Solution:
    start = problem.value_and_grad(np.zeros(problem.n_params), theta)[1]
    scale = float(np.linalg.norm(start))
    solution = minimize_lbfgs(problem, theta, w, tol=1e-13 * scale, max_iter=20_000)
    norm = float(np.linalg.norm(solution.grad))
    _assert(
        norm <= SOLVED * scale,
        f"{_name(problem)} cannot be solved at theta={theta}: {solution.status.value}, with a "
        f"gradient of norm {norm:.1g}. Check with another problem, or theta.",
    )
    return solution


def _ask(
    what: str,
    method: Method,
    problem: Problem,
    theta: Array,
    solution: Solution,
    outer_grad: Array,
    tol: float,
    start: Array | None,
) -> Hypergradient:
    """Return a method's answer after checking all but its accuracy."""
    counted: Any = _Counted(problem)
    arguments = {"theta": theta, "solution.w": solution.w, "outer_grad": outer_grad}
    arguments |= {} if start is None else {"start": start}
    before = {name: a.copy() for name, a in arguments.items()}
    adjoint = AdjointProblem(counted, theta, solution, outer_grad, tol, accuracy=0.0, start=start)
    call = method(adjoint)
    answer = run_together(ProblemSet([counted]), theta, as_solvers([call]))[0]
    _assert(isinstance(answer, Hypergradient), f"{what} returns {answer!r}, no Hypergradient.")
    _array(f"q of {what}", answer.q, {outer_grad.shape}, _nowhere)
    _assert(
        answer.n_hvp == counted.n_hvp,
        f"{what} reports n_hvp={answer.n_hvp}, but took {counted.n_hvp} Hessian products.",
    )
    _untouched(what, **{name: (arguments[name], before[name]) for name in arguments})
    if not np.isnan(answer.residual):
        error = problem.hessp(solution.w, theta)(answer.q) - outer_grad
        residual = float(np.linalg.norm(error) / np.linalg.norm(outer_grad))
        # Recurrences lose what rounding takes from them.
        _assert(
            abs(answer.residual - residual) <= 1e-6 * residual + 1e-8,
            f"{what} reports residual={answer.residual:.6g}, but it is {residual:.6g}.",
        )
    return answer


# --- comparisons -------------------------------------------------------------------------------

Where = Callable[[tuple[int, ...]], str]


def _difference(
    function: Callable[[Any], Any], step: float | Array
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the derivative at 0 by central differences, and how far it may be trusted.

    ``function`` takes a step, or steps of the shape of its first values for each of them.
    """
    step = np.asarray(step, dtype=np.float64)
    estimates, rounding = [], np.zeros(())
    for h in (step, 0.5 * step):
        # An axis more where several outputs answer to one step.
        ahead, behind = (np.asarray(function(_as_step(s))) for s in (h, -h))
        width = h if ahead.ndim == h.ndim or not h.ndim else h[..., None]
        estimates.append((ahead - behind) / (2.0 * width))
        rounding = 10.0 * EPS * (1.0 + np.abs(ahead) + np.abs(behind)) / width
    coarse, fine = estimates
    return (4.0 * fine - coarse) / 3.0, np.abs(fine - coarse) + rounding


def _as_step(step: NDArray[Any]) -> Any:
    return step[..., None] if step.ndim else float(step)


def _close(
    what: str,
    found: Any,
    difference: tuple[NDArray[Any], NDArray[Any]],
    rtol: float,
    where: Where,
    scale: float = 0.0,
) -> None:
    """Compare with finite differences, as far as these are known, and numbers of size one are."""
    expected, doubt = difference
    allowed = rtol * np.maximum(np.abs(expected), scale) + doubt + 10.0 * EPS
    _within(what, "finite differences say", np.asarray(found), expected, allowed, where)


def _equal(
    what: str, found: Any, expected: Any, rtol: float, where: Where, scale: float = 0.0
) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    allowed = rtol * np.maximum(np.abs(expected), scale or 1.0)
    _within(what, "it should be", found, expected, allowed, where)


def _within(what: str, source: str, found: Any, expected: Any, allowed: Any, where: Where) -> None:
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


def _nowhere(index: tuple[int, ...]) -> str:
    return f" at index {index[0]}" if len(index) == 1 else ""


def _where(**arrays: Array) -> Where:
    """Return how to say at which point something happened."""

    def where(index: tuple[int, ...]) -> str:
        point = ", ".join(f"{name}={array[index]}" for name, array in arrays.items())
        return f" at {point}"

    return where


def _array(what: str, found: Any, shapes: set[tuple[int, ...]], where: Where) -> None:
    _assert(isinstance(found, np.ndarray), f"{what} is {type(found).__name__}, not an ndarray.")
    allowed = " or ".join(map(str, sorted(shapes)))
    _assert(found.shape in shapes, f"{what} has shape {found.shape}, but it must be {allowed}.")
    _assert(found.dtype == np.float64, f"{what} has dtype {found.dtype}, but it must be float64.")
    bad = ~np.isfinite(found)
    if bad.any():
        i = tuple(int(j) for j in np.argwhere(bad)[0])
        raise AssertionError(
            f"{what} is not finite in {int(bad.sum())} of {bad.size} places, first{where(i)}: "
            f"it is {found[i]}."
        )


def _untouched(what: str, **arrays: tuple[Array, Array]) -> None:
    for name, (now, before) in arrays.items():
        _assert(np.array_equal(now, before), f"{what} changes its argument {name} in place.")


def _directions(n: int, rng: Any) -> list[tuple[Array, str]]:
    """Return directions to differentiate along: random ones, and some coordinates."""
    coordinates = [(np.eye(1, n, j)[0], f"for variable {j}") for j in _some(n, rng)]
    return [(rng.normal(size=n) / np.sqrt(n), "in a random direction"), *coordinates]


def _some(n: int, rng: Any) -> list[int]:
    return list(range(n)) if n <= MOST else sorted(rng.choice(n, MOST, replace=False).tolist())


def _name(problem: Any) -> str:
    return type(problem).__name__


def _assert(holds: bool, message: str) -> None:
    # Not the statement, which Python leaves out when it optimises.
    if not holds:
        raise AssertionError(message)
