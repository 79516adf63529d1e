"""An exact solver of small penalised linear models, and the losses that it knows.

Every fold is written out as a convex problem of its own and solved by Newton's method on dense
arrays. With more columns than training rows it is solved in the rows' span, of which a pivoted QR
of the columns, scaled by the roots of their penalties, gives a basis. The last steps are a
refinement: gradients in extended precision, in all coordinates, so that neither a bad basis nor a
bad Hessian harms more than the number of steps. What the last step still changed says how accurate
the answer is.

The formulas are those of scikit-learn's user guide. Nothing is imported from the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.linalg import qr, solve_triangular
from scipy.special import expit

LONG = np.longdouble

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
    hessian = -p[..., None] * p[..., None, :]
    k = np.arange(z.shape[-1])
    hessian[..., k, k] = 0.0
    hessian[..., k, k] = -hessian.sum(axis=-1)  # nothing cancels
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

    def expand(self, v, b=slice(None)):
        return np.einsum("bjv,bv->bj", self.E[b], v).reshape(-1, *self.p.h.shape[1:])


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


@dataclass
class Solution:
    """What is known of the solutions of several problems.

    Attributes
    ----------
    w : (B, q, m) longdouble
    f : (B, L) longdouble
        A function of them.
    error : (B,)
        An estimate of the norm of its error, infinite where there is none.
    objective : (B,) longdouble
    """

    w: Any
    f: Any
    error: Any
    objective: Any

    def better(self, other):
        """Return which of the other's solutions are to be believed rather than these."""
        margin = 1e-15 * np.abs(self.objective)
        lower = other.objective < self.objective - margin
        return lower | ((other.objective <= self.objective + margin) & (other.error < self.error))

    def replace(self, places, other):
        """Take over the other's solutions, which are of some places, where they are better."""
        chosen = self._take(places).better(other)
        for name in ("w", "f", "error", "objective"):
            getattr(self, name)[places[chosen]] = getattr(other, name)[chosen]
        return chosen

    def _take(self, places):
        return Solution(*(a[places] for a in (self.w, self.f, self.error, self.objective)))


def solve(problems, functional, *, thorough, hint=None):
    """Return the solutions with ``functional(z, w, chosen)`` of them.

    What Newton's method does not find at once is left, or, where ``thorough``, looked for along a
    path of penalties, and once more in slow and careful steps. Last, it is looked for near
    ``hint``, of the shape of w: of two points, that with the lower objective is nearer.
    """
    reduced = Reduced(problems)
    every = np.arange(len(problems.h))
    best = refine(reduced, reduced.expand(newton(reduced)), partial(_some, functional, every))
    for by_qr in (False, True) if thorough else ():
        known = best.error <= 1e-11 * np.linalg.norm(best.f.astype(np.float64), axis=1)
        hard = np.flatnonzero(~known)
        if hard.size == 0:
            break
        few = Reduced(problems.take(hard))
        again = few.expand(path(few, by_qr=by_qr))
        best.replace(hard, refine(few, again, partial(_some, functional, hard), by_qr=by_qr))
    if hint is not None:
        best.replace(every, refine(reduced, hint, partial(_some, functional, every)))
    return best


def _some(functional, places, z, w, chosen):
    return functional(z, w, places[chosen])


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


def refine(reduced, w, functional, max_steps=25, *, by_qr=False):
    """Improve w by Newton steps whose gradients are in extended precision.

    Steps are halved until they descend: where little is left of the objective, double precision
    does not see on which side of a kink the solution is. The error is what the last whole step has
    changed of ``functional(z, w, chosen)``, of shape (B, L).
    """
    p = reduced.p
    w = w.astype(LONG)
    alive = np.arange(len(w))
    F, slopes, curved, f = _evaluate(p, w, alive, functional)
    error = np.full(len(w), np.inf)
    for _ in range(max_steps):
        step = _refinement(reduced, w[alive], slopes[alive], curved[alive], alive, by_qr)
        going = np.zeros(len(w), dtype=bool)
        trying, t = np.arange(len(alive)), 1.0
        while trying.size and t > 1e-7:
            b = alive[trying]
            there = w[b] + t * step[trying]
            new = _evaluate(p, there, b, functional)
            change = np.linalg.norm((new[3] - f[b]).astype(np.float64), axis=1)
            down = new[0] <= F[b] + 1e-15 * np.abs(F[b])
            if t == 1.0:
                # At the end, what a step changes is rounding.
                ended = ~down & (change <= error[b])
                going[b] = down & ~((change <= error[b]) & (change > 0.5 * error[b]))
                error[b[down]] = change[down]
            else:
                ended = np.zeros(len(b), dtype=bool)
                going[b[down]], error[b[down]] = True, np.inf
            for whole, part in zip((w, F, slopes, curved, f), (there, *new), strict=True):
                whole[b[down]] = part[down]
            trying, t = trying[~(down | ended)], 0.5 * t
        size = np.linalg.norm(f.astype(np.float64), axis=1)
        alive = np.flatnonzero(going & (error > 1e-13 * size))
        if not alive.size:
            break
    return Solution(w, f, error, F)


def _evaluate(p, w, b, functional):
    """Return objectives, weighted slopes and curvatures, and the functional at w, of some."""
    z = predictors(p.X, w)
    train = p.train[b].astype(LONG)[..., None]
    used = train > 0.0
    value, gradient, curvature, _ = p.loss(p.y[b].astype(LONG), z)
    F = np.where(used[..., 0], train[..., 0] * value, 0.0).sum(axis=1)
    F = F + 0.5 * (p.h[b].astype(LONG) * w**2).sum(axis=(1, 2))
    slopes = np.where(used, train * gradient, 0.0)
    curved = np.where(used[..., None], train[..., None] * curvature, 0.0).astype(np.float64)
    return F, slopes, curved, functional(z, w, b)


def objectives(problems, w):
    """Return the objectives at w."""
    zero = np.zeros((len(w), 1))
    return _evaluate(problems, w.astype(LONG), np.arange(len(w)), lambda *_: zero)[0]


def _refinement(reduced, w, slopes, curved, b, by_qr):
    """Return the Newton step of some problems."""
    p = reduced.p
    g = np.where(p.free, transposed(p.X, slopes) + p.h[b].astype(LONG) * w, 0.0)
    return inverse(reduced, g, curved, b, by_qr=by_qr)


def inverse(reduced, g, curved, b, *, by_qr=False):
    """Return minus the inverse Hessians of some problems, times g."""
    gv = np.einsum("bjv,bj->bv", reduced.E[b], g.reshape(len(g), -1).astype(np.float64))
    step = newton_steps(reduced.M[b], reduced.k[b], curved, gv, by_qr=by_qr)
    step = reduced.expand(step, b).astype(LONG)
    if reduced.wide:
        step += outside(reduced, g, b)
    return np.where(np.isfinite(step), step, 0.0)


def rounding(problems, w, functional, n_draws=4):
    """Return what double precision may do to ``functional``: its norm, for each problem.

    Products with X are changed by what rounding may do to them, at random, and so are the terms of
    the gradient. That gives an estimate of what the best of solvers in double precision leaves.
    """
    reduced, every = Reduced(problems), np.arange(len(w))
    _, slopes, curved, f = _evaluate(problems, w, every, functional)
    size = np.abs(problems.X)
    z, parts = predictors(problems.X, w), predictors(size, np.abs(w))
    rng = np.random.default_rng(0)
    worst = np.zeros(len(w))

    def noise(scale):
        return np.finfo(float).eps * scale * rng.choice([-1.0, 1.0], scale.shape)

    for _ in range(n_draws):
        dz = noise(parts)
        turned = np.einsum("bnij,bnj->bni", curved, dz)
        dg = transposed(problems.X, turned) + noise(transposed(size, np.abs(slopes)))
        dg = np.where(problems.free, dg + noise(problems.h * np.abs(w)), 0.0)
        moved = inverse(reduced, dg, curved, every)
        there = functional(z + dz + predictors(problems.X, moved), w + moved, every)
        worst = np.fmax(worst, np.linalg.norm((there - f).astype(float), axis=1))
    return worst


def adjoints(problems, test, w, n_steps=4):
    """Yield H^-1 X' u of shape (B, q m), better and better, u the slopes of the held-out losses.

    The last is that of predictors that rounding in double precision has changed.
    """
    reduced, every = Reduced(problems), np.arange(len(w))
    z = predictors(problems.X, w)
    parts = predictors(np.abs(problems.X), np.abs(w))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], z.shape)
    train, y = problems.train.astype(LONG)[..., None], problems.y.astype(LONG)
    for there in (z, z + np.finfo(float).eps * signs * parts):
        _, slope, curvature, _ = problems.loss(y, there)
        curvature = np.where(train[..., None] > 0.0, train[..., None] * curvature, 0.0)
        g = transposed(problems.X, np.where(test[..., None] > 0.0, test[..., None] * slope, 0.0))
        rest, q = np.where(problems.free, g, 0.0), np.zeros_like(w)
        for _ in range(n_steps):
            q = q - inverse(reduced, rest, curvature.astype(np.float64), every)
            turned = np.einsum("bnij,bnj->bni", curvature, predictors(problems.X, q))
            product = transposed(problems.X, turned) + problems.h * q
            rest = np.where(problems.free, g - product, 0.0)
            if there is z:
                yield q.reshape(len(q), -1)
    yield q.reshape(len(q), -1)


def outside(reduced, g, b):
    """Return the step out of the basis's span, where only the penalty has curvature."""
    h, spanned = reduced.p.h[b], reduced.spanned[b]
    step = np.where(spanned, g / np.where(spanned, h, 1.0), 0.0)
    # Twice, so that no rounding is left where the curvature is large.
    for _ in range(2):
        flat = (h * step).reshape(len(h), -1).astype(np.float64)
        inside = reduced.expand(np.einsum("bjv,bj->bv", reduced.E[b], flat), b)
        step = step - np.where(spanned, inside, 0.0)
    return -step
