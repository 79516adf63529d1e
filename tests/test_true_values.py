"""Every value that a search reports is true: drawn problems against exact solutions.

The references and the problems are those of ``truth.py``, which as a script tries more of them,
and looks closer. The references themselves are held against scikit-learn's own solvers here.
"""

import numpy as np
import pytest
from draws import Drawn
from scipy.optimize import minimize_scalar
from sklearn.base import clone, is_classifier
from sklearn.linear_model import HuberRegressor
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.svm import LinearSVC
from supported import CASES
from truth import Truth, check, summary
from zoo import fit_squared_hinge

from hoag_shine import ShineCV

# Each chunk has one problem of every kind. All of them take minutes; every twentieth runs always,
# and the first of these with what is quick, too.
CHUNKS, SIZE, ALWAYS, QUICK = 100, 20, 20, 1
# The names that truth.py has for the cases of supported.py whose targets it can be given.
NAMES = {
    "LogisticRegression": ("logistic", "multinomial"),
    "LinearSVC": ("svc", "svc-classes"),
    "RidgeClassifier": ("ridge-classifier", "ridge-classifier-classes"),
    "Ridge": ("ridge", "ridge-targets"),
    "HuberRegressor": ("huber", "huber"),
    "PoissonRegressor": ("poisson", "poisson"),
    "GammaRegressor": ("gamma", "gamma"),
    "TweedieRegressor": ("tweedie", "tweedie"),
}


def marks(chunk):
    if chunk % ALWAYS:
        return pytest.mark.exhaustive
    return pytest.mark.slow if chunk >= QUICK * ALWAYS else ()


@pytest.mark.parametrize("chunk", [pytest.param(k, marks=marks(k)) for k in range(CHUNKS)])
def test_reported_values_are_true(chunk):
    verdicts = [check(seed) for seed in range(chunk * SIZE, (chunk + 1) * SIZE)]
    failed = [str(verdict) for verdict in verdicts if verdict.failures]
    assert not failed, "\n".join([summary(verdicts), *failed])


@pytest.mark.parametrize("seed", [0, 1])
def test_errors_of_a_nearly_separable_squared_hinge_are_not_underestimated(seed):
    """Its curvature jumps with each of the few rows that are left inside the margin."""
    rng = np.random.default_rng(seed)
    X = (rng.random((3_000, 100)) < 0.2).astype(float)
    z = X @ rng.integers(-3, 4, 100).astype(float)
    y = (z > np.median(z) + 0.5).astype(int)
    folds = list(StratifiedKFold(shuffle=True, random_state=0).split(X, y))
    search = ShineCV(LinearSVC(), cv=folds, refit=False).fit(X, y)
    assert not search.certificate_.certain  # or nothing is estimated
    A = np.where(y == 1, 1.0, -1.0)[:, None] * np.column_stack([X, np.ones(len(X))])
    checked = 0
    for record in search.history_:
        if not 1e-8 < record["criterion"] < 2.5e-3:
            continue
        C, values = float(np.exp(-record["theta"][0])), []
        for train, test in folds:
            w, gap = fit_squared_hinge(np.zeros(A.shape[1]), A[train], C, 1e-12)
            assert gap <= 1e-12
            values.append(np.mean(np.maximum(1.0 - A[test] @ w, 0.0) ** 2))
        assert abs(np.mean(values) - record["criterion"]) <= record["error"]
        checked += 1
    assert checked >= 5


def as_drawn(case):
    """Return a case of scikit-learn's as a problem of truth.py."""
    X, y = case.data()
    estimator, codes = clone(case.estimator), y
    several = y.ndim > 1
    if is_classifier(estimator):
        several = np.unique(y).size > 2
        labels, codes = np.unique(y, return_inverse=True)
        weights = getattr(estimator, "class_weight", None)
        if isinstance(weights, dict):
            by_code = {k: weights.get(label, 1.0) for k, label in enumerate(labels.tolist())}
            estimator.set_params(class_weight=by_code)
    name = NAMES[type(case.estimator).__name__][several]
    if getattr(estimator, "solver", "") == "liblinear":
        name = "logistic-liblinear"
    return Drawn(0, name, estimator, X, codes, None, 4, "shared", {}, True)


def comparable(case):
    return case.data.__name__ != "several_labels"


@pytest.mark.parametrize("case", [c for c in CASES if comparable(c)], ids=str)
def test_references_agree_with_scikit_learn(case):
    drawn = as_drawn(case)
    truth = Truth(drawn)
    X, y = case.data()
    value = 0.3
    h = truth.strengths({case.parameter: value}, ("shared",))
    own = case.own(**{case.parameter: value})
    true = truth.criteria([h])
    scores = cross_validate(clone(own), X, y, cv=list(truth.splits), scoring=case.criterion)
    assert true.errors[0] <= 1e-10 * true.values[0]
    assert true.values[0] == pytest.approx(-scores["test_score"].mean(), rel=2e-5)
    fit = truth.fit(h)
    coef, intercept = (a.astype(float) for a in truth.coefficients(fit.solution.w))
    own.fit(X, y)
    assert fit.errors.max() <= 1e-10
    if isinstance(own, HuberRegressor):  # whose solver ends early
        ours = huber_objective(own, X, y, coef[:, 0], intercept[0])
        assert ours <= (1.0 + 1e-12) * huber_objective(own, X, y, own.coef_, own.intercept_)
        return
    close(coef.T, np.atleast_2d(own.coef_))
    close(intercept, np.zeros(intercept.size) + own.intercept_, X @ coef + intercept)


def close(found, wanted, whole=None):
    """Assert that arrays are equal to a share of the largest number."""
    size = np.abs(wanted if whole is None else whole).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * size)


def huber_objective(own, X, y, coef, intercept):
    """Return HuberRegressor's objective, at the best scale for these coefficients."""
    r = np.abs(X @ coef + intercept - y)

    def objective(log_scale):
        scale = np.exp(log_scale)
        u = r / scale
        outside = 2.0 * own.epsilon * u - own.epsilon**2
        losses = scale * (1.0 + np.where(u < own.epsilon, u**2, outside))
        return losses.sum() + own.alpha * coef @ coef

    middle = np.log(np.median(r))
    best = minimize_scalar(objective, bounds=(middle - 3.0, middle + 3.0), options={"xatol": 1e-9})
    return best.fun
