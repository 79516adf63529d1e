"""True values: criteria and coefficients of drawn problems, without the library's solvers.

Every fold is written out as a convex problem of its own and solved by Newton's method on dense
arrays. With more columns than training rows it is solved in the rows' span, of which a pivoted QR
of the columns, scaled by the roots of their penalties, gives a basis. The last steps are a
refinement: gradients in extended precision, in all coordinates, so that neither a bad basis nor a
bad Hessian harms more than the number of steps. What the last step still changed says how accurate
the reference is; where that is not enough, a case is undecided, and nobody's failure.

The formulas are those of scikit-learn's user guide and of the docstrings of this package. Nothing
is imported from the package but what is under test.

Run as a script, it tries more problems than the tests do::

    python tests/truth.py --n 500 --seed 3 --only ridge
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import qr, solve_triangular
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    GammaRegressor,
    HuberRegressor,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    TweedieRegressor,
)
from sklearn.model_selection import (
    KFold,
    LeaveOneOut,
    PredefinedSplit,
    RepeatedKFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
    check_cv,
)
from sklearn.svm import LinearSVC

from hoag_shine import GeneralizedLinear, Loss, ShineCV

LONG = np.longdouble

# What a result promises of its criterion, relative to it, beside its own ``error``.
PROMISED = 3e-6
# A criterion is a number near zero where it is less than this share of the null model's loss.
NULL_SHARE = 1e-3
# Coefficients and predictions of the final fit, relative to their norms.
COEFFICIENTS = 1e-3
# A reference that is not known to this share of the criterion decides nothing.
DECISIVE = 1e-8
# No search of so small data may take longer.
MOST_SECONDS = 20.0


# Losses: value, gradient and second derivative in the linear predictors, which are of shape
# (problems, rows, outputs). Second derivatives have two axes of outputs. The last is a curvature
# that is safe to descend with where the second derivative says nothing, as far from a robust fit.


def logistic(y, z):
    sign = 2.0 * y - 1.0
    value = np.logaddexp(np.zeros_like(z), -sign * z)
    slope = expit(z) * expit(-z)
    return value[..., 0], -sign * expit(-sign * z), slope[..., None], np.full_like(z, 0.25)


def squared(y, z):
    two = np.full_like(z, 2.0)
    return ((z - y) ** 2)[..., 0], 2.0 * (z - y), two[..., None], two


def squared_hinge(y, z):
    short = np.maximum(0.0, 1.0 - y * z)
    steep = 2.0 * y**2
    return (short**2)[..., 0], -2.0 * y * short, (steep * (short > 0.0))[..., None], steep + 0.0 * z


def log_cosh(y, z):
    r = np.abs(z - y)
    value = r + np.log1p(np.exp(-2.0 * r)) - np.log(LONG(2.0))
    e = np.exp(-2.0 * r)
    slope = 4.0 * e / (1.0 + e) ** 2
    size = -np.expm1(-2.0 * r) / (1.0 + e)  # tanh r
    safe = np.where(r > 0.0, size / np.where(r > 0.0, r, 1.0), 1.0)
    return value[..., 0], np.sign(z - y) * size, slope[..., None], safe


def tweedie(power):
    """Return the unit deviance of this power for the mean exp(z)."""

    def loss(y, z):
        mean = np.exp(z)
        if power == 0:
            value = (y - mean) ** 2
        elif power == 1:
            positive = y > 0.0
            r = z - np.log(np.where(positive, y, 1.0))
            value = np.where(positive, 2.0 * y * (np.expm1(r) - r), 2.0 * mean)
        elif power == 2:
            r = np.log(y) - z
            value = 2.0 * (np.expm1(r) - r)
        else:
            a, b = 1.0 - power, 2.0 - power
            value = 2.0 * (y**b / (a * b) - y * np.exp(a * z) / a + np.exp(b * z) / b)
        first, second = np.exp((1.0 - power) * z) * y, np.exp((2.0 - power) * z)
        gradient = 2.0 * (second - first)
        slope = 2.0 * ((2.0 - power) * second - (1.0 - power) * first)
        safe = 2.0 * (np.abs(2.0 - power) * second + np.abs(1.0 - power) * first)
        return value[..., 0], gradient, slope[..., None], safe

    return loss


def softmax(y, z):
    top = z.max(axis=-1, keepdims=True)
    e = np.exp(z - top)
    total = e.sum(axis=-1, keepdims=True)
    value = (top + np.log(total))[..., 0] - (y * z).sum(axis=-1)
    p = e / total
    hessian = p[..., None] * np.eye(z.shape[-1]) - p[..., None] * p[..., None, :]
    return value, p - y, hessian, np.full_like(z, 0.5)


def huber(epsilon, smallest):
    """Return Huber's loss of location z0 and scale z1, extended to scales below zero.

    The residual is kept above ``smallest``, so that a perfect fit has a scale.
    """

    def loss(y, z):
        difference, sigma = z[..., 0] - y[..., 0], z[..., 1]
        r = np.hypot(difference, LONG(smallest).astype(z.dtype))
        inside = r < epsilon * sigma
        c = np.where(inside, r / np.where(inside, sigma, 1.0), epsilon)
        slope = difference / r
        value = 2.0 * c * r + (1.0 - c * c) * sigma
        gradient = np.stack([2.0 * c * slope, 1.0 - c * c], axis=-1)
        steep = np.where(inside, 2.0 / np.where(inside, sigma, 1.0), 0.0)
        flat = 2.0 * c * (smallest / r) ** 2 / r
        hessian = np.empty((*r.shape, 2, 2), dtype=z.dtype)
        hessian[..., 0, 0] = steep * slope**2 + flat
        hessian[..., 0, 1] = hessian[..., 1, 0] = -steep * c * slope
        hessian[..., 1, 1] = steep * c * c
        away = 2.0 * c / np.maximum(np.abs(sigma), smallest)
        return value, gradient, hessian, np.stack([2.0 * c / r, c * away], axis=-1)

    return loss


# The exact solver.


@dataclass(frozen=True)
class Problems:
    """Convex problems over the same rows: weighted losses and a diagonal penalty.

    Attributes
    ----------
    loss : callable
    X : (n, q) longdouble
        With a column of ones for intercepts.
    y : (B, n, m)
    train : (B, n)
        Weights of the training losses.
    h : (B, q, m)
        Penalties: 1/2 h w^2.
    free : (q, m) bool
        Which coefficients the model has.
    start : (B, q, m)
    """

    loss: Callable
    X: Any
    y: Any
    train: Any
    h: Any
    free: Any
    start: Any

    def take(self, chosen):
        parts = (a[chosen] for a in (self.y, self.train, self.h, self.start))
        y, train, h, start = parts
        return Problems(self.loss, self.X, y, train, h, self.free, start)


def predictors(X, w):
    """Return X w of shape (B, n, m) for w of shape (B, q, m), in the precision of w."""
    X = X.astype(w.dtype)
    flat = np.moveaxis(w, 1, 0).reshape(len(X.T), -1)
    return np.moveaxis((X @ flat).reshape(len(X), w.shape[0], w.shape[2]), 0, 1)


def transposed(X, g):
    """Return X' g of shape (B, q, m) for g of shape (B, n, m)."""
    flat = np.moveaxis(g, 1, 0).reshape(len(X), -1)
    return np.moveaxis((X.T @ flat).reshape(len(X.T), g.shape[0], g.shape[2]), 0, 1)


class Reduced:
    """The same problems in a few variables each: w = E v, where v has the penalty k.

    E has the coefficients themselves, or, where these outnumber the training rows, a basis of the
    rows' span that is orthonormal in the metric of the penalty.
    """

    def __init__(self, problems):
        self.p = problems
        B, q, m = problems.h.shape
        X = problems.X.astype(np.float64)
        rows = (problems.train > 0.0).sum(axis=1).min()
        self.wide = (problems.h[0] > 0.0).sum(axis=0).max() > rows
        blocks = [[self._basis(X, b, o) for o in range(m)] for b in range(B)]
        V = max(sum(E.shape[1] for E, *_ in row) for row in blocks)
        self.E = np.zeros((B, q * m, V))
        self.k = np.ones((B, V))
        self.M = np.zeros((B, len(X), m, V))
        self.spanned = np.zeros((B, q, m), dtype=bool)
        for b, row in enumerate(blocks):
            at = 0
            for o, (E, k, M) in enumerate(row):
                here = slice(at, at + E.shape[1])
                self.E[b, o::m, here] = E
                self.k[b, here] = k
                self.M[b, :, o, here] = M
                at += E.shape[1]
            if self.wide:
                self.spanned[b] = (problems.h[b] > 0.0) & problems.free

    def _basis(self, X, b, o):
        """Return a block of E, its penalties, and the training rows times it."""
        h, free = self.p.h[b, :, o], self.p.free[:, o]
        eye = np.eye(len(h))
        if not self.wide:
            return eye[:, free], h[free], X[:, free]
        some, rest = free & (h > 0.0), free & ~(h > 0.0)
        if not some.any():
            return eye[:, rest], h[rest], X[:, rest]
        rows = np.flatnonzero(self.p.train[b] > 0.0)
        root, weight = np.sqrt(h[some]), np.sqrt(self.p.train[b, rows])
        Z = (X[rows][:, some] / root * weight[:, None]).T
        order = np.argsort(-np.abs(Z).max(axis=1))  # rows by size, so that none drowns
        Q, R, pivots = qr(Z[order], mode="economic", pivoting=True)
        span = np.zeros((len(h), Q.shape[1]))
        span[np.flatnonzero(some)[order]] = Q / root[order][:, None]
        M = np.zeros((len(X), Q.shape[1] + rest.sum()))
        M[rows[pivots], : Q.shape[1]] = (R / weight[pivots]).T
        M[:, Q.shape[1] :] = X[:, rest]
        return np.hstack([span, eye[:, rest]]), np.r_[np.ones(Q.shape[1]), h[rest]], M

    def expand(self, v):
        return np.einsum("bjv,bv->bj", self.E, v).reshape(self.p.h.shape)


def newton_steps(M, k, curvature, g, *, by_qr):
    """Return -H^-1 g for the Hessians H = M' curvature M + diag(k).

    By their entries, with the diagonal scaled to one; or, slowly, by a QR of their roots, which
    loses half as many digits.
    """
    if by_qr:
        return np.stack([_step_by_qr(*each) for each in zip(M, k, curvature, g, strict=True)])
    B, n, m, V = M.shape
    if m == 1:
        weighted = (curvature[..., 0] * M[:, :, 0]).reshape(B, n, V)
    else:
        weighted = (curvature @ M).reshape(B, n * m, V)
    H = M.reshape(B, n * m, V).transpose(0, 2, 1) @ weighted
    diagonal = np.arange(V)
    H[:, diagonal, diagonal] += k
    d = np.sqrt(np.maximum(H[:, diagonal, diagonal], 0.0))
    d = np.where((d > 0.0) & np.isfinite(d), d, 1.0)
    S = H / d[:, :, None] / d[:, None, :]
    S = np.where(np.isfinite(S), S, 0.0)
    S[:, diagonal, diagonal] += 1e-15
    try:
        step = np.linalg.solve(S, (g / d)[..., None])[..., 0]
    except np.linalg.LinAlgError:
        S[:, diagonal, diagonal] += 1e-10
        step = np.linalg.solve(S, (g / d)[..., None])[..., 0]
    return -step / d


def _step_by_qr(M, k, curvature, g):
    if M.shape[1] == 1:
        root = np.sqrt(np.maximum(curvature[:, 0], 0.0))[..., None]
    else:
        values, vectors = np.linalg.eigh(np.where(np.isfinite(curvature), curvature, 0.0))
        root = np.sqrt(np.maximum(values, 0.0))[..., None] * vectors.transpose(0, 2, 1)
    A = np.vstack([(root @ M).reshape(-1, len(g)), np.diag(np.sqrt(k))])
    A = np.where(np.isfinite(A), A, 0.0)
    d = np.linalg.norm(A, axis=0)
    d = np.where(d > 0.0, d, 1.0)
    A = np.vstack([A / d, 1e-16 * np.eye(len(g))])
    A = A[np.argsort(-np.abs(A).max(axis=1))]
    R, pivots = qr(A, mode="r", pivoting=True)
    R = R[: len(g)]
    half = solve_triangular(R, (g / d)[pivots], trans="T", check_finite=False)
    step = np.empty_like(g)
    step[pivots] = solve_triangular(R, half, check_finite=False)
    return -step / d


def solve(problems, functional, *, thorough):
    """Return w, ``functional(z, w, chosen)`` of it and an estimate of the norm of its error.

    What Newton's method does not find at once is left, or, where ``thorough``, looked for along a
    path of penalties, and once more in slow and careful steps.
    """
    reduced = Reduced(problems)
    every = np.arange(len(problems.h))
    w = reduced.expand(newton(reduced))
    w, f, error = refine(reduced, w, lambda z, w: functional(z, w, every))
    for by_qr in (False, True) if thorough else ():
        known = error <= 1e-11 * np.linalg.norm(f.astype(np.float64), axis=1)
        hard = np.flatnonzero(~known)
        if hard.size == 0:
            break
        reduced = Reduced(problems.take(hard))
        again = reduced.expand(path(reduced, by_qr=by_qr))
        look = partial(_some, functional, hard)
        better = refine(reduced, again, look, by_qr=by_qr)
        closer = better[2] < error[hard]
        for a, b in zip((w, f, error), better, strict=True):
            a[hard[closer]] = b[closer]
    return w, f, error


def _some(functional, chosen, z, w):
    return functional(z, w, chosen)


def newton(reduced, v=None, times=1.0, max_iter=40, *, by_qr=False):
    """Minimise by a damped Newton method in double precision; return v of shape (B, V).

    The penalties count ``times`` times as much.
    """
    p, k = reduced.p, times * reduced.k
    B, n, m, V = reduced.M.shape
    if v is None:  # of coefficients that E has as they are, such as intercepts
        v = np.einsum("bjv,bj->bv", reduced.E, p.start.reshape(B, -1))
    damping = np.zeros(B)
    active = np.arange(B)
    train = p.train.astype(np.float64)[..., None]
    used = train > 0.0

    def evaluate(v, b):
        z = (reduced.M[b].reshape(len(b), n * m, V) @ v[..., None]).reshape(len(b), n, m)
        value, gradient, curvature, safe = p.loss(p.y[b], z)
        F = np.where(used[b, :, 0], train[b, :, 0] * value, 0.0).sum(axis=1)
        gradient = np.where(used[b], train[b] * gradient, 0.0)
        curvature = np.where(used[b, ..., None], train[b, ..., None] * curvature, 0.0)
        safe = np.where(used[b], train[b] * safe, 0.0)
        return [F + 0.5 * (k[b] * v**2).sum(axis=1), gradient, curvature, safe]

    now = evaluate(v, active)
    o = np.arange(m)
    for _ in range(max_iter):
        F, gradient, curvature, safe = now
        M = reduced.M[active]
        g = M.reshape(len(M), n * m, V).transpose(0, 2, 1) @ gradient.reshape(len(M), -1, 1)
        g = g[..., 0] + k[active] * v[active]
        curvature = curvature.copy()
        curvature[..., o, o] += damping[active, None, None] * safe
        step = newton_steps(M, k[active], curvature, g, by_qr=by_qr)
        decrement = -(g * step).sum(axis=1)
        todo = np.flatnonzero(decrement > 0.0)
        # Where rounding hides the descent, the full step is as good as the gradient.
        blind = decrement <= 1e-11 * np.abs(F)
        t = np.ones(len(active))
        taken = np.zeros(len(active), dtype=bool)
        for halving in range(30):
            if todo.size == 0:
                break
            at = v[active[todo]] + t[todo, None] * step[todo]
            new = evaluate(at, active[todo])
            target = F[todo] - 1e-4 * t[todo] * decrement[todo]
            slack = np.where(blind[todo] & (halving == 0), 1e-12 * np.abs(F[todo]), 0.0)
            good = new[0] <= target + slack
            chosen = todo[good]
            v[active[chosen]] = at[good]
            for a, b in zip(now, new, strict=True):
                a[chosen] = b[good]
            taken[chosen] = True
            todo = todo[~good]
            t[todo] *= 0.5
        whole = taken & (t == 1.0)
        hard = ~taken | (t < 0.1)
        damping[active[whole]] = np.where(
            damping[active[whole]] > 1e-8, 0.1 * damping[active[whole]], 0.0
        )
        damping[active[hard]] = np.maximum(10.0 * damping[active[hard]], 1e-4)
        over = (damping[active] > 1e4) | (whole & (decrement <= 1e-14 * np.abs(F)))
        now = [a[~over] for a in now]
        active = active[~over]
        if active.size == 0:
            break
    return v


def path(reduced, *, by_qr):
    """Go from large penalties to those wanted, for losses whose pieces are many."""
    v = None
    for times in 10.0 ** np.arange(9, -1, -1):
        v = newton(reduced, v, times, by_qr=by_qr)
    return v


def refine(reduced, w, functional, max_steps=12, *, by_qr=False):
    """Improve w by Newton steps whose gradients are in extended precision.

    Returns w, what ``functional(z, w)`` of shape (B, L) is of it, and an estimate of the norm of
    its error: infinite where no step has been made that does not ascend.
    """
    p = reduced.p
    h, train, y = p.h.astype(LONG), p.train.astype(LONG)[..., None], p.y.astype(LONG)
    used = train > 0.0
    B = len(h)
    error = np.full(B, np.inf)
    best = None
    w = w.astype(LONG)
    alive = np.ones(B, dtype=bool)
    for _ in range(max_steps):
        z = predictors(p.X, w)
        value, gradient, curvature, _ = p.loss(y, z)
        F = np.where(used[..., 0], train[..., 0] * value, 0.0).sum(axis=1)
        F = F + 0.5 * (h * w**2).sum(axis=(1, 2))
        f = functional(z, w)
        if best is None:
            best = [w, f, F]
        else:
            change = np.linalg.norm((f - best[1]).astype(np.float64), axis=1)
            down = best[2] + 1e-15 * np.abs(best[2]) >= F
            better = down & (change <= error)
            error = np.where(better, change, error)
            for a, b in zip(best, (w, f, F), strict=True):
                a[better] = b[better]
            size = np.linalg.norm(f.astype(np.float64), axis=1)
            alive &= better & (error > 1e-13 * size)
            if not alive.any():
                break
        g = np.where(p.free, transposed(p.X, np.where(used, train * gradient, 0.0)) + h * w, 0.0)
        curved = np.where(used[..., None], train[..., None] * curvature, 0.0)
        gv = np.einsum("bjv,bj->bv", reduced.E, g.reshape(B, -1).astype(np.float64))
        curved = curved.astype(np.float64)
        step = newton_steps(reduced.M, reduced.k, curved, gv, by_qr=by_qr)
        step = reduced.expand(step).astype(LONG)
        if reduced.wide:
            step += outside(reduced, g)
        w = best[0] + np.where(np.isfinite(step) & alive[:, None, None], step, 0.0)
    return best[0], best[1], error


def outside(reduced, g):
    """Return the step out of the basis's span, where only the penalty has curvature."""
    h, spanned = reduced.p.h, reduced.spanned
    step = np.where(spanned, g / np.where(spanned, h, 1.0), 0.0)
    # Twice, so that no rounding is left where the curvature is large.
    for _ in range(2):
        flat = (h * step).reshape(len(h), -1).astype(np.float64)
        inside = reduced.expand(np.einsum("bjv,bj->bv", reduced.E, flat))
        step = step - np.where(spanned, inside, 0.0)
    return -step


# Estimators: what each minimises, by scikit-learn's user guide.


@dataclass(frozen=True)
class Kind:
    """What an estimator fits: a loss, its targets and weights, and its penalty in units of alpha.

    Attributes
    ----------
    make : callable
        Given a generator and the drawn options, returns the estimator.
    loss : callable
        Given the estimator and y, returns the loss.
    targets : str
        "real", "positive", "counts", "classes" or "labels".
    strength : float
        h / alpha.
    n : int
        Classes or targets.
    coded : str
        How targets are given to the loss: "as is", "0/1", "-1/1" or "one-hot".
    normalised : bool
        Whether training weights sum to one.
    """

    make: Callable
    loss: Callable
    targets: str
    strength: float = 2.0
    n: int = 1
    coded: str = "as is"
    normalised: bool = False
    convex: bool = True


class LogCosh(Loss):
    """Grows linearly: a loss of one's own."""

    convex = True

    def value(self, y, z):
        r = np.abs(z - y)
        return r + np.log1p(np.exp(-2.0 * r)) - np.log(2.0)

    def gradient(self, y, z):
        return np.tanh(z - y)

    def hessian(self, y, z):
        e = np.exp(-2.0 * np.abs(z - y))
        return 4.0 * e / (1.0 + e) ** 2


def _fixed(loss):
    return lambda estimator, y: loss


def _huber_of(estimator, y):
    size = np.median(np.abs(y - np.median(y) * estimator.fit_intercept)) or np.abs(y).max() or 1.0
    return huber(estimator.epsilon, 1e-9 * size)


def _power(estimator, y):
    return (
        squared if estimator.power == 0 and estimator.link == "auto" else tweedie(estimator.power)
    )


def _classifier(cls, **options):
    return lambda rng, common: cls(**options, **common, class_weight=_class_weight(rng))


def _class_weight(rng):
    return [None, None, None, "balanced", {1: 4.0}][rng.integers(5)]


def _own(make):
    return lambda rng, common: GeneralizedLinear(make(), **common)


def _plain(cls, **options):
    return lambda rng, common: cls(**options, **common)


def _built_in(name, *arguments):
    def make():
        import hoag_shine

        return getattr(hoag_shine, name)(*arguments)

    return make


def _choice(rng, options):
    return options[rng.integers(len(options))]


KINDS = {
    "logistic": Kind(_classifier(LogisticRegression), _fixed(logistic), "classes", 1.0, 2, "0/1"),
    "logistic-liblinear": Kind(
        _classifier(LogisticRegression, solver="liblinear"),
        _fixed(logistic),
        "classes",
        1.0,
        2,
        "0/1",
    ),
    "multinomial": Kind(
        _classifier(LogisticRegression), _fixed(softmax), "classes", 1.0, 3, "one-hot"
    ),
    "svc": Kind(_classifier(LinearSVC), _fixed(squared_hinge), "classes", 1.0, 2, "-1/1"),
    "svc-classes": Kind(_classifier(LinearSVC), _fixed(squared_hinge), "classes", 1.0, 3, "-1/1"),
    "ridge": Kind(_plain(Ridge), _fixed(squared), "real"),
    "ridge-targets": Kind(_plain(Ridge), _fixed(squared), "real", n=3),
    "ridge-classifier": Kind(
        _classifier(RidgeClassifier), _fixed(squared), "classes", 2.0, 2, "-1/1"
    ),
    "ridge-classifier-classes": Kind(
        _classifier(RidgeClassifier), _fixed(squared), "classes", 2.0, 3, "-1/1"
    ),
    "huber": Kind(
        lambda rng, common: HuberRegressor(epsilon=_choice(rng, [1.35, 1.1, 3.0]), **common),
        _huber_of,
        "outliers",
    ),
    "poisson": Kind(_plain(PoissonRegressor), _fixed(tweedie(1)), "counts", normalised=True),
    "gamma": Kind(_plain(GammaRegressor), _fixed(tweedie(2)), "positive", normalised=True),
    "tweedie": Kind(
        lambda rng, common: TweedieRegressor(power=_choice(rng, [1.2, 1.5, 1.9]), **common),
        _power,
        "counts",
        normalised=True,
    ),
    "tweedie-normal": Kind(_plain(TweedieRegressor), _power, "real", normalised=True),
    "tweedie-cubic": Kind(
        _plain(TweedieRegressor, power=3), _power, "positive", normalised=True, convex=False
    ),
    "own-loss": Kind(_own(LogCosh), _fixed(log_cosh), "real", 1.0),
    "built-in-squared": Kind(_own(_built_in("SquaredLoss")), _fixed(squared), "real", 1.0),
    "built-in-logistic": Kind(_own(_built_in("LogisticLoss")), _fixed(logistic), "0/1", 1.0, 1),
    "built-in-hinge": Kind(
        _own(_built_in("SquaredHingeLoss")), _fixed(squared_hinge), "-1/1", 1.0, 1
    ),
    "built-in-poisson": Kind(
        _own(_built_in("TweedieLoss", 1.0)), _fixed(tweedie(1)), "counts", 1.0
    ),
}


# Drawn problems.


@dataclass
class Drawn:
    """A problem: what ShineCV is given."""

    seed: int
    name: str
    estimator: Any
    X: Any
    y: Any
    sample_weight: Any
    cv: Any
    penalty: Any
    options: dict
    ordinary: bool
    notes: dict = field(default_factory=dict)

    @property
    def kind(self):
        return KINDS[self.name]

    def __str__(self):
        about = " ".join(f"{key}={value}" for key, value in self.notes.items())
        return f"seed {self.seed} ({self.name}): {about}"


def draw(seed):
    """Return the problem of that number."""
    names = list(KINDS)
    name = names[seed % len(names)]
    kind, rng = KINDS[name], np.random.default_rng([16, seed])
    notes = {}
    n, p = _size(rng, notes)
    Z = _columns(rng, n, p, notes)
    y, plain_target = _target(rng, kind, Z, notes)
    X, plain_scale = _scaled(rng, Z, notes)
    X = _layout(rng, X, notes)
    weight, plain_weight = _weights(rng, n, notes)
    cv = _folds(rng, kind, y, weight, notes)
    if not _usable(cv, kind, y, weight):
        weight, notes["weights"] = None, "none"
    common = {"fit_intercept": bool(rng.random() < 0.85)}
    if not common["fit_intercept"]:
        notes["intercept"] = False
    estimator = kind.make(rng, common)
    if hasattr(estimator, "intercept_scaling") and rng.random() < 0.3:
        estimator.set_params(intercept_scaling=2.0)
    if getattr(estimator, "class_weight", None) is not None:
        notes["class_weight"] = estimator.class_weight
    penalty = _penalty(rng, kind, Z, notes)
    options = {"max_iter": int(rng.integers(3, 12))}
    if rng.random() < 0.15:
        options["tol"] = 1e-3
    if rng.random() < 0.2:
        options["hypergradient"] = _choice(rng, ["cg", "shine"])
    if rng.random() < 0.3:
        options["init"] = float(10.0 ** rng.uniform(-4, 4))
    notes.update(options)
    ordinary = plain_target and plain_scale and plain_weight and notes["X"] != "counts"
    return Drawn(seed, name, estimator, X, y, weight, cv, penalty, options, ordinary, notes)


def _size(rng, notes):
    shape = _choice(rng, ["wide", "wide", "square", "tall", "tall"])
    if rng.random() < 0.02:
        n = int(rng.integers(60, 121))
        p = {"wide": int(rng.integers(150, 301)), "square": n, "tall": n // 3}[shape]
    elif shape == "wide":
        n = int(rng.integers(14, 36))
        p = int(rng.integers(n + 4, 90))
    elif shape == "square":
        n = int(rng.integers(14, 28))
        p = n + int(rng.integers(-2, 3))
    else:
        n, p = int(rng.integers(30, 81)), int(rng.integers(1, 11))
    notes |= {"n": n, "p": p}
    return n, p


def _columns(rng, n, p, notes):
    """Return columns of about unit scale."""
    kind = _choice(rng, ["normal", "normal", "correlated", "genotypes", "counts", "sparse"])
    notes["X"] = kind
    if kind == "normal":
        Z = rng.normal(size=(n, p))
    elif kind == "correlated":
        r = max(1, min(n, p) // 3)
        Z = rng.normal(size=(n, r)) @ rng.normal(size=(r, p)) / np.sqrt(r)
        Z += 0.1 * rng.normal(size=(n, p))
    elif kind == "genotypes":
        Z = rng.binomial(2, rng.uniform(0.05, 0.5, p), size=(n, p)).astype(float)
    elif kind == "counts":
        Z = rng.poisson(10.0 ** rng.uniform(-0.5, 1.0, p), size=(n, p)).astype(float)
    else:
        Z = rng.normal(size=(n, p)) * (rng.random((n, p)) < 0.3)
    odd = []
    if rng.random() < 0.1:
        Z[:, 0] = 1.0
        odd.append("constant")
    if rng.random() < 0.05:
        Z[:, -1] = 0.0
        odd.append("empty")
    if rng.random() < 0.1 and p > 2:
        Z[:, 1] = Z[:, 2]
        odd.append("twin columns")
    if rng.random() < 0.1:
        Z[: n // 4] = Z[n // 4 : 2 * (n // 4)]
        odd.append("twin rows")
    if kind == "normal" and rng.random() < 0.2:
        Z += 5.0 * rng.normal(size=p)
        odd.append("off centre")
    if odd:
        notes["odd"] = "+".join(odd)
    return Z


def _target(rng, kind, Z, notes):
    n, p = Z.shape
    beta = rng.normal(size=(p, kind.n)) * (rng.random((p, 1)) < max(0.3, 2.0 / p))
    beta[p // 2] = rng.normal(size=kind.n)
    signal = (Z - Z.mean(axis=0)) @ beta
    signal /= np.where(signal.std(axis=0) > 0.0, signal.std(axis=0), 1.0)
    noise = _choice(rng, [0.0, 0.3, 0.3, 1.0, 1.0, 3.0])
    notes["noise"] = noise
    plain = noise > 0.0
    seen = signal + noise * rng.normal(size=signal.shape)
    if kind.targets == "classes":
        if kind.n == 2:
            score = seen[:, 0] - seen[:, 1]
            return (score > np.quantile(score, rng.uniform(0.3, 0.7))).astype(int), plain
        y = seen.argmax(axis=1)
        if np.bincount(y, minlength=kind.n).min() < 4:
            y[: 4 * kind.n] = np.tile(np.arange(kind.n), 4)
        return y, plain
    seen = seen if kind.n > 1 else seen[:, 0]
    if kind.targets == "0/1":
        return (seen > np.median(seen)).astype(float), plain
    if kind.targets == "-1/1":
        return np.sign(seen - np.median(seen) + 1e-9), plain
    seen = np.clip(seen, -5.0, 5.0)
    unit = 1.0 if rng.random() < 0.7 else 10.0 ** rng.uniform(-3, 4)
    if isinstance(kind.make(rng, {}), GeneralizedLinear) and kind.targets == "real":
        unit = min(unit, 10.0)  # losses of one's own need not know of units
    if unit != 1.0:
        notes["unit"] = float(f"{unit:.2g}")
    if kind.targets == "counts":
        y = rng.poisson(np.exp(1.0 + 0.5 * seen)).astype(float)
        y[:2] += 1.0
        return y * unit, True
    if kind.targets == "positive":
        return unit * np.exp(0.5 * seen) * (rng.gamma(3.0, size=n) if noise else 1.0), plain
    if kind.targets == "outliers":
        seen = seen + 20.0 * rng.normal(size=n) * (rng.random(n) < 0.1)
    return unit * (seen + _choice(rng, [0.0, 0.0, 3.0])), plain


def _scaled(rng, Z, notes):
    way = _choice(rng, ["as is", "as is", "as is", "common", "common", "mixed", "wildly mixed"])
    p = Z.shape[1]
    if way == "as is":
        return Z, True
    low, high = {"common": (-6, 9), "mixed": (-2, 2), "wildly mixed": (-6, 9)}[way]
    scale = 10.0 ** rng.uniform(low, high, 1 if way == "common" else p)
    notes["scale"] = f"{scale.min():.1g}" + (f"..{scale.max():.1g}" if way != "common" else "")
    return Z * scale, way == "mixed"


def _layout(rng, X, notes):
    dtype = _choice(rng, [np.float64, np.float64, np.float64, np.float32])
    layout = _choice(rng, ["C", "F", "csr"])
    notes["layout"] = f"{layout}{8 * np.dtype(dtype).itemsize}"
    X = X.astype(dtype)
    return {"C": np.ascontiguousarray, "F": np.asfortranarray, "csr": sparse.csr_array}[layout](X)


def _weights(rng, n, notes):
    way = _choice(rng, ["none", "none", "none", "uniform", "counts", "huge", "huge and zero"])
    if way == "none":
        return None, True
    notes["weights"] = way
    if way == "uniform":
        return rng.uniform(0.5, 2.0, n), True
    if way == "counts":
        return rng.integers(0, 4, n).astype(float), True
    weight = 10.0 ** rng.uniform(0, 8, n)
    if way == "huge and zero":
        weight[rng.random(n) < 0.2] = 0.0
    return weight, False


def _folds(rng, kind, y, weight, notes):
    n = len(y)
    way = _choice(
        rng,
        [
            "number",
            "number",
            "shuffled",
            "repeated",
            "one out",
            "time",
            "overlapping",
            "custom",
            "bootstrap",
            "predefined",
        ],
    )
    if way == "one out" and n > 26:
        way = "shuffled"
    seed = int(rng.integers(1000))
    split, repeated = KFold, RepeatedKFold
    if kind.targets == "classes":
        split, repeated = StratifiedKFold, RepeatedStratifiedKFold
    ends = rng.permutation(n)
    cv = {
        "number": 3,
        "shuffled": split(4, shuffle=True, random_state=seed),
        "repeated": repeated(n_splits=3, n_repeats=2, random_state=seed),
        "one out": LeaveOneOut(),
        "time": TimeSeriesSplit(3),
        "overlapping": ShuffleSplit(4, test_size=0.3, random_state=seed),
        "custom": [(ends[n // 3 :], ends[: n // 3]), (ends[: -n // 4], ends[-n // 4 :])],
        "bootstrap": [(rng.integers(0, n, n), rng.permutation(n)[: n // 2]) for _ in range(3)],
        "predefined": PredefinedSplit(np.where(np.arange(n) % 3 == 0, 0, -1)),
    }[way]
    if not _usable(cv, kind, y, weight):
        way, cv = "halves", split(2, shuffle=True, random_state=seed)
    notes["cv"] = way
    return cv


def _usable(cv, kind, y, weight):
    """Whether every fold has weight, each class of y, and targets that are not all zero."""
    weight = np.ones(len(y)) if weight is None else weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            splits = splits_of(cv, kind, y)
        except (UserWarning, ValueError):  # too few of a class
            return False
    for train, test in splits:
        used = train[weight[train] > 0.0]
        if not weight[test].any() or used.size < 2:
            return False
        if kind.targets == "classes" and np.unique(y[used]).size < kind.n:
            return False
        if kind.targets in ("counts", "0/1", "-1/1") and np.unique(y[used]).size < 2:
            return False
    return True


def splits_of(cv, kind, y):
    splitter = check_cv(cv, y, classifier=kind.targets == "classes")
    return list(splitter.split(np.zeros((len(y), 1)), y))


def _penalty(rng, kind, Z, notes):
    n, p = Z.shape
    ways = ["shared", "shared", "groups", "feature", "output"]
    way = _choice(rng, ways)
    if way == "output" and kind.n < 3:
        way = "shared"
    if way == "feature" and p > 30:
        way = "groups"
    if way == "groups" and p < 4:
        way = "feature"
    if way == "shared":
        return "shared"
    notes["penalty"] = way
    if way != "groups":
        return way
    labels = rng.integers(0, int(rng.integers(2, 4)), p)
    labels[:2] = 0, 1
    free = Z.std(axis=0) > 0.3
    if rng.random() < 0.3 and kind.targets in ("real", "outliers") and n > 20 and free[3]:
        labels[3] = -1
        notes["penalty"] = "groups, one free"
    return labels


# True values of a drawn problem.


class Truth:
    """The exact values of a drawn problem at given penalties."""

    def __init__(self, drawn, *, thorough=True):
        self.drawn, self.thorough, kind = drawn, thorough, drawn.kind
        X = drawn.X.toarray() if sparse.issparse(drawn.X) else drawn.X
        self.n, self.p = X.shape
        estimator = drawn.estimator
        self.intercept = bool(estimator.fit_intercept)
        self.couples = drawn.name in ("multinomial", "huber")
        self.X = np.column_stack([X.astype(LONG), np.ones(self.n, dtype=LONG)])
        self.weight = np.ones(self.n) if drawn.sample_weight is None else drawn.sample_weight
        self.splits = splits_of(drawn.cv, kind, drawn.y)
        self.loss = kind.loss(estimator, drawn.y)
        self.Y = self._targets()  # (n, outputs)
        self.n_outputs = 1 if drawn.name == "huber" else self.Y.shape[1]
        self.free = np.ones((self.p + 1, self.Y.shape[1]), dtype=bool)
        self.free[-1] = self.intercept
        if drawn.name == "huber":
            self.free[:-1, 1], self.free[-1, 1] = False, True
        if drawn.name == "multinomial":  # a constant in all classes changes nothing
            self.free[-1, -1] = False
        if not self.couples:
            self.free = self.free[:, :1]

    def _targets(self):
        kind, y = self.drawn.kind, self.drawn.y
        if kind.targets == "classes":
            member = (y[:, None] == np.arange(kind.n)).astype(float)
            if kind.n == 2:
                member = member[:, 1:]
            return 2.0 * member - 1.0 if kind.coded == "-1/1" else member
        y = np.asarray(y, dtype=float)
        y = y[:, None] if y.ndim == 1 else y
        return np.column_stack([y, np.zeros_like(y)]) if self.drawn.name == "huber" else y

    def training_weights(self, times):
        """Return (n, outputs), or one column where the outputs are coupled."""
        kind, y, name = self.drawn.kind, self.drawn.y, self.drawn.name
        drawn = times * self.weight
        outputs = 1 if self.couples else self.n_outputs
        if kind.normalised:
            drawn = drawn / drawn.sum()
        weights = np.repeat(drawn[:, None], outputs, axis=1)
        asked = getattr(self.drawn.estimator, "class_weight", None)
        if asked is None:
            return weights
        if asked == "balanced":
            # Of rows for RidgeClassifier, of their weights for the others.
            counted = times if name.startswith("ridge") else drawn
            mass = np.bincount(y, counted, minlength=kind.n)
            per_class = mass.sum() / (kind.n * mass)
        else:
            per_class = np.array([asked.get(c, 1.0) for c in range(kind.n)])
        if name == "svc-classes":  # liblinear weighs a class only against the rest
            positive = y[:, None] == np.arange(kind.n)
            return weights * np.where(positive, per_class[y][:, None], 1.0)
        return weights * per_class[y][:, None]

    def strengths(self, params, names):
        """Return h of shape (p + 1, outputs), given ``params`` as in ``best_params_``."""
        ((parameter, value),) = params.items()
        alpha = np.atleast_1d(np.asarray(value, dtype=float))
        alpha = 1.0 / alpha if parameter == "C" else alpha
        alpha = self.drawn.kind.strength * alpha
        h = np.zeros((self.p + 1, self.n_outputs))
        penalty = self.drawn.penalty
        if isinstance(penalty, str):
            h[:-1] = alpha[:, None] if penalty == "feature" else alpha
        else:
            of = dict(zip(names, alpha, strict=True))
            h[:-1] = np.array([of.get(label, 0.0) for label in penalty])[:, None]
        liblinear = self.drawn.name in ("logistic-liblinear", "svc", "svc-classes")
        common = isinstance(penalty, str) and penalty in ("shared", "output")
        if liblinear and self.intercept and common:
            # The coefficient of one more column, which is intercept_scaling everywhere.
            h[-1] = alpha / self.drawn.estimator.intercept_scaling**2
        if self.drawn.name == "huber":
            h = np.column_stack([h, np.zeros(self.p + 1)])
        return h

    def _problems(self, strengths, times):
        """Return the problems of (penalties, folds, outputs), in this order."""
        weights = [self.training_weights(t) for t in times]  # each (n, O)
        y, train, hs = [], [], []
        for h in strengths:
            for w in weights:
                if self.couples:
                    y.append(self.Y)
                    train.append(w[:, 0])
                    hs.append(h)
                    continue
                for o in range(self.n_outputs):
                    y.append(self.Y[:, [o]])
                    train.append(w[:, o])
                    hs.append(h[:, [o]])
        y, train, hs = np.stack(y), np.stack(train), np.stack(hs)
        start = np.zeros_like(hs)
        start[:, -1] = self._guess(y, train)
        return Problems(self.loss, self.X, y, train, hs, self.free, start * self.free)

    def _guess(self, y, train):
        """Return intercepts to start from."""
        mean = np.einsum("bn,bnm->bm", train / train.sum(axis=1, keepdims=True), y)
        kind = self.drawn.kind
        if self.drawn.name == "huber":
            centre = np.median(self.Y[:, 0]) if self.intercept else 0.0
            size = np.median(np.abs(self.Y[:, 0] - centre)) or 1.0
            return np.array([centre, size])
        if kind.targets in ("counts", "positive"):
            return np.log(np.maximum(mean, 1e-300))
        return mean if kind.loss(self.drawn.estimator, None) is squared else 0.0 * mean

    def criteria(self, strengths):
        """Return the criterion at each of several penalties, and what its error may be."""
        times = [np.bincount(train, minlength=self.n).astype(float) for train, _ in self.splits]
        p = self._problems(strengths, times)
        held = np.stack(
            [np.bincount(test, minlength=self.n) * self.weight for _, test in self.splits]
        )
        held = held / held.sum(axis=1, keepdims=True)
        outputs = 1 if self.couples else self.n_outputs
        test = np.tile(np.repeat(held, outputs, axis=0), (len(strengths), 1)).astype(LONG)

        def functional(z, w, chosen):
            value = p.loss(p.y[chosen].astype(LONG), z)[0]
            v = test[chosen]
            return np.where(v > 0.0, v * value, 0.0).sum(axis=1, keepdims=True)

        _, values, errors = solve(p, functional, thorough=self.thorough)
        shape = len(strengths), -1
        null = functional(predictors(p.X, p.start.astype(LONG)), None, slice(None)).mean()
        return (
            values.reshape(shape).mean(axis=1).astype(float),
            10.0 * errors.reshape(shape).mean(axis=1),
            float(null),
        )

    def fit(self, h):
        """Return coefficients (p, outputs), intercepts and their relative error, for all rows."""
        p = self._problems([h], [np.ones(self.n)])
        root = np.sqrt(p.h)

        def functional(z, w, chosen):
            parts = [z[..., : 1 if self.drawn.name == "huber" else None], root[chosen] * w]
            flat = [a.reshape(len(a), -1) for a in parts]
            sizes = [np.linalg.norm(a.astype(float), axis=1, keepdims=True) for a in flat]
            return np.hstack(
                [a / np.where(s > 0.0, s, 1.0) for a, s in zip(flat, sizes, strict=True)]
            )

        w, _, errors = solve(p, functional, thorough=self.thorough)
        if self.couples:
            w = w[0]
            if self.drawn.name == "multinomial":
                w[-1] -= w[-1].mean()
        else:
            w = w[:, :, 0].T
        return w[:-1, : self.n_outputs], w[-1, : self.n_outputs], 10.0 * float(errors.max())


# The comparison.


@dataclass
class Verdict:
    """What came of one problem."""

    drawn: Drawn
    failures: dict = field(default_factory=dict)
    undecided: list = field(default_factory=list)
    warned: bool = False
    seconds: float = 0.0
    messages: list = field(default_factory=list)

    def __str__(self):
        what = "; ".join(f"{kind}: {text}" for kind, text in self.failures.items())
        return f"{self.drawn}\n    {what}"


class TooSlow(Exception):
    """A search has taken far too long."""


@contextlib.contextmanager
def limit(seconds):
    """End what takes more of the processor's time, where the platform can."""
    if not hasattr(signal, "SIGPROF"):
        yield
        return

    def late(signum, frame):
        raise TooSlow

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def check(seed, *, thorough=False, patience=1.25 * MOST_SECONDS):
    """Fit the problem of that number and compare it with the truth.

    With ``thorough``, whatever it takes: all records of the history, and all references.
    """
    drawn = draw(seed)
    verdict = Verdict(drawn)
    search = ShineCV(drawn.estimator, cv=drawn.cv, penalty=drawn.penalty, **drawn.options)
    begin = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with limit(patience):
                search.fit(drawn.X, drawn.y, sample_weight=drawn.sample_weight)
        except TooSlow:
            verdict.failures["slow"] = f"ended after {patience:g} s"
            return verdict
        except Exception as error:  # noqa: BLE001
            verdict.failures["raised"] = f"{type(error).__name__}: {error}"
            return verdict
        finally:
            verdict.seconds = time.process_time() - begin
    if verdict.seconds > MOST_SECONDS:
        verdict.failures["slow"] = f"{verdict.seconds:.1f} s"
    verdict.messages = [str(w.message) for w in caught]
    for w in caught:
        if not issubclass(w.category, ConvergenceWarning):
            verdict.failures["other warning"] = f"{w.category.__name__}: {w.message}"
    # That a search was ended early says nothing of the values that it returns.
    verdict.warned = any("search ended" not in message for message in verdict.messages)
    if verdict.warned and drawn.ordinary:
        verdict.failures["warns"] = next(m for m in verdict.messages if "search ended" not in m)
    with np.errstate(all="ignore"):
        truth = Truth(drawn, thorough=thorough)
        _check_history(verdict, search, truth)
        _check_fit(verdict, search, truth)
    return verdict


def _check_history(verdict, search, truth):
    history, best = search.history_, search.best_index_
    chosen = sorted(range(len(history)) if truth.thorough else {best, len(history) // 2})
    strengths = [truth.strengths(history[i]["params"], search.penalty_names_) for i in chosen]
    values, errors, null = truth.criteria(strengths)
    promised = min(0.5 * search.tol**2, PROMISED)
    for i, true, error in zip(chosen, values, errors, strict=True):
        record = history[i]
        found, claimed = record["criterion"], record["error"]
        name = "best_score" if i == best else "history"
        if i == best and found != -search.best_score_:
            verdict.failures["best_score is not history's"] = f"{found} {search.best_score_}"
        if not (np.isfinite(found) and found >= 0.0 and claimed >= 0.0):  # as is every loss here
            verdict.failures[f"impossible ({name})"] = f"{found:.6g} +- {claimed:.2g}"
            continue
        size = max(abs(true), NULL_SHARE * abs(null))
        if not error <= DECISIVE * size:
            verdict.undecided.append(f"{name} {i}: {true:.6g} +- {error:.1g}")
            continue
        rounding = 1e-9 * size
        allowed = claimed + (promised * size if i == best else rounding) + error
        if abs(found - true) > allowed and not (verdict.warned and i == best):
            verdict.failures[name] = (
                f"record {i} {found:.9g} +- {claimed:.2g}, true {true:.9g}, "
                f"off {abs(found - true) / size:.1e}"
            )
        if i == best and claimed > promised * size + rounding and not verdict.warned:
            verdict.failures["error exceeds promise"] = f"{found:.6g} +- {claimed:.2g}"


def _check_fit(verdict, search, truth):
    """Compare the final fit: predictions, and coefficients in the penalty's metric."""
    fitted = search.best_estimator_
    h = truth.strengths(search.best_params_, search.penalty_names_)
    w, b, error = truth.fit(h)
    h = h[:-1, : truth.n_outputs]
    coef = np.atleast_2d(fitted.coef_).T.astype(LONG)
    intercept = np.zeros(truth.n_outputs) + np.atleast_1d(fitted.intercept_)
    if not np.isfinite(coef).all() or not np.isfinite(intercept).all():
        verdict.failures["impossible (coef)"] = "not finite"
        return
    if not error <= DECISIVE:
        verdict.undecided.append(f"fit: relative error {error:.1g}")
        return
    if verdict.warned:
        return
    X = truth.X[:, :-1]
    z = X @ w + b
    pairs = {
        "coef": (np.sqrt(h) * (coef - w), np.sqrt(h) * w),
        "predictions": (X @ coef + intercept - z, z),
        "intercept": (intercept - b, np.hstack([b, np.sqrt(np.mean((X @ w) ** 2, axis=0))])),
    }
    # What is stored in single precision is rounded to it.
    rounding = float(np.finfo(np.asarray(fitted.coef_).dtype).eps)
    for name, (difference, whole) in pairs.items():
        size = float(np.linalg.norm(whole.astype(float)))
        off = float(np.linalg.norm(difference.astype(float)))
        parts = np.abs(X) @ np.abs(w) + np.abs(b)
        lost = 0.0 if name == "coef" else rounding * float(np.linalg.norm(parts.astype(float)))
        if off > COEFFICIENTS * size + lost + 1e-12 * unit(truth):
            verdict.failures[name] = f"off {off / (size or 1.0):.1e}"


def unit(truth):
    """Return the size of what predictors should reach, for fits that are zero."""
    return float(np.abs(truth.Y).max()) if truth.drawn.kind.targets in ("real", "outliers") else 1.0


def seeds(n, start=0, only=None):
    """Return the numbers of n problems, of the kinds whose name begins with ``only``."""
    names = list(KINDS)
    number, found = start, []
    while len(found) < n:
        if only is None or names[number % len(names)].startswith(only):
            found.append(number)
        number += 1
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=200, help="number of problems")
    parser.add_argument("--seed", type=int, default=0, help="number of the first")
    parser.add_argument("--only", help="beginning of the kinds' names")
    parser.add_argument("--quick", action="store_true", help="look no closer than the tests do")
    parser.add_argument(
        "--patience", type=float, default=1.25 * MOST_SECONDS, help="seconds, then a fit is ended"
    )
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    from joblib import Parallel, delayed

    begin = time.perf_counter()
    numbers = seeds(options.n, options.seed, options.only)
    asked = {"thorough": not options.quick, "patience": options.patience}
    if options.jobs == 1:
        verdicts = []
        for number in numbers:
            verdicts.append(check(number, **asked))
            if verdicts[-1].failures:
                write(verdicts[-1])
    else:
        run = delayed(check)
        verdicts = Parallel(options.jobs)(run(number, **asked) for number in numbers)
        for verdict in verdicts:
            if verdict.failures:
                write(verdict)
    write(summary(verdicts))
    write(f"{time.perf_counter() - begin:.0f} s, {sum(v.seconds for v in verdicts):.0f} s of fits")
    return 1 if any(v.failures for v in verdicts) else 0


def write(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def summary(verdicts):
    """Return how many problems failed, by what and by kind."""
    failed = collections.Counter(k for v in verdicts for k in v.failures)
    where = collections.Counter((k, v.drawn.name) for v in verdicts for k in v.failures)
    head = (
        f"{len(verdicts)} problems: {sum(bool(v.failures) for v in verdicts)} failed, "
        f"{sum(v.warned for v in verdicts)} warned of their accuracy, "
        f"{sum(bool(v.undecided) for v in verdicts)} undecided in part"
    )
    lines = [head]
    for kind, count in failed.most_common():
        names = ", ".join(f"{name} {m}" for (k, name), m in where.most_common() if k == kind)
        lines.append(f"  {kind}: {count} ({names})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
