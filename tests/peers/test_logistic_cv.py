"""Cases of scikit-learn's own tests of LogisticRegressionCV that apply here.

Each names the test that it is after, in ``sklearn/linear_model/tests/test_logistic.py`` of version
1.9; the code is ours. Those of paths of coefficients, of L1 terms and of solvers have no
counterpart.
"""

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, StratifiedKFold

from hoag_shine import ShineCV

TIGHT = {"solver": "newton-cholesky", "tol": 1e-10, "max_iter": 1000}


def at(C, **options):
    """Return a search of a single C."""
    return ShineCV(LogisticRegression(**options), bounds=(C, C * 1.0001), init=C, tol=1e-5)


def iris():
    X, y = load_iris(return_X_y=True)
    return X - X.mean(axis=0), y


@pytest.mark.filterwarnings("ignore:The outer search ended")
@pytest.mark.parametrize("options", [{"fit_intercept": False}, {}])
def test_one_value_of_C(options):
    """After ``test_logistic_cv`` and ``test_logistic_regression_cv_refit``."""
    X, y = make_classification(n_samples=50, n_features=5, random_state=0)
    y = 2 * y - 1
    search = at(1.0, **options).set_params(cv=3).fit(X, y)
    own = LogisticRegression(C=search.C_, **TIGHT, **options).fit(X, y)
    np.testing.assert_allclose(search.coef_, own.coef_, rtol=1e-3, atol=1e-3)
    assert search.coef_.shape == (1, 5)
    assert list(search.classes_) == [-1, 1]
    assert isinstance(search.C_, float)


def test_the_scorer_chooses_and_scores():
    """After ``test_logistic_cv_mock_scorer``."""
    X, y = make_classification(random_state=0)
    calls = []

    def third(estimator, X, y):
        calls.append(1)
        return 0.8 if 4 < len(calls) <= 6 else 0.1

    search = ShineCV(LogisticRegression(), cv=2, scoring=third, refit="score").fit(X, y)
    assert search.best_index_ == 2
    calls.clear()
    assert search.score(X, y) == 0.1
    assert len(calls) == 1


def test_labels_may_be_text():
    """After ``test_multinomial_logistic_regression_string_inputs``."""
    X, y = make_classification(
        n_samples=90, n_features=5, n_classes=3, n_informative=3, random_state=0
    )
    texts = np.array(["bar", "baz", "foo"])[y]
    numbers, words = (ShineCV(LogisticRegression()).fit(X, labels) for labels in (y - 1, texts))
    np.testing.assert_array_equal(numbers.coef_, words.coef_)
    assert list(words.classes_) == ["bar", "baz", "foo"]
    assert set(words.predict(X)) == {"bar", "baz", "foo"}
    weighted = ShineCV(LogisticRegression(class_weight={"bar": 1, "baz": 2, "foo": 0}))
    with pytest.warns(UserWarning, match="class 'foo'"):
        assert set(weighted.fit(X, texts).predict(X)) == {"bar", "baz"}


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_fold_lacks_the_class_that_it_holds_out(n_classes):
    """After ``test_logistic_cv_folds_with_classes_missing``.

    There, probabilities of zero have a Brier score; here an infinite loss leaves nothing.
    """
    y = np.repeat(["a", "b", "c"], 4)[: 4 * n_classes]
    X = np.arange(4.0 * n_classes)[:, None]
    with pytest.raises(ValueError, match="no sample of class 'a', nor has any fold"):
        ShineCV(LogisticRegression(), cv=KFold(n_classes)).fit(X, y)
    without = ShineCV(LogisticRegression(fit_intercept=False), cv=KFold(n_classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the least C is best
        assert without.fit(X, y).C_ < 1.0


@pytest.mark.parametrize("convert", [sparse.csr_matrix, sparse.csr_array, sparse.csc_array])
def test_sparse_and_dense_give_the_same(convert):
    """After ``test_logistic_cv_sparse``."""
    X, y = make_classification(n_samples=100, n_features=5, random_state=0)
    X[X < 0.0] = 0.0
    dense, other = (
        ShineCV(LogisticRegression(), tol=1e-5).fit(data, y) for data in (X, convert(X))
    )
    np.testing.assert_allclose(other.coef_, dense.coef_, rtol=1e-3)
    assert pytest.approx(dense.C_, rel=1e-3) == other.C_


@pytest.mark.parametrize("class_weight", ["balanced", {0: 0.1, 1: 0.2, 2: 3.0}])
def test_class_weights(class_weight):
    """After ``test_logistic_regressioncv_class_weights``."""
    X, y = make_classification(
        n_samples=60, n_features=3, n_informative=3, n_redundant=0, n_classes=3, random_state=0
    )
    estimator = LogisticRegression(fit_intercept=False, class_weight=class_weight)
    search = ShineCV(estimator, cv=3, tol=1e-4).fit(X, y)
    options = TIGHT | {"fit_intercept": False, "class_weight": class_weight}
    own = LogisticRegression(C=search.C_, **options).fit(X, y)
    np.testing.assert_allclose(search.coef_, own.coef_, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weights", ["ones", "drawn"])
def test_sample_weights(weights):
    """After ``test_logistic_regression_sample_weights``."""
    X, y = make_classification(n_samples=60, n_features=5, random_state=0)
    ones = np.ones(60)
    weight = ones if weights == "ones" else np.random.default_rng(0).integers(1, 4, 60)
    search = ShineCV(LogisticRegression(), cv=3, tol=1e-4).fit(X, y, sample_weight=weight)
    own = LogisticRegression(C=search.C_, **TIGHT).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(search.coef_, own.coef_, rtol=1e-3, atol=1e-4)
    if weights == "ones":
        plain = ShineCV(LogisticRegression(), cv=3, tol=1e-4).fit(X, y)
        np.testing.assert_allclose(plain.coef_, search.coef_, rtol=1e-6)


def test_class_weights_are_sample_weights():
    """After ``test_logistic_regression_class_weights``, cross-validated.

    Held-out rows have no class weight: the penalty differs, its fit does not.
    """
    X, y = iris()
    X, y = X[45:], y[45:]
    weight = np.where(y == 0, 0.5, 1.0)
    by_class = ShineCV(LogisticRegression(class_weight={0: 0.5}), cv=3, tol=1e-4).fit(X, y)
    own = LogisticRegression(C=by_class.C_, **TIGHT).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(by_class.coef_, own.coef_, rtol=1e-3, atol=1e-3)


def test_losses_of_folds_are_those_of_fits_by_hand():
    """After ``test_LogisticRegressionCV_on_folds``."""
    X, y = iris()
    cv = StratifiedKFold(5)
    search = ShineCV(LogisticRegression(), tol=1e-5).fit(X, y)
    for k, (train, test) in enumerate(cv.split(X, y)):
        own = LogisticRegression(C=search.C_, **TIGHT).fit(X[train], y[train])
        loss = log_loss(y[test], own.predict_proba(X[test]))
        found = search.cv_results_[f"split{k}_test_score"][search.best_index_]
        assert -found == pytest.approx(loss, rel=1e-4)


def test_no_refit_leaves_the_choice():
    """After ``test_LogisticRegressionCV_no_refit``; there coefficients are averaged, here none."""
    X, y = iris()
    search = ShineCV(LogisticRegression(), refit=False).fit(X, y)
    assert search.best_params_["C"] == search.C_
    assert not hasattr(search, "coef_")


def test_scorers_get_the_weights():
    """After ``test_lr_cv_scores_without_enabling_metadata_routing``."""
    X, y = make_classification(n_samples=40, random_state=10)
    weight = np.where(np.arange(40) < 20, 2.0, 1.0)
    search = ShineCV(LogisticRegression(), cv=3, scoring="accuracy", refit="accuracy")
    search.fit(X, y, sample_weight=weight)
    hits = search.predict(X) == y
    assert search.score(X, y, sample_weight=weight) == pytest.approx(
        np.average(hits, weights=weight)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l1_ratio": 0.5, "solver": "saga"}, "only the L2 penalty"),
        ({"solver": "liblinear"}, "does not couple the 3 classes"),
    ],
)
def test_what_cannot_be_tuned_says_so(options, message):
    """After ``test_elasticnet_l1_ratio_err_helpful`` and ``test_liblinear_multiclass_raises``."""
    with pytest.raises(ValueError, match=message):
        ShineCV(LogisticRegression(**options)).fit(*iris())
