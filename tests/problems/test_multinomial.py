"""Softmax regression: all classes of all folds in one pass, against textbook formulas."""

from functools import cache

import numpy as np
import pytest
from helpers import LAYOUTS, ask, finite_difference, needs_data, solve_tightly, thinned
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.preprocessing import StandardScaler

from hoag_shine import MultinomialLoss, ShineCV, fold_problems, load_dataset
from hoag_shine.hypergradients import METHODS
from hoag_shine.problems import mean_hessian
from hoag_shine.problems.linear import LinearProblems
from hoag_shine.problems.penalties import GroupedPenalty
from hoag_shine.problems.requests import Evaluate, HessianProduct

N_CLASSES = 3


def wine():
    X, y = load_wine(return_X_y=True)
    return StandardScaler().fit_transform(X), y


class Reference:
    """One fold on rows of its own, with the Hessian written out.

    ``w`` is (n_features + intercept, n_classes), flattened, and so is ``groups``.
    """

    def __init__(self, X, y, s, X_test, y_test, v, groups):
        self.A, self.Y, self.s = X, np.eye(N_CLASSES)[y], s
        self.A_test, self.Y_test, self.v = X_test, np.eye(N_CLASSES)[y_test], v
        self.groups = groups

    def h(self, theta):
        return np.array([np.exp(theta[g]) if g >= 0 else 0.0 for g in self.groups])

    def value(self, w, theta):
        loss = -(self.Y * log_softmax(self.A @ w.reshape(-1, N_CLASSES), axis=1)).sum(axis=1)
        return self.s @ loss + 0.5 * self.h(theta) @ w**2 + self.centring(w)

    def centring(self, w):
        """Return what the library adds on rows that no penalty holds."""
        free = (self.groups.reshape(-1, N_CLASSES) < 0).all(axis=1)
        rho = np.where(free, self.s @ self.A**2, 0.0) / N_CLASSES**2
        return 0.5 * rho @ w.reshape(-1, N_CLASSES).sum(axis=1) ** 2

    def outer(self, w):
        Z = self.A_test @ w.reshape(-1, N_CLASSES)
        return -self.v @ (self.Y_test * log_softmax(Z, axis=1)).sum(axis=1)


def make_case(layout="C", *, fit_intercept=True, weighted=True, groups="shared", n_folds=3):
    X, y = wine()
    X = thinned(X, share=0.3)
    rng = np.random.default_rng(5)
    weight = rng.integers(0, 4, y.size) * rng.random(y.size) if weighted else np.ones(y.size)
    part = rng.integers(0, n_folds, y.size)
    p = X.shape[1]
    groups = {
        "shared": np.zeros((p, N_CLASSES), dtype=np.intp),
        "class": np.tile(np.arange(N_CLASSES), (p, 1)),
        "feature": np.repeat(np.arange(p) % 4 - 1, N_CLASSES).reshape(p, N_CLASSES),
    }[groups]
    A = X
    if fit_intercept:
        groups = np.vstack([groups, np.full(N_CLASSES, -1)])
        A = np.column_stack([X, np.ones(y.size)])
    groups = groups.ravel()
    train = np.where(part[:, None] != np.arange(n_folds), weight[:, None], 0.0)
    test = np.where(part[:, None] == np.arange(n_folds), weight[:, None], 0.0)
    test /= test.sum(axis=0)
    problems = LinearProblems(
        LAYOUTS[layout](X),
        np.eye(N_CLASSES)[y],
        MultinomialLoss(),
        GroupedPenalty(groups),
        train,
        test,
        fit_intercept=fit_intercept,
    )
    references = []
    for k in range(n_folds):
        rows, held_out = part != k, part == k
        v = weight[held_out] / weight[held_out].sum()
        references.append(
            Reference(A[rows], y[rows], weight[rows], A[held_out], y[held_out], v, groups)
        )
    return problems, references


def points(problems, seed=0):
    rng = np.random.default_rng(seed)
    n = problems.n_params
    return (
        rng.normal(size=(len(problems), n)) / 3,
        rng.normal(size=n),
        rng.normal(size=problems.n_hyperparameters),
    )


# --- the loss ----------------------------------------------------------------------------------


def test_the_loss_is_the_log_loss_and_its_inverse_link_the_probability():
    rng = np.random.default_rng(0)
    y, z = rng.integers(0, 4, 100), 3.0 * rng.normal(size=(100, 2, 4))
    loss = MultinomialLoss()
    Y = np.eye(4)[y][:, None]
    for k in range(2):
        p = loss.inverse_link(z)[:, k]
        np.testing.assert_allclose(p, softmax(z[:, k], axis=1), rtol=1e-13)
        np.testing.assert_allclose(
            loss.value(Y, z)[:, k].mean(), log_loss(y, p, labels=range(4)), rtol=1e-12
        )
    assert loss.value(Y, z).shape == (100, 2, 1)
    assert loss.scoring == "neg_log_loss"
    assert loss.convex


def test_the_second_derivative_is_diag_p_minus_pp():
    rng = np.random.default_rng(1)
    Y, z, v = np.eye(4)[[2]][:, None], rng.normal(size=(1, 1, 4)), rng.normal(size=(1, 1, 4))
    loss = MultinomialLoss()
    p = softmax(z.ravel())
    H = np.diag(p) - np.outer(p, p)
    hessian = loss.hessian(Y, z)
    np.testing.assert_allclose(loss.hessian_product(hessian, v).ravel(), H @ v.ravel(), rtol=1e-12)
    np.testing.assert_allclose(loss.hessian_diagonal(hessian).ravel(), np.diag(H), rtol=1e-12)
    numeric = finite_difference(
        lambda t: loss.gradient(Y, t.reshape(1, 1, 4)).ravel(), z.ravel(), 1e-5
    )
    np.testing.assert_allclose(H, numeric, atol=1e-9)


@pytest.mark.parametrize("size", [1e-300, 1.0, 40.0, 1e3, 1e300])
def test_the_loss_neither_overflows_nor_loses_its_tails(size):
    loss, z = MultinomialLoss(), size * np.array([[[1.0, 0.0, -1.0]]])
    for c, expected in enumerate([0.0, size, 2.0 * size]):
        Y = np.eye(3)[[c]][:, None]
        value, gradient = loss.value_and_gradient(Y, z)
        assert expected <= value[0, 0, 0] <= np.nextafter(expected + np.log(3.0), np.inf)
        np.testing.assert_allclose(gradient.sum(), 0.0, atol=1e-15)
        assert (np.abs(gradient) <= 1.0).all()
        assert np.isfinite(loss.hessian_product(loss.hessian(Y, z), np.ones_like(z))).all()


# --- the problems ------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", ["shared", "class", "feature"])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_fold_is_the_problem_of_its_own_rows(layout, weighted, fit_intercept, groups):
    problems, references = make_case(
        layout, fit_intercept=fit_intercept, weighted=weighted, groups=groups
    )
    ws, v, theta = points(problems)
    values = problems.answer({k: Evaluate(w) for k, w in enumerate(ws)}, theta)
    products = problems.answer({k: HessianProduct(w, v) for k, w in enumerate(ws)}, theta)
    m = problems.n_outputs
    units = np.zeros((m, v.size))
    units[:, -m:] = np.eye(m)  # of intercepts, where there are any
    several = {k: HessianProduct(w, np.vstack([v, units])) for k, w in enumerate(ws)}
    for k, found in problems.answer(several, theta).items():
        each = [problems[k].hessp(ws[k], theta)(e) for e in units]
        np.testing.assert_allclose(found, [products[k], *each], rtol=1e-9, atol=1e-10)
    for k, (reference, w) in enumerate(zip(references, ws, strict=True)):
        value, grad = values[k]
        np.testing.assert_allclose(value, reference.value(w, theta), rtol=1e-12)
        numeric = finite_difference(lambda w, r=reference: r.value(w, theta), w, 1e-5)
        np.testing.assert_allclose(grad, numeric, rtol=1e-6, atol=1e-6)
        t = 1e-5
        along = [problems[k].value_and_grad(w + s * t * v, theta)[1] for s in (1, -1)]
        numeric = (along[0] - along[1]) / (2 * t)
        np.testing.assert_allclose(products[k], numeric, rtol=1e-6, atol=1e-6)
        outer, outer_grad = problems[k].outer_value_and_grad(w)
        np.testing.assert_allclose(outer, reference.outer(w), rtol=1e-12)
        numeric = finite_difference(reference.outer, w, 1e-5)
        np.testing.assert_allclose(outer_grad, numeric, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(problems[k].penalty_hessian(theta), reference.h(theta))
        cross = finite_difference(
            lambda t, k=k, w=w: problems[k].value_and_grad(w, t)[1], theta, 1e-5
        )
        found = problems[k].cross_vjp(w, theta, v)
        np.testing.assert_allclose(found, cross.T @ v, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("groups", ["shared", "class", "feature"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_hessian_is_symmetric_positive_definite_and_has_that_diagonal(layout, groups):
    problems, _ = make_case(layout, groups=groups)
    ws, _, theta = points(problems)
    for problem, w in zip(problems, ws, strict=True):
        product = problem.hessp(w, theta)
        H = np.column_stack([product(e) for e in np.eye(w.size)])
        np.testing.assert_allclose(H, H.T, atol=1e-11)
        np.testing.assert_allclose(
            problem.data_diagonal(w) + problem.penalty_hessian(theta), np.diag(H), rtol=1e-11
        )
        # Without care, a constant added to all intercepts would have no curvature.
        eigenvalues = np.linalg.eigvalsh(H)
        assert eigenvalues[0] > 1e-3 * eigenvalues[-1] / problem.n_params


@pytest.mark.parametrize("groups", ["shared", "class", "feature"])
def test_solutions_are_centred_where_nothing_else_decides(groups):
    problems, references = make_case(groups=groups)
    theta = np.zeros(problems.n_hyperparameters)
    solution = solve_tightly(problems[0], theta)
    W = solution.w.reshape(-1, N_CLASSES)
    free = (references[0].groups.reshape(-1, N_CLASSES) < 0).all(axis=1)
    assert free.sum() == (4 if groups == "feature" else 1) + (groups == "feature")
    np.testing.assert_allclose(W[free].sum(axis=1), 0.0, atol=1e-9)
    assert references[0].centring(solution.w) <= 1e-15


@pytest.mark.parametrize("method", ["exact", "cg"])
@pytest.mark.parametrize("groups", ["shared", "class", "feature"])
@pytest.mark.parametrize("layout", ["C", "csr"])
def test_hypergradients_are_those_of_finite_differences(layout, groups, method):
    problems, _ = make_case(layout, groups=groups)
    problem = problems[1]
    theta = np.linspace(-0.5, 0.5, problems.n_hyperparameters)

    def criterion(theta):
        return problem.outer_value_and_grad(solve_tightly(problem, theta).w)[0]

    solution = solve_tightly(problem, theta)
    outer_grad = problem.outer_value_and_grad(solution.w)[1]
    q = ask(METHODS[method], problem, theta, solution, outer_grad).q
    hypergradient = -problem.cross_vjp(solution.w, theta, q)
    expected = finite_difference(criterion, theta, 1e-3)
    error = np.linalg.norm(hypergradient - expected)
    assert error <= 1e-5 * np.linalg.norm(expected)


# --- LogisticRegression ------------------------------------------------------------------------


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_the_refitted_model_is_scikit_learns(class_weight, fit_intercept):
    X, y = wine()
    y = np.array(["red", "rosé", "white"])[y]
    estimator = LogisticRegression(class_weight=class_weight, fit_intercept=fit_intercept)
    search = ShineCV(estimator, cv=4, tol=1e-3).fit(X, y)
    expected = clone(estimator).set_params(**search.best_params_, tol=1e-10, max_iter=10_000)
    expected.fit(X, y)
    found = search.best_estimator_
    assert found.coef_.shape == (3, 13)
    assert found.intercept_.shape == (3,)
    # The refit ends at 1e-6 of the first gradient; H, which divides the error, is 1 / C or more.
    scale = np.linalg.norm(X.T @ (np.eye(3)[np.unique(y, return_inverse=True)[1]] - 1 / 3))
    atol = 2e-6 * scale * search.best_params_["C"]
    assert atol < 2e-2
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=atol)
    np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=atol)
    np.testing.assert_array_equal(search.predict(X), expected.predict(X))
    np.testing.assert_allclose(search.predict_proba(X), expected.predict_proba(X), atol=1e-3)
    np.testing.assert_array_equal(search.classes_, ["red", "rosé", "white"])


def test_the_best_score_is_what_cross_validation_gives():
    X, y = wine()
    weight = np.random.default_rng(0).integers(1, 4, y.size)
    cv = StratifiedKFold(3)
    search = ShineCV(LogisticRegression(), cv=cv, tol=1e-3).fit(X, y)
    exact = LogisticRegression(**search.best_params_, tol=1e-10, max_iter=10_000)
    scores = cross_val_score(exact, X, y, cv=cv, scoring="neg_log_loss")
    np.testing.assert_allclose(search.best_score_, scores.mean(), rtol=1e-5)
    # A weight counts as often as the row does.
    weighted = ShineCV(LogisticRegression(), cv=cv, tol=1e-3).fit(X, y, sample_weight=weight)
    rows = np.repeat(np.arange(y.size), weight)
    splits = [
        (np.flatnonzero(np.isin(rows, train)), np.flatnonzero(np.isin(rows, test)))
        for train, test in cv.split(X, y)
    ]
    repeated = ShineCV(LogisticRegression(), cv=splits, tol=1e-3).fit(X[rows], y[rows])
    np.testing.assert_allclose(weighted.best_score_, repeated.best_score_, rtol=1e-5)


@cache
def best_of_scikit_learn(name):
    """Return the lowest cross-validated loss of converged fits, and its log C."""
    X, y = small(name)

    def criterion(log_C):
        # Looser fits score better than converged ones.
        model = LogisticRegression(C=np.exp(log_C), tol=1e-8, max_iter=20_000)
        return -cross_val_score(model, X, y, cv=StratifiedKFold(3), scoring="neg_log_loss").mean()

    options = {"xatol": 1e-2}
    best = minimize_scalar(criterion, bounds=(-4.0, 5.0), method="bounded", options=options)
    return best.fun, best.x


def small(name):
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        return X[:500] / 16.0, y[:500]
    X, y = load_dataset(name)
    return X[:600], y[:600]


@pytest.mark.parametrize("layout", ["C", "csr"])
def test_digits_agree_with_scikit_learns_best(layout):
    X, y = small("digits")
    cv = StratifiedKFold(3)
    search = ShineCV(LogisticRegression(), cv=cv, hypergradient="cg", tol=1e-3)
    search.fit(LAYOUTS[layout](X), y)
    loss, log_C = best_of_scikit_learn("digits")
    np.testing.assert_allclose(-search.best_score_, loss, rtol=1e-4)
    np.testing.assert_allclose(np.log(search.best_params_["C"]), log_C, atol=0.05)


def test_what_is_not_a_softmax_is_refused():
    X, y = wine()
    liblinear = LogisticRegression(solver="liblinear", fit_intercept=False)
    with pytest.raises(ValueError, match=r"solver='liblinear'.*3 classes"):
        ShineCV(liblinear).fit(X, y)
    with pytest.raises(ValueError, match="at least 2 classes"):
        ShineCV(LogisticRegression()).fit(X[:50], y[:50])
    cv = [(np.flatnonzero(y < 2), np.flatnonzero(y == 2))]
    with pytest.raises(ValueError, match=r"Fold 0 .* no sample of class .*2"):
        ShineCV(LogisticRegression(), cv=cv).fit(X, y)


def test_one_pass_serves_all_classes_and_folds():
    X, y = wine()
    problems = fold_problems(LogisticRegression(), X, y, cv=5)
    ws, _, theta = points(problems)
    before = problems.n_passes
    problems.answer({k: Evaluate(w) for k, w in enumerate(ws)}, theta)
    assert problems.n_passes == before + 1.0


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("hypergradient", ["shine", "cg"])
@pytest.mark.parametrize("name", ["libsvm:dna", "images:usps"])
def test_real_data_agree_with_scikit_learns_best(name, hypergradient):
    X, y = small(name)
    cv = StratifiedKFold(3)
    search = ShineCV(LogisticRegression(), cv=cv, hypergradient=hypergradient, tol=1e-3).fit(X, y)
    loss, log_C = best_of_scikit_learn(name)
    np.testing.assert_allclose(-search.best_score_, loss, rtol=1e-4)
    np.testing.assert_allclose(np.log(search.best_params_["C"]), log_C, atol=0.05)


# --- the preconditioner -------------------------------------------------------------------------


def few_digits(n_classes):
    X, y = load_digits(n_class=n_classes, return_X_y=True)
    X = np.delete(X, [0, 32, 39], axis=1)[:400] / 16.0  # columns of zeros
    return X, y[:400]


def matrix_of(function, n):
    return np.stack([function(e) for e in np.eye(n)], axis=1)


@pytest.fixture
def blocks_alone(monkeypatch):
    """A block for each class, and none for pairs of classes."""
    monkeypatch.setattr(mean_hessian, "QUICK_GRAM_MULTIPLICATIONS", 0.0)
    monkeypatch.setattr(mean_hessian, "MAX_GRAM_PRODUCTS", 10.0)


def test_the_preconditioner_is_exact_for_shifts(blocks_alone):
    X, y = few_digits(6)
    problems = fold_problems(LogisticRegression(), X, y, cv=3)
    theta, n = np.zeros(1), problems[0].n_params
    rng = np.random.default_rng(0)
    (inverse, *_) = problems.preconditioners([0.3 * rng.normal(size=n)] * 3, theta)
    P = matrix_of(inverse, n)
    np.testing.assert_allclose(P, P.T, atol=1e-12 * np.abs(P).max())
    assert np.linalg.eigvalsh(P)[0] > 0.0
    # Of the coefficients, that is of those with a penalty.
    shift = np.repeat(np.append(rng.normal(size=X.shape[1]), 0.0), 6)
    curved = problems[0].hessp(np.zeros(n), theta)(shift)
    np.testing.assert_allclose(inverse(curved), shift, atol=1e-12)


def test_the_preconditioner_saves_iterations(blocks_alone, monkeypatch):
    X, y = few_digits(6)

    def n_iterations():
        problem = fold_problems(LogisticRegression(), X, y, cv=3)[0]
        start = solve_tightly(problem, np.array([0.5])).w
        return solve_tightly(problem, np.zeros(1), w=start).n_iter

    few = n_iterations()
    monkeypatch.setattr(mean_hessian, "MAX_GRAM_PRODUCTS", 0.0)
    assert 2 * few < n_iterations()


def test_classes_alike_have_one_block(blocks_alone, monkeypatch):
    """At zero, every class has the same probability, and so the same block."""
    X, y = few_digits(6)
    ws, theta = [np.zeros((X.shape[1] + 1) * 6)] * 3, np.zeros(1)
    v = np.random.default_rng(0).normal(size=ws[0].size)
    (each, *_) = fold_problems(LogisticRegression(), X, y, cv=3).preconditioners(ws, theta)
    # Too dear for a block a class, cheap enough for one.
    monkeypatch.setattr(mean_hessian, "MAX_GRAM_PRODUCTS", 2.0)
    (one, *_) = fold_problems(LogisticRegression(), X, y, cv=3).preconditioners(ws, theta)
    np.testing.assert_allclose(one(v), each(v), rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(mean_hessian, "MAX_GRAM_PRODUCTS", 0.1)
    problems = fold_problems(LogisticRegression(), X, y, cv=3)
    assert problems.preconditioners(ws, theta) == [None] * 3
