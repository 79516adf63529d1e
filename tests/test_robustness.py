"""Whatever data come: a fit of finite numbers or an error that says what is wrong, and no more.

The laws here hold for all estimators. A fit may warn that it did not converge, but numpy must not
warn of overflow, nothing may be NaN, and what was passed must be as before.
"""

import multiprocessing
import warnings
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
from helpers import TIMES, breast_cancer, diabetes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone, is_classifier
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
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from hoag_shine import GeneralizedLinear, LogisticLoss, Outcome, ShineCV, SigmoidSquaredLoss

many = settings(
    max_examples=TIMES * settings.default.max_examples, suppress_health_check=list(HealthCheck)
)

CLASSIFIERS = [
    LogisticRegression(),
    LogisticRegression(solver="liblinear", class_weight="balanced"),
    LinearSVC(),
    LinearSVC(class_weight="balanced", fit_intercept=False),
    RidgeClassifier(),
    RidgeClassifier(class_weight="balanced"),
]
REGRESSORS = [
    Ridge(),
    Ridge(fit_intercept=False),
    PoissonRegressor(),
    GammaRegressor(),
    TweedieRegressor(power=1.5, fit_intercept=False),
    TweedieRegressor(power=3),
    TweedieRegressor(power=0),
    TweedieRegressor(power=0, link="log"),
    HuberRegressor(),
    GeneralizedLinear(),
    GeneralizedLinear(SigmoidSquaredLoss()),
    GeneralizedLinear(LogisticLoss(), fit_intercept=False),
]
LABELS = [
    np.array(["b", "a", "c"]),
    np.array([False, True, True]),
    np.array([3, -1, 2]),
    np.array(["yes", "no", "perhaps"], dtype=object),
    np.array([0.0, 1.0, 2.0]),
]
exponents = st.integers(-150, 150) | st.integers(-3, 3)


def messy(X, kind):
    """Return a CSR matrix that is X, but stored in an unusual way."""
    X = sparse.csr_matrix(X)
    if kind == "duplicate":
        halves = sparse.coo_matrix(X)
        rows, columns = np.tile(halves.row, 2), np.tile(halves.col, 2)
        return _unsummed(sparse.coo_matrix((np.tile(halves.data / 2, 2), (rows, columns)), X.shape))
    if kind == "unsorted":
        X = X.copy()
        for i in range(X.shape[0]):
            part = slice(X.indptr[i], X.indptr[i + 1])
            X.indices[part], X.data[part] = X.indices[part][::-1].copy(), X.data[part][::-1].copy()
        X.has_sorted_indices = False
    if kind == "zeros" and X.nnz:
        X.data[0] = 0.0
    if kind == "int64":
        X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def _unsummed(X):
    """Return a CSR matrix from COO without summing entries of the same place."""
    order = np.argsort(X.row, kind="stable")
    indptr = np.searchsorted(X.row[order], np.arange(X.shape[0] + 1))
    return sparse.csr_matrix((X.data[order], X.col[order], indptr), X.shape)


FORMATS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "list": lambda X: X.tolist(),
    "float32": lambda X: X.astype(np.float32),
    "float16": lambda X: np.clip(X, -6e4, 6e4).astype(np.float16),
    "longdouble": lambda X: X.astype(np.longdouble),
    "int": lambda X: np.clip(X, -1e9, 1e9).astype(np.int64),
    "csc": sparse.csc_array,
    "coo": sparse.coo_matrix,
    **{f"csr {k}": lambda X, k=k: messy(X, k) for k in ("duplicate", "unsorted", "zeros", "int64")},
}


@st.composite
def matrices(draw, n):
    """Return X of a few columns, each one spoiled in some way."""
    p = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    X = rng.normal(size=(n, p))
    for j in range(p):
        match draw(
            st.sampled_from(["", "", "constant", "zero", "copy", "scale", "sparse", "huge"])
        ):
            case "constant":
                X[:, j] = draw(st.sampled_from([1.0, -3.0, 1e8, 1e-8]))
            case "zero":
                X[:, j] = 0.0
            case "copy":
                X[:, j] = draw(st.sampled_from([1.0, -1.0, 1e-6])) * X[:, 0]
            case "scale":
                X[:, j] *= 10.0 ** draw(exponents)
            case "sparse":
                X[rng.random(n) < 0.7, j] = 0.0
            case "huge":
                X[draw(st.integers(0, n - 1)), j] = draw(st.sampled_from([1e15, -1e100, 1e305]))
    if draw(st.booleans()):
        X[draw(st.integers(0, n - 1))] = 0.0
    return X, rng


@st.composite
def problems(draw, estimators):
    estimator = draw(st.sampled_from(estimators))
    n = draw(st.integers(2, 14))
    X, rng = draw(matrices(n))
    if is_classifier(estimator):
        labels = draw(st.sampled_from(LABELS))[: draw(st.integers(1, 3))]
        codes = rng.integers(0, len(labels), n)
        if draw(st.booleans()):  # can be separated
            codes = np.minimum((X[:, 0] > np.median(X[:, 0])).astype(int), len(labels) - 1)
        y = labels[codes]
    else:
        kind = draw(st.sampled_from(["noise", "counts", "constant", "linear", "scale", "positive"]))
        y = {
            "noise": lambda: rng.normal(size=n),
            "counts": lambda: rng.poisson(1.0, n).astype(float),
            "constant": lambda: np.full(n, draw(st.sampled_from([0.0, 1.0, -2.5, 1e10]))),
            "linear": lambda: X[:, 0] + 1.0,
            "scale": lambda: rng.normal(size=n) * 10.0 ** draw(exponents),
            "positive": lambda: rng.gamma(1.0, size=n) * 10.0 ** draw(exponents),
        }[kind]()
        loss = getattr(estimator, "loss", None)
        if draw(st.integers(0, 3)):  # within the range of the loss, three times out of four
            y = y if loss is None else np.clip(y, *loss.target_range)
            if isinstance(estimator, PoissonRegressor | GammaRegressor | TweedieRegressor):
                y = np.abs(y) + isinstance(estimator, GammaRegressor)
    ends = np.eye(n)[0] + np.eye(n)[-1]
    weights = [None, None, np.ones(n), rng.integers(0, 4, n), rng.random(n), ends]
    weight = draw(st.sampled_from(weights))
    if weight is not None and draw(st.booleans()):
        weight = weight * 10.0 ** draw(exponents)
    convert = FORMATS[draw(st.sampled_from(sorted(FORMATS)))]
    with np.errstate(over="ignore"):
        X = convert(X)
    return clone(estimator), X, y, weight


def frozen(value):
    """Make arrays read-only, those inside of a sparse matrix, too."""
    for name in ("data", "indices", "indptr", "row", "col"):
        part = getattr(value, name, None)
        if sparse.issparse(value) and isinstance(part, np.ndarray):
            part.flags.writeable = False
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    return value


def same(a, b):
    if sparse.issparse(a):
        a, b = a.tocoo(), b.tocoo()
        return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("row", "col", "data"))
    return np.array_equal(a, b)


def survives(estimator, X, y, weight):
    """Fit; return the estimator, or None if it ended in an error that is meant for users."""
    before = deepcopy((X, y, weight))
    for value in (X, y, weight):
        frozen(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The least populated class")
        warnings.filterwarnings("ignore", "The number of unique classes is greater")
        warnings.filterwarnings("ignore", "The training rows of fold")
        try:
            estimator.fit(X, y, sample_weight=weight)
        except (ValueError, TypeError) as error:
            message, fitted = str(error), None
        else:
            message, fitted = "", estimator
        assert fitted is not None or len(message) > 20
        assert "array must not contain infs" not in message
        for value, then in zip((X, y, weight), before, strict=True):
            assert value is None or same(value, then)
        if fitted is not None:
            best = getattr(fitted, "best_estimator_", fitted)
            assert np.isfinite(best.coef_).all()
            assert np.isfinite(best.intercept_).all()
            with np.errstate(over="ignore"):  # in an exponential of scikit-learn's
                answers = fitted.predict(X)
            assert len(answers) == len(y)
            if is_classifier(fitted):
                assert np.isin(answers, y).all()
    return fitted


@pytest.mark.parametrize("estimators", [CLASSIFIERS, REGRESSORS], ids=["classes", "numbers"])
@many
@given(st.data())
def test_a_search_ends_in_finite_numbers_or_an_error(estimators, data):
    estimator, X, y, weight = data.draw(problems(estimators))
    method = data.draw(st.sampled_from(["auto", "auto", "shine", "cg", "exact"]))
    penalty = data.draw(st.sampled_from(["shared", "shared", "feature", "output"]))
    search = ShineCV(
        estimator, cv=2, hypergradient=method, penalty=penalty, max_iter=8, max_time=1.0
    )
    if survives(search, X, y, weight) is None:
        return
    assert np.isfinite(search.best_score_)
    (values,) = search.best_params_.values()
    values = np.asarray(values)
    # Penalties of columns have bounds in the units of these, of which 1e-8 and 1e8 are the means.
    mean = np.exp(np.mean(np.log(values))) if penalty == "feature" else values
    assert ((mean >= (1.0 - 1e-9) * 1e-8) & (mean <= (1.0 + 1e-9) * 1e8)).all()
    for record in search.history_:
        # Where an exponential overflows, a look says that nothing is known of the place.
        known = not record["look"] or record["error"] < np.inf
        assert np.isfinite(record["criterion"]) if known else not np.isnan(record["criterion"])
        assert np.isfinite(record["hypergradient"]).all()


@many
@given(problems([e for e in REGRESSORS if isinstance(e, GeneralizedLinear)]), exponents)
def test_a_generalized_linear_fit_ends_in_finite_numbers_or_an_error(problem, exponent):
    estimator, X, y, weight = problem
    survives(estimator.set_params(alpha=10.0**exponent, max_iter=100), X, y, weight)


# --- named cases: where X lies, who calls ---------------------------------------------------------


def memmap(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


def of_pandas(X, folder):
    return pytest.importorskip("pandas").DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])


def nullable(X, folder):
    return of_pandas(X, folder).astype("Float64")


def sparse_frame(X, folder):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame.sparse.from_spmatrix(sparse.csr_matrix(X))


def of_polars(X, folder):
    polars = pytest.importorskip("polars")
    return polars.DataFrame(X, schema=[f"x{j}" for j in range(X.shape[1])])


@pytest.mark.parametrize("piped", [False, True], ids=["plain", "pipeline"])
@pytest.mark.parametrize("convert", [memmap, of_pandas, nullable, sparse_frame, of_polars])
def test_a_table_is_as_good_as_its_numbers(convert, piped, tmp_path):
    X, y = diabetes()
    estimator = make_pipeline(StandardScaler(with_mean=False), Ridge()) if piped else Ridge()
    plain = ShineCV(estimator, cv=3, tol=1e-3).fit(X, y)
    found = ShineCV(estimator, cv=3, tol=1e-3).fit(convert(X, tmp_path), y)
    np.testing.assert_allclose(found.best_score_, plain.best_score_, rtol=1e-5)
    np.testing.assert_allclose(found.predict(convert(X, tmp_path)), plain.predict(X), rtol=1e-3)


@pytest.mark.parametrize(
    "estimator",
    [
        ShineCV(Ridge(), cv=3),
        ShineCV(make_pipeline(StandardScaler(with_mean=False), Ridge()), cv=3),
        GeneralizedLinear(),
    ],
    ids=["search", "pipeline", "estimator"],
)
@pytest.mark.parametrize("convert", [sparse.csr_array, sparse.csc_array])
@pytest.mark.parametrize(
    ("name", "entry", "value", "message"),
    [
        ("indices", 5, 442, "with indices from 0 to 442"),
        ("indices", 5, -1, "with indices from -1"),
        ("indptr", -1, 10_000, "broken indptr"),
        ("indptr", 1, 4_000, "broken indptr"),
    ],
)
def test_a_sparse_matrix_that_points_outside_of_itself_is_refused(
    estimator, convert, name, entry, value, message
):
    X, y = diabetes()
    spoiled = convert(X)
    getattr(spoiled, name)[entry] = value
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit(spoiled, y)


@pytest.mark.parametrize("estimator", [ShineCV(Ridge(), cv=3), GeneralizedLinear()], ids=str)
def test_coefficients_that_float32_cannot_hold_are_refused(estimator):
    X, y = diabetes()
    assert clone(estimator).fit(X.astype(np.float32), y * 1e30).predict(X).shape == y.shape
    with pytest.raises(ValueError, match="too large for float32"):
        clone(estimator).fit(X.astype(np.float32), y * 1e40)


def test_rows_of_nothing():
    X, y = diabetes()
    X = sparse.csr_array(np.where(np.arange(442)[:, None] % 3 == 0, 0.0, X))
    found = ShineCV(Ridge(), cv=3).fit(X, y)
    expected = Ridge(**found.best_params_, tol=1e-10).fit(X.toarray(), y)
    np.testing.assert_allclose(found.best_estimator_.coef_, expected.coef_, rtol=1e-3)


def test_classes_that_can_be_separated_run_to_the_bound_and_it_says_so():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 3)) + 8.0 * y[:, None]
    with pytest.warns(ConvergenceWarning, match="lies on a bound"):
        found = ShineCV(LogisticRegression(), tol=1e-6).fit(X, y)
    assert found.outcome_ is Outcome.BOUND
    np.testing.assert_allclose(found.best_params_["C"], 1e8)
    assert np.isfinite(found.best_estimator_.coef_).all()
    # By default, nobody goes on for what is a millionth of the loss without coefficients.
    early = ShineCV(LogisticRegression()).fit(X, y)
    assert 1.0 < early.best_params_["C"] < 1e8
    assert found.best_score_ < 0.0 < found.best_score_ - early.best_score_ < 1e-5 * np.log(2.0)


def test_threads_may_search_side_by_side():
    X, y = breast_cancer()
    alone = ShineCV(LogisticRegression(), cv=3).fit(X, y)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ShineCV(LogisticRegression(), cv=3).fit(X, y), range(4)))
    for each in found:
        np.testing.assert_array_equal(each.best_estimator_.coef_, alone.best_estimator_.coef_)


def best_penalty(n_jobs):
    return ShineCV(LogisticRegression(), cv=3, n_jobs=n_jobs).fit(*breast_cancer()).best_params_


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_searches_as_its_parent_did():
    here = [best_penalty(n_jobs) for n_jobs in (1, 2)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(best_penalty, (1, 2)).get(timeout=60) == here
