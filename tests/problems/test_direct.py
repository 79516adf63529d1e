"""Small inner problems are solved to the accuracy of the arithmetic: values against references.

The references are least squares by LAPACK, scikit-learn's own solvers at their tightest tolerance,
closed formulas, and differences of the criterion. Where there are more columns than rows, a
reference is fitted to the rows in an orthonormal basis of their span, which under a shared penalty
changes no prediction.
"""

import platform
import warnings
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from helpers import in_a_process
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import (
    GammaRegressor,
    HuberRegressor,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    RidgeCV,
    TweedieRegressor,
)
from sklearn.metrics import mean_poisson_deviance
from sklearn.model_selection import KFold, LeaveOneOut, StratifiedKFold, cross_val_score
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import LinearSVC
from supported import (
    deviance,
    huber,
    log_loss,
    squared_error,
    squared_error_of_signs,
    squared_hinge,
)

from hoag_shine import ShineCV, fold_problems, hoag
from hoag_shine.problems.direct.batched import Factorised

SHAPES = {"tall": (40, 5), "wide": (20, 36)}
FOLDS = KFold(4)


def at(problems, theta, **options):
    """Return the record at theta, and the folds' solutions, found by factorised Hessians."""
    options = {"bounds": (-60.0, 60.0), "callback": lambda record, solutions: True} | options
    result = hoag(problems, np.atleast_1d(np.asarray(theta, dtype=float)), **options)
    assert result.history[0]["method"] == "newton"
    return result.history[0], result.solutions


def slope(function, x, step=2e-3):
    """Return the derivatives of a function of a vector, by differences of the fourth order."""

    def along(e):
        near, far = (function(x + t * e) - function(x - t * e) for t in (1.0, 2.0))
        return (8.0 * near - far) / (12.0 * step)

    return np.array([along(e) for e in step * np.eye(x.size)])


# Least squares, by LAPACK.


def least_squares(X, y, weight, strengths, intercept):
    """Return coefficients, then the intercept, that minimise a weighted and penalised loss."""
    A = np.hstack([X, np.ones((len(X), int(intercept)))])
    root = np.sqrt(weight)[:, None]
    held = np.eye(X.shape[1], A.shape[1]) * np.sqrt(strengths)[:, None]
    target = np.r_[root[:, 0] * y, np.zeros(len(held))]
    return np.linalg.lstsq(np.vstack([root * A, held]), target, rcond=None)[0]


@dataclass(frozen=True)
class Ridges:
    """Ridge regression on folds; ``strengths`` makes alphas, (column, target), from theta."""

    X: np.ndarray
    Y: np.ndarray
    weight: np.ndarray
    intercept: bool
    strengths: object

    def fit(self, theta, train):
        alphas = self.strengths(theta)
        columns = zip(self.Y.T, alphas.T, strict=True)
        own = self.X[train], self.weight[train]
        fits = [least_squares(own[0], y[train], own[1], a, self.intercept) for y, a in columns]
        return np.stack(fits, axis=1)

    def criterion(self, theta):
        values = []
        for train, test in FOLDS.split(self.X):
            W = self.fit(theta, train)
            p = self.X.shape[1]
            Z = self.X[test] @ W[:p] + W[p:].sum(axis=0)
            loss = ((Z - self.Y[test]) ** 2).mean(axis=1)
            values.append(np.average(loss, weights=self.weight[test]))
        return np.mean(values)


def by_group(p, m):
    groups = np.repeat([0, 1], [2, p - 2])
    return np.where(groups, "b", "a"), 2, lambda theta: np.exp(theta[groups])[:, None] * np.ones(m)


PENALTIES = {
    "shared": lambda p, m: ("shared", 1, lambda theta: np.full((p, m), np.exp(theta[0]))),
    "groups": by_group,
    "feature": lambda p, m: ("feature", p, lambda theta: np.exp(theta)[:, None] * np.ones(m)),
    "output": lambda p, m: ("output", m, lambda theta: np.ones((p, 1)) * np.exp(theta)),
}


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(
    ("penalty", "m"), [*((p, 1) for p in PENALTIES), ("shared", 3), ("output", 3)]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_ridge_is_what_lapack_finds(shape, penalty, m, weighted, intercept):
    rng, (n, p) = np.random.default_rng(0), SHAPES[shape]
    X, noise = rng.normal(size=(n, p)), rng.normal(size=(n, m))
    Y = X[:, :m] + X[:, 1:2] + noise + 3.0
    weight = rng.integers(1, 4, n).astype(float) if weighted else np.ones(n)
    labels, n_theta, strengths = PENALTIES[penalty](p, m)
    reference = Ridges(X, Y, weight, intercept, strengths)
    theta = rng.normal(size=n_theta)
    estimator = Ridge(fit_intercept=intercept)
    own = {"penalty": labels, "sample_weight": weight if weighted else None}
    problems = fold_problems(estimator, X, Y if m > 1 else Y[:, 0], cv=FOLDS, **own)
    record, solutions = at(problems, theta)

    assert record["criterion"] == pytest.approx(reference.criterion(theta), rel=1e-11)
    found, wanted = record["hypergradient"], slope(reference.criterion, theta)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9 * np.abs(wanted).max())
    for (train, _), solution in zip(FOLDS.split(X), solutions, strict=True):
        W = reference.fit(theta, train)
        coef = solution.w.reshape(-1, m)[:p]
        np.testing.assert_allclose(coef, W[:p], atol=1e-10 * np.abs(W).max())


# Other losses, by scikit-learn.


@dataclass(frozen=True)
class Kind:
    """An estimator, targets for it given a generator and scores, and its criterion."""

    estimator: object
    targets: object
    score: object
    tight: dict
    rtol: float = 1e-9  # of scikit-learn's solutions

    def own(self, alpha):
        name, value = ("C", 1.0 / alpha) if hasattr(self.estimator, "C") else ("alpha", alpha)
        return clone(self.estimator).set_params(**self.tight, **{name: value})


def classes(rng, z, n=3):
    noisy = z + rng.logistic(size=z.size)
    return np.digitize(noisy, np.quantile(noisy, np.arange(1, n) / n))


def signs(rng, z):
    return classes(rng, z, 2)


def counts(rng, z):
    return rng.poisson(np.exp(0.4 * z)).astype(float)


def positive(rng, z):
    return np.exp(0.4 * z) * rng.gamma(3.0, size=z.size)


def outliers(rng, z):
    return z + rng.standard_t(1.5, size=z.size)


NEWTON = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 1000}
PRIMAL = {"dual": False, "tol": 1e-12, "max_iter": 100_000}
ROBUST = {"tol": 1e-10, "max_iter": 100_000}
KINDS = {
    "logistic": Kind(LogisticRegression(), signs, log_loss, NEWTON),
    "multinomial": Kind(LogisticRegression(), classes, log_loss, NEWTON),
    "svc": Kind(LinearSVC(), signs, squared_hinge, PRIMAL, 1e-6),
    "svc-classes": Kind(LinearSVC(), classes, squared_hinge, PRIMAL, 1e-6),
    "ridge-classifier": Kind(
        RidgeClassifier(), classes, squared_error_of_signs, {"solver": "cholesky"}
    ),
    "poisson": Kind(PoissonRegressor(), counts, deviance, NEWTON),
    "gamma": Kind(GammaRegressor(), positive, deviance, NEWTON),
    "tweedie": Kind(TweedieRegressor(power=1.5), counts, deviance, NEWTON),
    "normal": Kind(TweedieRegressor(), outliers, squared_error, NEWTON),
    "huber": Kind(HuberRegressor(), outliers, huber, ROBUST, 1e-4),
}


def drawn(kind, shape, seed=0):
    """Return rows, all but two columns of which are noise, and targets."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=SHAPES[shape])
    return X, KINDS[kind].targets(rng, 2.0 * X[:, 0] - X[:, 1])


def spanned(X):
    """Return the rows in an orthonormal basis of their span."""
    return X if len(X) > X.shape[1] else X @ np.linalg.qr(X.T)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_criteria_are_those_of_scikit_learn(shape, kind):
    (X, y), alpha = drawn(kind, shape), 30.0 if kind == "huber" else 0.7
    record, _ = at(fold_problems(KINDS[kind].estimator, X, y, cv=FOLDS), np.log(alpha))
    values, Z, own = [], spanned(X), KINDS[kind].own(alpha)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # line searches that can do no better
        for train, test in FOLDS.split(X):
            values.append(-KINDS[kind].score(own.fit(Z[train], y[train]), Z[test], y[test]))
    np.testing.assert_allclose(record["fold_criteria"], values, rtol=KINDS[kind].rtol)


@pytest.mark.parametrize("penalty", ["shared", "groups"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_hypergradients_are_derivatives(shape, kind, penalty):
    X, y = drawn(kind, shape)
    labels, n_theta, _ = PENALTIES[penalty](X.shape[1], 1)
    problems = fold_problems(KINDS[kind].estimator, X, y, cv=FOLDS, penalty=labels)
    theta = np.linspace(-0.5, 0.5, n_theta) + (4.0 if kind == "huber" else 0.0)
    record, _ = at(problems, theta)
    # The second derivatives of some losses jump: few rows cross such a place in a short step.
    jumps = kind == "huber" or kind.startswith("svc")
    step = 1e-5 if jumps else 2e-3
    wanted = slope(lambda t: at(problems, t)[0]["criterion"], theta, step)
    error = np.linalg.norm(record["hypergradient"] - wanted)
    norm, bound = record["hypergradient_norm"], record["hypergradient_bound"]
    assert error <= bound + 1e-7 * norm
    assert bound <= (1e-3 if kind == "huber" else 1e-8) * norm


# Laws.


# An example of what fails is as clear as the simplest one, which takes long to find.
FEW = settings(max_examples=20, phases=[Phase.explicit, Phase.reuse, Phase.generate])
SCALELESS = ("huber", "wide")


@dataclass(frozen=True)
class Setting:
    """A problem that is to be changed in a way that does not matter."""

    kind: str
    shape: str
    seed: int
    strength: float
    intercept: bool

    @property
    def estimator(self):
        return clone(KINDS[self.kind].estimator).set_params(fit_intercept=self.intercept)

    @property
    def alpha(self):
        return 10.0**self.strength

    def data(self):
        """Return rows, targets, splits, and a generator."""
        X, y = drawn(self.kind, self.shape, self.seed)
        return X, y, list(FOLDS.split(X)), np.random.default_rng(self.seed)

    def fit(self, X, y, cv, alpha=None, **options):
        """Return the record, and the folds' coefficients with a column for each output."""
        problems = fold_problems(self.estimator, X, y, cv=cv, **options)
        record, solutions = at(problems, np.log(self.alpha if alpha is None else alpha))
        p, last = X.shape[1], self.intercept or self.kind == "huber"  # which has a scale
        return record, [s.w.reshape(p + last, -1)[:p] for s in solutions]


def settings_of(shapes=tuple(SHAPES)):
    # Wide data may be fitted perfectly, and then Huber's loss has no scale.
    pairs = [(kind, shape) for kind in KINDS for shape in shapes if (kind, shape) != SCALELESS]
    return st.builds(
        lambda pair, *others: Setting(*pair, *others),
        st.sampled_from(pairs),
        st.integers(0, 99),
        st.floats(-1.0, 2.0),
        st.booleans(),
    )


def agree(record, other, rtol=1e-8):
    np.testing.assert_allclose(record["fold_criteria"], other["fold_criteria"], rtol=rtol)
    gap = np.abs(record["hypergradient"] - other["hypergradient"])
    bound = record["hypergradient_bound"] + other["hypergradient_bound"]
    assert (gap <= bound + rtol * record["criterion"]).all()


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7 * np.abs(b).max())


@FEW
@given(settings_of(), st.floats(-6.0, 6.0))
def test_units_of_the_columns_change_nothing(setting, digits):
    # LinearSVC penalises its intercept, which has units of its own.
    setting = replace(setting, intercept=setting.intercept and "svc" not in setting.kind)
    (X, y, cv, _), s = setting.data(), 10.0**digits
    record, ws = setting.fit(X, y, cv)
    other, others = setting.fit(s * X, y, cv, setting.alpha * s * s)
    agree(record, other)
    for w, v in zip(ws, others, strict=True):
        close(s * v, w)


@FEW
@given(settings_of())
def test_the_order_of_rows_columns_and_folds_does_not_matter(setting):
    X, y, cv, rng = setting.data()
    rows, columns, folds = (rng.permutation(k) for k in (*X.shape, len(cv)))
    place = np.argsort(rows)
    moved = [tuple(place[part] for part in cv[k]) for k in folds]
    record, _ = setting.fit(X, y, cv)
    other, _ = setting.fit(X[np.ix_(rows, columns)], y[rows], moved)
    agree(record | {"fold_criteria": record["fold_criteria"][folds]}, other)


@FEW
@given(settings_of(), st.sampled_from([0.0, -3.0, 1e6]), st.booleans())
def test_rows_without_weight_do_not_matter(setting, size, trained):
    X, y, cv, rng = setting.data()
    n, wild = len(X), size * rng.normal(size=(2, X.shape[1]))
    more = [(np.r_[train, n, n + 1], test) for train, test in cv] if trained else cv
    weight = np.r_[np.ones(n), 0.0, 0.0]
    record, ws = setting.fit(X, y, cv)
    other, others = setting.fit(np.vstack([X, wild]), np.r_[y, y[:2]], more, sample_weight=weight)
    agree(record, other)
    for w, v in zip(ws, others, strict=True):
        close(v, w)


@FEW
@given(settings_of())
def test_a_row_twice_is_a_row_of_weight_two(setting):
    X, y, cv, rng = setting.data()
    doubled = np.flatnonzero(rng.random(len(X)) < 0.3)
    origin = np.r_[np.arange(len(X)), doubled]
    weight = np.bincount(origin).astype(float)
    repeated = [tuple(np.flatnonzero(np.isin(origin, part)) for part in pair) for pair in cv]
    record, _ = setting.fit(X, y, cv, sample_weight=weight)
    other, _ = setting.fit(X[origin], y[origin], repeated)
    agree(record, other)


@FEW
@given(settings_of(["wide"]))
def test_turned_columns_change_no_prediction(setting):
    X, y, cv, rng = setting.data()
    Q = np.linalg.qr(rng.normal(size=(X.shape[1],) * 2))[0]
    record, ws = setting.fit(X, y, cv)
    other, others = setting.fit(X @ Q, y, cv)
    agree(record, other)
    for w, v in zip(ws, others, strict=True):
        close(X @ Q @ v, X @ w)


# One fold for each row.


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("shape", [(70, 4), (30, 50)], ids=["tall", "wide"])
def test_leave_one_out_ridge_has_a_closed_formula(shape, intercept):
    rng, (n, p) = np.random.default_rng(0), shape
    X, alpha = rng.normal(size=shape), 3.0
    y = X[:, 0] + rng.normal(size=n) + 10.0
    record, _ = at(
        fold_problems(Ridge(fit_intercept=intercept), X, y, cv=LeaveOneOut()), np.log(alpha)
    )
    A = np.hstack([X, np.ones((n, int(intercept)))])
    held = alpha * np.eye(A.shape[1])
    held[p:, p:] = 0.0
    hat = A @ np.linalg.solve(A.T @ A + held, A.T)
    residuals = (y - hat @ y) / (1.0 - np.diag(hat))
    np.testing.assert_allclose(record["fold_criteria"], residuals**2, rtol=1e-8)


def test_leave_one_out_finds_the_alpha_of_ridge_cv():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 6))
    y = X[:, 0] - X[:, 1] + 3.0 * rng.normal(size=200)
    search = ShineCV(Ridge(), cv=LeaveOneOut(), tol=1e-3).fit(X, y)
    alpha = search.best_params_["alpha"]
    theirs = RidgeCV(alpha * np.logspace(-2.0, 2.0, 41)).fit(X, y)
    assert 0.7 < theirs.alpha_ / alpha < 1.4
    # What is left to gain is a millionth.
    assert search.best_score_ >= theirs.best_score_ - 2e-6 * abs(theirs.best_score_)
    own = RidgeCV([alpha]).fit(X, y)
    assert search.best_score_ == pytest.approx(own.best_score_, rel=1e-9)


def test_leave_one_out_of_a_logistic_model_is_as_many_fits():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, 3))
    y = signs(rng, X[:, 0])
    record, _ = at(fold_problems(LogisticRegression(), X, y, cv=LeaveOneOut()), 0.0)
    own, losses = LogisticRegression(**NEWTON), []
    for k in range(60):
        rest = np.arange(60) != k
        p = own.fit(X[rest], y[rest]).predict_proba(X[k : k + 1])[0]
        losses.append(-np.log(p[y[k]]))
    np.testing.assert_allclose(record["fold_criteria"], losses, rtol=1e-9)


LEAVE_ONE_OUT = """
import resource
import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut
from hoag_shine import fold_problems, hoag

def fit(n):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 10))
    problems = fold_problems(Ridge(), X, X[:, 0] + rng.normal(size=n), cv=LeaveOneOut())
    hoag(problems, callback=lambda record, solutions: True)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

start = fit(100)
print(fit(5000) - start)
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="counts memory in KiB")
def test_memory_does_not_grow_with_the_square_of_the_rows():
    [grown] = map(int, in_a_process(LEAVE_ONE_OUT))
    assert grown < 150 * 1024  # an array over rows and folds alone has 191 MiB


# The inverse Hessian, and data that are fitted perfectly.


@pytest.mark.parametrize("kind", ["logistic", "multinomial", "svc-classes", "normal", "poisson"])
@pytest.mark.parametrize("shape", SHAPES)
def test_solutions_come_with_the_inverse_of_the_hessian(shape, kind):
    X, y = drawn(kind, shape)
    problems = fold_problems(KINDS[kind].estimator, X, y, cv=FOLDS)
    theta = np.zeros(1)
    _, solutions = at(problems, theta)
    for problem, solution in zip(problems, solutions, strict=True):
        product = problem.hessp(solution.w, theta)
        # The intercepts of a softmax may move together, and have a curvature there to hold them.
        H = np.stack([product(e) for e in np.eye(problem.n_params)])
        B = np.stack([solution.inverse_hessian @ e for e in np.eye(problem.n_params)])
        np.testing.assert_allclose(H @ B, np.eye(problem.n_params), atol=1e-8 * np.abs(H).max())


@pytest.mark.parametrize("kind", ["logistic", "multinomial", "svc", "poisson", "ridge-classifier"])
@pytest.mark.parametrize("shape", SHAPES)
def test_perfect_fits_are_solved(shape, kind):
    """A gradient, in the inverse of the penalty, bounds how far the objective is from the least."""
    rng, (n, p) = np.random.default_rng(3), SHAPES[shape]
    X = rng.normal(size=(n, p))
    z = 10.0 * X[:, 0]
    y = (
        np.digitize(z, np.quantile(z, [0.33, 0.67]))
        if kind == "multinomial"
        else (z > 0).astype(int)
    )
    estimator = clone(KINDS[kind].estimator).set_params(fit_intercept=False)
    problems = fold_problems(estimator, X, y, cv=KFold(4))
    for alpha in (1e-2, 1e-6):
        theta = np.log([alpha])
        record, solutions = at(problems, theta)
        assert record["error"] <= 1e-6 * record["criterion"]
        for problem, solution in zip(problems, solutions, strict=True):
            value, grad = problem.value_and_grad(solution.w, theta)
            gap = 0.5 * (grad**2 / problem.penalty_hessian(theta)).sum()
            assert gap <= 1e-9 * value


# What was wrong once.


def mean_squared_error(X, y, cv, alpha):
    """Return the criterion of ridge regression, by least squares."""
    losses = []
    for train, test in cv.split(X):
        ones = np.ones(len(train))
        W = least_squares(X[train], y[train], ones, np.full(X.shape[1], alpha), True)
        losses.append(np.mean((X[test] @ W[:-1] + W[-1] - y[test]) ** 2))
    return np.mean(losses)


def check_ridge(X, y, cv, alphas):
    """Hold a search and its final fit against least squares at its alpha, and at others."""
    search = ShineCV(Ridge(), cv=cv).fit(X, y)
    alpha = search.best_params_["alpha"]
    criterion = partial(mean_squared_error, X, y, cv)
    assert -search.best_score_ == pytest.approx(criterion(alpha), rel=1e-8)
    assert -search.best_score_ <= min(map(criterion, alphas)) * (1.0 + 1e-3)
    W = least_squares(X, y, np.ones(len(X)), np.full(X.shape[1], alpha), True)
    coef = search.best_estimator_.coef_
    assert np.linalg.norm(coef - W[:-1]) <= 1e-6 * np.linalg.norm(W[:-1])


def test_wide_columns_of_a_large_scale():
    rng = np.random.default_rng(0)
    L = rng.standard_normal((50, 3))
    X = 100.0 * (L @ rng.standard_normal((3, 300)) + rng.standard_normal((50, 300)))
    y = L[:, 0] + 0.5 * rng.standard_normal(50)
    check_ridge(X, y, KFold(5), np.logspace(2.0, 10.0, 9))


def test_wide_counts():
    rng = np.random.default_rng(2)
    L = rng.standard_normal((60, 5))
    means = np.exp(np.minimum(3.0 + 0.5 * L @ rng.standard_normal((5, 300)), 8.0))
    y = L[:, 0] + 0.5 * rng.standard_normal(60)
    cv = KFold(5, shuffle=True, random_state=2)
    check_ridge(rng.poisson(means).astype(float), y, cv, np.logspace(0.0, 8.0, 9))


def test_polynomials_of_correlated_columns():
    data = load_breast_cancer()
    X = StandardScaler().fit_transform(data.data[::4, :12])
    X = PolynomialFeatures(2, include_bias=False).fit_transform(X)
    cv = KFold(5, shuffle=True, random_state=0)
    check_ridge(X, data.target[::4].astype(float), cv, np.logspace(0.0, 4.0, 9))


def test_a_row_without_weight_that_overflows():
    """Its curvature is infinite in single precision, and times zero not a number."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = rng.poisson(np.exp(0.3 * X[:, 0])).astype(float)
    cv = list(KFold(5).split(X))
    wild, more = np.vstack([X, np.full((1, 3), 99999.0)]), [(np.r_[a, 60], b) for a, b in cv]
    weight = np.r_[np.ones(60), 0.0]
    results = [
        hoag(fold_problems(PoissonRegressor(), X, y, cv=cv)),
        hoag(fold_problems(PoissonRegressor(), wild, np.r_[y, 1.0], cv=more, sample_weight=weight)),
    ]
    values = [[record["criterion"] for record in result.history] for result in results]
    np.testing.assert_allclose(values[1], values[0], rtol=1e-8)


def test_no_loss_is_below_its_minimum():
    """Columns of scales from 1 to 1e6, of which any three rows are fitted by many."""
    rng = np.random.default_rng(0)
    X = np.exp(rng.normal(5.0, 2.0, 400)) * np.exp(0.4 * rng.standard_normal((60, 1)))
    X *= np.exp(0.3 * rng.standard_normal((60, 400)))
    z = np.log(X[:, :5]).sum(axis=1) + rng.standard_normal(60)
    y = np.digitize(z, np.quantile(z, [1 / 3, 2 / 3]))
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    problems = fold_problems(LogisticRegression(), X, y, cv=cv)
    # In units in which the columns' scale is near one, by scikit-learn's Newton method.
    Z = spanned(X)
    unit = np.abs(Z).max()
    for theta in (0.0, 10.0, 20.0):
        own, scores = LogisticRegression(C=np.exp(-theta) * unit**2, **NEWTON), []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # line searches that can do no better
            for train, test in cv.split(X, y):
                own.fit(Z[train] / unit, y[train])
                scores.append(log_loss(own, Z[test] / unit, y[test]))
        assert at(problems, theta)[0]["criterion"] == pytest.approx(-np.mean(scores), rel=1e-5)


def poisson_fit(X, y, alpha):
    """Minimise the objective of PoissonRegressor without an intercept."""
    n, unit = len(X), y.mean()

    def objective(w):
        mean = np.exp(X @ w)
        value = (mean - y * (X @ w)).mean() + 0.5 * alpha * w @ w
        return value / unit, (X.T @ (mean - y) / n + alpha * w) / unit

    def hessian(w):
        return ((X.T * np.exp(X @ w)) @ X / n + alpha * np.eye(w.size)) / unit

    start = np.linalg.lstsq(X, np.log(1.0 + y), rcond=None)[0]
    options = {"jac": True, "hess": hessian, "method": "trust-exact", "options": {"gtol": 1e-10}}
    return minimize(objective, start, **options).x


@pytest.mark.parametrize("hypergradient", ["auto", "cg"])
@pytest.mark.parametrize("unit", [1e4, 1e6])
def test_counts_in_large_units(unit, hypergradient):
    rng = np.random.default_rng(0)
    X, y = rng.poisson(5.0, size=(70, 2)).astype(float), unit * rng.poisson(1.0, size=70)
    estimator = PoissonRegressor(fit_intercept=False)
    search = ShineCV(estimator, cv=3, hypergradient=hypergradient).fit(X, y)
    assert search.best_score_ < 0.0
    own = partial(poisson_fit, alpha=search.best_params_["alpha"])
    losses = []
    for train, test in KFold(3).split(X):
        mean = np.exp(X[test] @ own(X[train], y[train]))
        losses.append(mean_poisson_deviance(y[test], mean))
    assert -search.best_score_ == pytest.approx(np.mean(losses), rel=1e-6)
    np.testing.assert_allclose(search.best_estimator_.coef_, own(X, y), rtol=1e-4)


@pytest.mark.parametrize("order", [3, 60])
def test_diagonal_matrices_are_solved(order):
    """As those of samples that all lack a weight."""
    diagonals = np.random.default_rng(0).uniform(1e-3, 1e3, size=(2, order))
    rhs = np.ones((2, order, 1))
    solved = Factorised(diagonals[:, :, None] * np.eye(order))(rhs)
    np.testing.assert_allclose(solved[:, :, 0], 1.0 / diagonals, rtol=1e-14)


def test_a_row_that_outweighs_all_others_may_be_left_out():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3))
    X[4] *= 1e7  # the other rows are rounding in a sum of squares with this one
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=30)
    search = ShineCV(Ridge(fit_intercept=False), cv=LeaveOneOut()).fit(X, y)
    own = Ridge(search.alpha_, fit_intercept=False, solver="svd")
    scores = cross_val_score(own, X, y, cv=LeaveOneOut(), scoring="neg_mean_squared_error")
    assert search.best_score_ == pytest.approx(scores.mean(), rel=1e-6)
