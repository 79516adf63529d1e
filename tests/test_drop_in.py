"""Examples of scikit-learn's user guide on GridSearchCV over a linear model, with ShineCV instead.

Each example is written once, for either search: nothing but the name of the class and the grid
differ. What it ends with must be as good as with the grid, or better. Where scikit-learn's solver
would stop early enough to be a regularisation of its own, its ``tol`` is smaller than in the guide.
"""

import numpy as np
import pytest
from helpers import needs_data
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectPercentile, chi2
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.metrics import classification_report, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    RepeatedStratifiedKFold,
    StratifiedKFold,
    cross_val_score,
    train_test_split,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from hoag_shine import ShineCV
from hoag_shine.datasets import data_home


def by_grid(values):
    """Return the maker of a GridSearchCV over a parameter's values."""

    def make(estimator, parameter, **options):
        return GridSearchCV(estimator, {parameter: values}, **options)

    return make


def by_shine(estimator, parameter, **options):
    return ShineCV(estimator, **options)


def both(example, values):
    """Return what an example ends with, by a grid and by ShineCV."""
    return example(by_grid(values)), example(by_shine)


# --- "Sample pipeline for text feature extraction and evaluation" --------------------------------


def film_reviews(n):
    """Return reviews of IMDB as strings: every word by its number, as often as it is there."""
    folder = data_home() / "text"
    counts = sparse.load_npz(folder / "imdb_counts.npz").tocsr()[:25000]
    target = np.load(folder / "imdb_target.npz")
    target = target[target.files[0]][:25000] if hasattr(target, "files") else target[:25000]
    rows = np.random.default_rng(0).permutation(25000)[:n]
    texts = []
    for row in rows:
        part = counts[[row]]
        words = np.repeat(part.indices, part.data.astype(int))
        texts.append(" ".join(f"w{word}" for word in words))
    return texts, np.where(target[rows] == target.max(), "positive", "negative")


@needs_data
@pytest.mark.slow
def test_text_feature_extraction():
    data, target = film_reviews(500)
    train, test, y_train, y_test = train_test_split(data, target, random_state=0)

    def example(search):
        pipeline = Pipeline(
            [
                ("vect", TfidfVectorizer(min_df=2, sublinear_tf=True)),
                ("clf", LogisticRegression(max_iter=1000)),
            ]
        )
        found = search(pipeline, "clf__C", scoring="neg_log_loss", cv=5)
        found.fit(train, y_train)
        names = found.best_estimator_.named_steps["vect"].get_feature_names_out()
        assert len(names) == found.best_estimator_.named_steps["clf"].coef_.shape[1]
        report = classification_report(y_test, found.predict(test), output_dict=True)
        return found.best_score_, found.score(test, y_test), report["accuracy"]

    grid, shine = both(example, np.logspace(-1, 3, 5))
    assert shine[0] >= grid[0]
    assert shine[1] >= grid[1] - 0.01
    assert shine[2] >= grid[2] - 0.01


# --- "Column Transformer with Mixed Types" -------------------------------------------------------


@needs_data
def test_column_transformer_with_mixed_types():
    """Abalones: the sex is a word, the sizes are numbers, some of them missing."""
    pandas = pytest.importorskip("pandas")
    with np.load(data_home() / "tabular" / "abalone.npz") as archive:
        X = pandas.DataFrame(archive["X"], columns=[str(name) for name in archive["feature_names"]])
        y = archive["y"] > 9
    X["Sex"] = X["Sex"].map({1.0: "female", 2.0: "infant", 3.0: "male"}).astype(object)
    X.loc[::17, "Length"] = np.nan
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=0)

    def example(search):
        numeric_features = [name for name in X.columns if name != "Sex"]
        numeric_transformer = Pipeline(
            steps=[("imputer", SimpleImputer(strategy="median")), ("scaler", StandardScaler())]
        )
        categorical_transformer = Pipeline(
            steps=[
                ("encoder", OneHotEncoder(handle_unknown="ignore")),
                ("selector", SelectPercentile(chi2, percentile=50)),
            ]
        )
        preprocessor = ColumnTransformer(
            transformers=[
                ("num", numeric_transformer, numeric_features),
                ("cat", categorical_transformer, ["Sex"]),
            ]
        )
        clf = Pipeline(
            steps=[
                ("preprocessor", preprocessor),
                ("classifier", LogisticRegression(max_iter=1000)),
            ]
        )
        found = search(clf, "classifier__C", scoring="neg_log_loss")
        found.fit(X_train, y_train)
        np.testing.assert_array_equal(found.feature_names_in_, X.columns)
        return found.best_score_, found.score(X_test, y_test)

    grid, shine = both(example, [0.1, 1.0, 10, 100])
    assert shine[0] >= grid[0] - 1e-6
    assert shine[1] >= grid[1] - 1e-3


# --- "Nested versus non-nested cross-validation" -------------------------------------------------


def test_nested_cross_validation():
    X_iris, y_iris = load_iris(return_X_y=True)

    def example(search):
        nested = []
        for i in range(2):
            inner_cv = KFold(n_splits=4, shuffle=True, random_state=i)
            outer_cv = KFold(n_splits=4, shuffle=True, random_state=i)
            clf = search(LogisticRegression(max_iter=2000), "C", cv=inner_cv)
            nested.append(cross_val_score(clf, X=X_iris, y=y_iris, cv=outer_cv).mean())
        return np.mean(nested)

    grid, shine = both(example, [1, 10, 100])
    assert shine >= grid - 1 / 150  # one flower


# --- "Demonstration of multi-metric evaluation on cross_val_score and GridSearchCV" --------------


def test_multi_metric_evaluation():
    X, y = load_breast_cancer(return_X_y=True)

    def example(search):
        scoring = {"AUC": "roc_auc", "Loss": "neg_log_loss"}
        gs = search(
            make_pipeline(StandardScaler(), LogisticRegression()),
            "logisticregression__C",
            scoring=scoring,
            refit="AUC",
            return_train_score=True,
        )
        gs.fit(X, y)
        results = gs.cv_results_
        X_axis = np.array(results["param_logisticregression__C"].data, dtype=float)
        assert X_axis.ndim == 1
        for scorer in sorted(scoring):
            for sample in ("train", "test"):
                mean = results[f"mean_{sample}_{scorer}"]
                assert (results[f"std_{sample}_{scorer}"] >= 0).all()
                assert mean.shape == X_axis.shape
            best_index = np.nonzero(results[f"rank_test_{scorer}"] == 1)[0][0]
            assert results[f"mean_test_{scorer}"][best_index] == mean.max()
        return gs.best_score_, results["mean_test_Loss"].max()

    grid, shine = both(example, [0.01, 0.1, 1, 10, 100])
    assert shine[0] >= grid[0]
    assert shine[1] >= grid[1]


# --- "Balance model complexity and cross-validated score" ----------------------------------------


def test_refit_by_a_function_of_the_results():
    """Of the models within one standard deviation of the best, the one with the least C."""
    X, y = load_digits(return_X_y=True)
    X, y = X[:600], y[:600]

    def best_low_complexity(cv_results):
        best_score_idx = np.argmax(cv_results["mean_test_score"])
        threshold = (
            cv_results["mean_test_score"][best_score_idx]
            - cv_results["std_test_score"][best_score_idx]
        )
        candidate_idx = np.flatnonzero(cv_results["mean_test_score"] >= threshold)
        C = np.array([params["classify__C"] for params in cv_results["params"]])
        return candidate_idx[C[candidate_idx].argmin()]

    def example(search):
        pipe = Pipeline(
            [
                ("scaler", StandardScaler()),
                ("reduce_dim", PCA(n_components=20, random_state=42)),
                ("classify", LogisticRegression(random_state=42, C=0.01, max_iter=1000)),
            ]
        )
        found = search(pipe, "classify__C", cv=4, scoring="accuracy", refit=best_low_complexity)
        found.fit(X, y)
        best = found.cv_results_["mean_test_score"].max()
        chosen = found.cv_results_["mean_test_score"][found.best_index_]
        assert chosen >= best - 0.05
        assert not hasattr(found, "best_score_")
        return best

    grid, shine = both(example, np.logspace(-4, 4, 5))
    assert shine >= grid - 0.005


# --- "Pipelining: chaining a PCA and a logistic regression" --------------------------------------


def test_chaining_a_pca_and_a_logistic_regression():
    X_digits, y_digits = load_digits(return_X_y=True)
    X_digits, y_digits = X_digits[:600], y_digits[:600]

    def example(search):
        pipe = Pipeline(
            steps=[
                ("scaler", StandardScaler()),
                ("pca", PCA(n_components=30)),
                ("logistic", LogisticRegression(max_iter=10000, tol=1e-7)),
            ]
        )
        found = search(pipe, "logistic__C", scoring="neg_log_loss")
        found.fit(X_digits, y_digits)
        assert found.best_params_["logistic__C"] > 0
        return found.best_score_

    grid, shine = both(example, np.logspace(-4, 4, 4))
    assert shine >= grid


# --- "Statistical comparison of models using grid search" ----------------------------------------


def test_repeated_folds():
    X, y = load_wine(return_X_y=True)

    def example(search):
        cv = RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0)
        found = search(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-7)),
            "logisticregression__C",
            scoring="neg_log_loss",
            cv=cv,
        )
        found.fit(X, y)
        splits = [found.cv_results_[f"split{k}_test_score"][found.best_index_] for k in range(10)]
        assert np.mean(splits) == pytest.approx(found.best_score_)
        return found.best_score_

    grid, shine = both(example, np.logspace(-3, 3, 7))
    assert shine >= grid


# --- regressions ---------------------------------------------------------------------------------


def test_a_regression_with_a_scorer_of_ones_own():
    X, y = load_diabetes(return_X_y=True)

    def median_error(y_true, y_pred):
        return np.median(np.abs(y_true - y_pred))

    def example(search):
        found = search(
            make_pipeline(PolynomialFeatures(2), StandardScaler(), Ridge()),
            "ridge__alpha",
            scoring={
                "median": make_scorer(median_error, greater_is_better=False),
                "neg_mean_squared_error": "neg_mean_squared_error",
            },
            refit="neg_mean_squared_error",
            cv=5,
        )
        found.fit(X, y)
        assert found.best_score_ == found.cv_results_["mean_test_neg_mean_squared_error"].max()
        return found.best_score_

    grid, shine = both(example, np.logspace(-3, 3, 7))
    assert shine >= grid


@needs_data
def test_poisson_regression_of_counts():
    pandas = pytest.importorskip("pandas")
    with np.load(data_home() / "tabular" / "abalone.npz") as archive:
        X = pandas.DataFrame(archive["X"], columns=[str(name) for name in archive["feature_names"]])
        rings = archive["y"].astype(float)
    X, rings = X[:500], rings[:500]

    def example(search):
        preprocessor = ColumnTransformer(
            [("sex", OneHotEncoder(), ["Sex"])], remainder=StandardScaler()
        )
        found = search(
            make_pipeline(
                preprocessor,
                PolynomialFeatures(2, include_bias=False),
                PoissonRegressor(solver="newton-cholesky"),
            ),
            "poissonregressor__alpha",
            scoring="neg_mean_poisson_deviance",
        )
        found.fit(X, rings)
        return found.best_score_

    grid, shine = both(example, np.logspace(-4, 1, 6))
    assert shine >= grid


def test_a_classifier_that_is_itself_part_of_a_search_of_other_things():
    """Nested the other way: a grid over what ShineCV does not tune."""
    X, y = load_breast_cancer(return_X_y=True)
    inner = ShineCV(make_pipeline(StandardScaler(), LogisticRegression()), cv=3)
    grid = GridSearchCV(
        inner,
        {"estimator__logisticregression__class_weight": [None, "balanced"]},
        scoring="balanced_accuracy",
        cv=StratifiedKFold(3),
    ).fit(X, y)
    assert grid.best_score_ > 0.95
    assert "logisticregression__C" in grid.best_estimator_.best_params_
