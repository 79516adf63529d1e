"""References that the tests share: textbook formulas, small real data, problems of one's own.

Nothing here uses the code under test to find an answer. :class:`Fold` writes one fold of a linear
model out on its own rows, with dense matrices and Newton's method; :class:`Quadratic` is an inner
problem whose solution is a linear system.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit, xlogy
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.preprocessing import StandardScaler

from hoag_shine import Hypergradient, Problem, ProblemSet, Solution, minimize_lbfgs
from hoag_shine.datasets import data_home
from hoag_shine.hypergradients import AdjointProblem, as_solvers
from hoag_shine.problems.linear import LinearProblems
from hoag_shine.problems.losses import LogisticLoss, SquaredLoss
from hoag_shine.problems.penalties import GroupedPenalty
from hoag_shine.problems.requests import run_together

needs_data = pytest.mark.skipif(
    data_home() is None or not data_home().is_dir(),
    reason="no folder of real data: set HOAG_SHINE_DATA",
)

# Times hypothesis's usual number of examples that laws of the whole library are tried on.
TIMES = 10 if os.environ.get("HOAG_SHINE_EXHAUSTIVE") else 1


def in_a_process(code, *arguments):
    """Return the words that a Python process of its own prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "csr": sparse.csr_array,
}


@cache
def breast_cancer():
    """569 x 30, standardised; the target is 0 or 1."""
    X, y = load_breast_cancer(return_X_y=True)
    return _frozen(StandardScaler().fit_transform(X), y)


@cache
def diabetes():
    """442 x 10, standardised, the target in units of its standard deviation."""
    X, y = load_diabetes(return_X_y=True)
    return _frozen(StandardScaler().fit_transform(X), (y - y.mean()) / y.std())


def _frozen(*arrays):
    """Make arrays read-only: a test that changes its input would change that of the next."""
    for array in arrays:
        array.flags.writeable = False
    return arrays


def thinned(X, *, share=0.6, seed=0):
    """Return X with a share of its entries set to zero, so that CSR has something to skip."""
    return np.where(np.random.default_rng(seed).random(X.shape) < share, 0.0, X)


def logistic_formula(y, z):
    """Return value and two derivatives of the log loss, by way of the probability."""
    p = expit(z)
    return -(xlogy(y, p) + xlogy(1 - y, 1 - p)), p - y, p * (1 - p)


def squared_formula(y, z):
    return (y - z) ** 2, -2 * (y - z), 2 * np.ones_like(z)


@dataclass(frozen=True)
class Model:
    """A loss of the library beside its formula, and the factor of its penalty."""

    loss: object
    formula: Callable
    scale: float
    data: Callable


MODELS = {
    "logistic": Model(LogisticLoss(), logistic_formula, 1.0, breast_cancer),
    "squared": Model(SquaredLoss(), squared_formula, 2.0, diabetes),
}


@dataclass(frozen=True)
class Fold:
    """One fold on rows of its own: g = sum s loss + 1/2 sum h w^2 and f = sum v loss."""

    A: np.ndarray  # training rows, with a column of ones for the intercept
    y: np.ndarray
    s: np.ndarray
    A_test: np.ndarray
    y_test: np.ndarray
    v: np.ndarray
    groups: np.ndarray
    model: Model

    def h(self, theta):
        """Return the penalty's diagonal, variable by variable."""
        return np.array(
            [self.model.scale * np.exp(theta[g]) if g >= 0 else 0.0 for g in self.groups]
        )

    def value(self, w, theta):
        loss = self.model.formula(self.y, self.A @ w)[0]
        return self.s @ loss + 0.5 * self.h(theta) @ w**2

    def grad(self, w, theta):
        return self.A.T @ (self.s * self.model.formula(self.y, self.A @ w)[1]) + self.h(theta) * w

    def hessian(self, w, theta):
        d = self.s * self.model.formula(self.y, self.A @ w)[2]
        return (self.A.T * d) @ self.A + np.diag(self.h(theta))

    def outer(self, w):
        return self.v @ self.model.formula(self.y_test, self.A_test @ w)[0]

    def outer_grad(self, w):
        return self.A_test.T @ (self.v * self.model.formula(self.y_test, self.A_test @ w)[1])

    def solve(self, theta):
        """Return w*(theta) by Newton's method; the gradient there is rounding."""
        w = np.zeros(self.A.shape[1])
        start = np.linalg.norm(self.grad(w, theta))
        for _ in range(50):
            w = w - np.linalg.solve(self.hessian(w, theta), self.grad(w, theta))
            if np.linalg.norm(self.grad(w, theta)) <= 1e-13 * start:
                return w
        raise AssertionError("Newton's method did not converge")

    def criterion(self, theta):
        return self.outer(self.solve(theta))


def finite_difference(function, x, step):
    """Return the derivative of a function of a vector, by central differences."""
    return np.array(
        [(function(x + e) - function(x - e)) / (2 * step) for e in step * np.eye(x.size)]
    ).T


@dataclass(frozen=True)
class Case:
    """The same folds twice: the library's problems and the references to them."""

    problems: LinearProblems
    folds: list


def make_case(
    kind, layout="C", *, fit_intercept=True, weighted=True, n_groups=1, n_folds=3, dtype=np.float64
):
    """Make folds of real data; with weights, some rows have none."""
    model = MODELS[kind]
    X, y = model.data()
    X, y = thinned(X).astype(dtype), y.astype(np.float64)
    rng = np.random.default_rng(7)
    weight = rng.integers(0, 4, y.size) * rng.random(y.size) if weighted else np.ones(y.size)
    part = rng.integers(0, n_folds, y.size)
    groups = np.arange(X.shape[1]) % n_groups
    if n_groups > 1:
        groups[:2] = -1  # features may go without a penalty, too
    if fit_intercept:
        groups = np.append(groups, -1)
    train = np.where(part[:, None] != np.arange(n_folds), weight[:, None], 0.0)
    test = np.where(part[:, None] == np.arange(n_folds), weight[:, None], 0.0)
    test /= test.sum(axis=0)
    problems = LinearProblems(
        LAYOUTS[layout](X),
        y,
        model.loss,
        GroupedPenalty(groups, model.scale),
        train,
        test,
        fit_intercept=fit_intercept,
    )
    A = np.column_stack([X.astype(np.float64), np.ones(y.size)]) if fit_intercept else X
    A = A.astype(np.float64)
    folds = [
        Fold(
            A[part != k],
            y[part != k],
            weight[part != k],
            A[part == k],
            y[part == k],
            weight[part == k] / weight[part == k].sum(),
            groups,
            model,
        )
        for k in range(n_folds)
    ]
    return Case(problems, folds)


class Quadratic(Problem):
    r"""g = 1/2 w'Aw - b'w + 1/2 sum_j exp(theta_{group(j)}) w_j^2 and f = 1/2 |w - target|^2.

    With ``promise``, it tells of the penalty's form; without, theta could mean anything.
    """

    def __init__(self, A, b, target, groups, *, promise=True, diagonal=False):
        self.A, self.b, self.target, self.groups = A, b, target, groups
        self.promise, self.diagonal = promise, diagonal
        self.n_params = b.size
        self.n_hyperparameters = int(groups.max()) + 1
        self.n_passes = 0.0

    def _h(self, theta):
        return np.exp(theta)[self.groups]

    def value_and_grad(self, w, theta):
        self.n_passes += 1
        Hw = self.A @ w + self._h(theta) * w
        return 0.5 * w @ Hw - self.b @ w, Hw - self.b

    def hessp(self, w, theta):
        def product(v):
            self.n_passes += 1
            return self.A @ v + self._h(theta) * v

        return product

    def cross_vjp(self, w, theta, q):
        return np.bincount(self.groups, self._h(theta) * w * q, self.n_hyperparameters)

    def outer_value_and_grad(self, w):
        r = w - self.target
        return 0.5 * r @ r, r

    def penalty_hessian(self, theta):
        return self._h(theta) if self.promise else None

    def data_diagonal(self, w):
        return np.diag(self.A).copy() if self.diagonal else None

    # The answers, by linear algebra.

    def solve(self, theta):
        return np.linalg.solve(self.A + np.diag(self._h(theta)), self.b)

    def criterion(self, theta):
        return self.outer_value_and_grad(self.solve(theta))[0]

    def hypergradient(self, theta):
        w = self.solve(theta)
        q = np.linalg.solve(self.A + np.diag(self._h(theta)), w - self.target)
        return -self.cross_vjp(w, theta, q)


def quadratic_with_minimum_at(theta, *, n=12, residual=1.5, promise=True, diagonal=False, seed=3):
    """Return a quadratic bilevel problem whose criterion has its minimum at ``theta``.

    The target is w*(theta) and something orthogonal to what w* can do around theta, to second
    order, so that theta is a minimum and the criterion there is not zero.
    """
    theta = np.atleast_1d(np.asarray(theta, dtype=float))
    rng = np.random.default_rng(seed)
    M = rng.normal(size=(n, n))
    A, b = M @ M.T / n + 0.1 * np.eye(n), 3.0 * rng.normal(size=n)
    problem = Quadratic(
        A, b, np.zeros(n), np.arange(n) % theta.size, promise=promise, diagonal=diagonal
    )

    def jacobian(theta):
        return finite_difference(problem.solve, theta, 1e-3)

    curvature = finite_difference(lambda t: jacobian(t).ravel(), theta, 1e-3).reshape(n, -1)
    basis = np.linalg.qr(np.column_stack([jacobian(theta), curvature]))[0]
    r = rng.normal(size=n)
    r -= basis @ (basis.T @ r)
    problem.target = problem.solve(theta) + residual * r / np.linalg.norm(r)
    return problem


def solve_tightly(problem, theta, **options) -> Solution:
    """Return the library's inner solution at the limit of double precision."""
    start = problem.value_and_grad(np.zeros(problem.n_params), theta)[1]
    solution = minimize_lbfgs(
        problem, theta, tol=1e-12 * np.linalg.norm(start), max_iter=5000, **options
    )
    assert solution.converged
    return solution


def ask(
    method, problem, theta, solution, outer_grad, *, tol=1e-10, accuracy=0.0, start=None
) -> Hypergradient:
    """Call a hypergradient method, be it a function or a generator."""
    adjoint = AdjointProblem(
        problem, theta, solution, outer_grad, tol=tol, accuracy=accuracy, start=start
    )
    call = method(adjoint)
    return run_together(ProblemSet([problem]), theta, as_solvers([call]))[0]
