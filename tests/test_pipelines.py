"""Pipelines that end in a linear model; transformers are fitted fold by fold as by GridSearchCV."""

import pickle

import numpy as np
import pytest
from helpers import breast_cancer, diabetes, thinned
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, ShuffleSplit, StratifiedKFold
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
    TargetEncoder,
)

from hoag_shine import ShineCV, fold_problems
from hoag_shine.testing import check_hypergradient, check_problem

TIGHT = {
    LogisticRegression: {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 1000},
    Ridge: {"solver": "cholesky"},
}


def agree_with_grid_search(pipeline, X, y, cv, **fit_params):
    """Compare a search to GridSearchCV at the same parameter, scores and final fit alike."""
    search = ShineCV(pipeline, cv=cv, tol=1e-3).fit(X, y, **fit_params)
    model = pipeline
    path = []
    while isinstance(model, Pipeline):
        name, model = model.steps[-1]
        path.append(name)
    ((name, value),) = search.best_params_.items()
    assert name == "__".join([*path, "C" if hasattr(model, "C") else "alpha"])
    tight = clone(pipeline).set_params(
        **{"__".join([*path, key]): option for key, option in TIGHT[type(model)].items()}
    )
    scoring = "neg_log_loss" if hasattr(model, "C") else "neg_mean_squared_error"
    grid = GridSearchCV(tight, {name: [value * 0.7, value, value / 0.7]}, cv=cv, scoring=scoring)
    grid.fit(X, y)
    scores = grid.cv_results_["mean_test_score"]
    np.testing.assert_allclose(search.best_score_, scores[1], rtol=1e-5)
    assert scores.argmax() == 1
    for k in range(search.n_splits_):
        column = f"split{k}_test_score"
        np.testing.assert_allclose(
            search.cv_results_[column][search.best_index_], grid.cv_results_[column][1], rtol=1e-4
        )
    own = tight.set_params(**search.best_params_).fit(X, y)
    assert type(search.best_estimator_) is type(pipeline)
    np.testing.assert_allclose(
        search.best_estimator_[-1].coef_
        if len(path) == 1
        else search.best_estimator_[-1][-1].coef_,
        own[-1].coef_ if len(path) == 1 else own[-1][-1].coef_,
        rtol=0,
        atol=1e-3 * np.abs(own.predict(X)).max() if scoring.endswith("error") else 2e-3,
    )
    return search


def raw_breast_cancer():
    return load_breast_cancer(return_X_y=True)


NESTED = make_pipeline(StandardScaler(), make_pipeline(PCA(10), LogisticRegression()))
SELECTION = make_pipeline(StandardScaler(), SelectKBest(k=7), LogisticRegression())
BY_COLUMNS = make_pipeline(
    ColumnTransformer(
        [("bins", KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf"), [0, 1])]
        if "quantile_method" in KBinsDiscretizer().get_params()
        else [("bins", KBinsDiscretizer(4), [0, 1])],
        remainder=StandardScaler(),
    ),
    LogisticRegression(),
)
UNION = make_pipeline(
    FeatureUnion([("scaled", StandardScaler()), ("main", PCA(3))]), LogisticRegression()
)
NOTHING = make_pipeline("passthrough", StandardScaler(), LogisticRegression())
ALONE = Pipeline([("model", LogisticRegression())])


@pytest.mark.parametrize(
    "pipeline",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", C=0.1)),
        NESTED,
        SELECTION,
        BY_COLUMNS,
        UNION,
        NOTHING,
    ],
    ids=["scaler", "balanced", "nested", "selection", "columns", "union", "passthrough"],
)
def test_a_pipeline_gets_the_scores_and_the_final_fit_of_grid_search(pipeline):
    X, y = raw_breast_cancer()
    cv = StratifiedKFold(4, shuffle=True, random_state=0)
    agree_with_grid_search(pipeline, X, y, cv)


def test_a_pipeline_of_one_step_is_that_step():
    X, y = breast_cancer()
    search = agree_with_grid_search(ALONE, X, y, 3)
    plain = ShineCV(LogisticRegression(), cv=3, tol=1e-3).fit(X, y)
    np.testing.assert_allclose(search.best_score_, plain.best_score_, rtol=1e-5)


def test_a_regression_behind_transformers():
    X, y = diabetes()
    pipeline = make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler(), Ridge())
    agree_with_grid_search(pipeline, X, y, 4)


def test_more_than_two_classes_behind_transformers():
    X, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    search = agree_with_grid_search(pipeline, X, names, StratifiedKFold(3))
    np.testing.assert_array_equal(search.classes_, np.unique(names))


def test_transformers_that_learn_from_the_target_see_the_training_rows_alone():
    """Selected on all rows, the best of 2,000 columns of noise would look like signal."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 2000)), rng.permutation(np.arange(80) % 2)
    pipeline = make_pipeline(SelectKBest(k=10), LogisticRegression())
    search = ShineCV(pipeline, cv=5).fit(X, y)
    leaked = ShineCV(LogisticRegression(), cv=5).fit(SelectKBest(k=10).fit_transform(X, y), y)
    assert search.best_score_ < 0.95 * np.log(0.5)  # knows as little as a coin
    assert leaked.best_score_ > 0.8 * np.log(0.5)


DOCUMENTS = [
    f"{'good' if i % 2 else 'bad'} {word} {'film' if i % 3 else 'plot'} word{i % 17} "
    + ("" if i % 7 else f"rare{i}")
    for i, word in enumerate(["very", "rather", "hardly", "quite"] * 15)
]
OPINIONS = np.array(["neg", "pos"])[[(i % 2) ^ (i % 10 == 0) for i in range(60)]]


@pytest.mark.parametrize("convert", [list, np.array, lambda texts: np.array(texts, dtype=object)])
def test_text_makes_other_columns_of_every_fold(convert):
    texts = convert(DOCUMENTS)
    pipeline = Pipeline([("tfidf", TfidfVectorizer()), ("clf", LogisticRegression())])
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    problems = fold_problems(pipeline, texts, OPINIONS, cv=cv)
    assert len({problem.n_params for problem in problems}) > 1
    search = ShineCV(pipeline, cv=cv).fit(texts, OPINIONS)
    grid = GridSearchCV(
        clone(pipeline).set_params(clf__solver="newton-cg", clf__tol=1e-10, clf__max_iter=1000),
        {"clf__C": [search.best_params_["clf__C"]]},
        cv=cv,
        scoring="neg_log_loss",
    ).fit(texts, OPINIONS)
    np.testing.assert_allclose(search.best_score_, grid.best_score_, rtol=1e-5)
    np.testing.assert_allclose(search.predict_proba(texts), grid.predict_proba(texts), atol=1e-4)
    again = pickle.loads(pickle.dumps(search))  # noqa: S301
    np.testing.assert_array_equal(again.predict(texts), search.predict(texts))


@pytest.mark.parametrize("penalty", ["feature", np.arange(40), {"all": slice(None)}], ids=str)
def test_columns_that_differ_from_fold_to_fold_share_a_penalty_or_none(penalty):
    pipeline = make_pipeline(CountVectorizer(), LogisticRegression())
    with pytest.raises(ValueError, match=r"penalty tells columns apart.*use penalty='shared'"):
        ShineCV(pipeline, cv=3, penalty=penalty).fit(DOCUMENTS, OPINIONS)


def test_selected_columns_may_differ_in_name_alone():
    X, y = raw_breast_cancer()
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"x{j}" for j in range(30)])
    pipeline = make_pipeline(SelectKBest(k=20), StandardScaler(), LogisticRegression())
    cv = [(np.arange(0, 200), np.arange(400, 569)), (np.arange(300, 569), np.arange(0, 200))]
    with pytest.raises(ValueError, match="penalty tells columns apart"):
        ShineCV(pipeline, cv=cv, penalty="feature").fit(frame, y)


def test_a_penalty_for_each_transformed_column():
    X, y = diabetes()
    pipeline = make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler(), Ridge())
    labels = np.repeat(["linear", "products"], [10, 55])
    shared = ShineCV(pipeline, cv=4).fit(X, y)
    search = ShineCV(pipeline, cv=4, penalty=labels).fit(X, y)
    assert search.penalty_names_ == ("linear", "products")
    alpha = search.best_params_["ridge__alpha"]
    assert alpha[0] < alpha[1]
    assert search.best_score_ > shared.best_score_
    names = {
        "plain": [f"x{j}" for j in range(10)],
        "rest": [f"x{i} x{j}" if i < j else f"x{i}^2" for i in range(10) for j in range(i, 10)],
    }
    named = ShineCV(pipeline, cv=4, penalty=names).fit(X, y)
    np.testing.assert_allclose(named.best_params_["ridge__alpha"], alpha)


def test_a_penalty_for_each_block_of_a_column_transformer():
    X, y = raw_breast_cancer()
    blocks = ColumnTransformer(
        [("mean", StandardScaler(), slice(0, 10)), ("rest", PCA(5), slice(10, 30))]
    )
    pipeline = make_pipeline(blocks, StandardScaler(), LogisticRegression())
    groups = clone(blocks).fit(X).output_indices_
    groups.pop("remainder")
    search = ShineCV(pipeline, cv=3, penalty=groups, bounds=(1e-4, 1e4)).fit(X, y)
    assert search.penalty_names_ == ("mean", "rest")
    assert search.best_params_["logisticregression__C"].shape == (2,)


@pytest.mark.parametrize("method", ["exact", "cg", "auto"])
def test_joined_folds_keep_the_contract_of_a_problem(method):
    X, y = raw_breast_cancer()
    weight = np.random.default_rng(0).exponential(size=y.size)
    problems = fold_problems(
        make_pipeline(StandardScaler(), VarianceThreshold(), LogisticRegression()),
        X,
        y,
        cv=2,
        penalty=np.arange(30) % 2,
        sample_weight=weight,
    )
    theta = np.array([0.3, -1.0])
    check_problem(problems, theta=theta)
    for problem in problems:
        check_hypergradient(method, problem, theta=theta, exact=True)


def test_passes_are_the_mean_over_folds():
    """The same folds with and without a common X: what is counted is the same work."""
    X, y = breast_cancer()
    alike = make_pipeline("passthrough", LogisticRegression())
    joined = ShineCV(alike, cv=4, tol=1e-3).fit(X, y)
    shared = ShineCV(LogisticRegression(), cv=4, tol=1e-3).fit(X, y)
    np.testing.assert_allclose(joined.best_score_, shared.best_score_, rtol=1e-6)
    passes = [sum(r["data_passes"] for r in s.history_) for s in (joined, shared)]
    assert 0.5 < passes[0] / passes[1] < 1.5


class Counting(TransformerMixin, BaseEstimator):
    """Notes in a list that is shared by all clones which rows it was fitted to."""

    def __init__(self, fits=None):
        self.fits = fits

    def __sklearn_clone__(self):
        return Counting(self.fits)

    def fit(self, X, y=None):
        self.fits.append(X[:, 0].copy())
        self.fitted_ = True
        return self

    def transform(self, X):
        return X


def test_each_transformer_is_fitted_once_a_fold_and_once_for_all_rows():
    X, y = breast_cancer()
    fits = []
    search = ShineCV(make_pipeline(Counting(fits), LogisticRegression()), cv=3).fit(X, y)
    assert len(search.history_) > 3
    expected = [X[train, 0] for train, _ in StratifiedKFold(3).split(X, y)] + [X[:, 0]]
    assert len(fits) == len(expected)
    for seen, rows in zip(fits, expected, strict=True):
        np.testing.assert_array_equal(seen, rows)


def test_the_memory_of_the_pipeline_serves_the_next_search(tmp_path, monkeypatch):
    X, y = raw_breast_cancer()
    fits = []
    original = PCA.fit_transform
    monkeypatch.setattr(
        PCA, "fit_transform", lambda self, *args: fits.append(1) or original(self, *args)
    )
    pipeline = make_pipeline(StandardScaler(), PCA(5), LogisticRegression(), memory=str(tmp_path))
    first = ShineCV(pipeline, cv=3).fit(X, y)
    assert len(fits) == 4
    second = ShineCV(pipeline, cv=3).fit(X, y)
    assert len(fits) == 4
    assert second.best_params_ == first.best_params_


def test_a_bootstrap_repeats_rows_in_transformers_too():
    X, y = raw_breast_cancer()
    rng = np.random.default_rng(0)
    cv = [(rng.integers(0, 569, 400), np.arange(300, 569)) for _ in range(2)]
    agree_with_grid_search(make_pipeline(StandardScaler(), LogisticRegression()), X, y, cv)


@pytest.mark.filterwarnings("ignore:.TargetEncoder.shuffle")  # since 1.9
def test_encoders_of_the_target_are_cross_fitted_as_in_the_pipeline():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 12, size=(200, 2))
    y = np.sin(X[:, 0]) + 0.1 * X[:, 1] + 0.3 * rng.normal(size=200)
    pipeline = make_pipeline(TargetEncoder(random_state=0), StandardScaler(), Ridge())
    agree_with_grid_search(pipeline, X, y, ShuffleSplit(3, random_state=0))


def test_sparse_output_stays_sparse():
    X, y = breast_cancer()
    pipeline = make_pipeline(StandardScaler(with_mean=False), LogisticRegression())
    thin = ShineCV(pipeline, cv=3).fit(sparse.csr_array(thinned(X)), y)
    dense = ShineCV(pipeline, cv=3).fit(thinned(X), y)
    np.testing.assert_allclose(thin.best_score_, dense.best_score_, rtol=1e-5)
    problems = fold_problems(pipeline, sparse.csr_array(thinned(X)), y, cv=3)
    assert type(problems.sets[0].design).__name__ == "CSRDesign"


def test_two_threads_prepare_the_folds_to_the_same_bits():
    X, y = raw_breast_cancer()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    serial, parallel = (ShineCV(pipeline, cv=4, n_jobs=n).fit(X, y) for n in (1, 2))
    assert serial.best_params_ == parallel.best_params_
    np.testing.assert_array_equal(serial.predict_proba(X), parallel.predict_proba(X))


def test_features_are_those_that_the_first_step_saw():
    pandas = pytest.importorskip("pandas")
    X, y = raw_breast_cancer()
    frame = pandas.DataFrame(X, columns=[f"feature {j}" for j in range(30)])
    pipeline = make_pipeline(StandardScaler(), PCA(4), LogisticRegression())
    search = ShineCV(pipeline, cv=3).fit(frame, y)
    np.testing.assert_array_equal(search.feature_names_in_, frame.columns)
    assert search.n_features_in_ == 30
    assert search.best_estimator_[-1].n_features_in_ == 4
    with pytest.raises(ValueError, match="feature names should match"):
        search.predict(frame[frame.columns[::-1]])
    unnamed = search.set_params(refit=False).fit(X, y)
    assert unnamed.n_features_in_ == 30
    assert not hasattr(unnamed, "feature_names_in_")


def test_the_users_pipeline_is_not_touched():
    X, y = raw_breast_cancer()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=3.0))
    search = ShineCV(pipeline, cv=3).fit(X, y)
    assert not hasattr(pipeline[0], "mean_")
    assert pipeline[-1].C == 3.0
    assert search.history_[0]["params"] == {"logisticregression__C": pytest.approx(3.0)}
    search.set_params(estimator__logisticregression__C=0.5)
    assert pipeline[-1].C == 0.5


def test_mixed_columns_of_a_data_frame():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    n = 150
    frame = pandas.DataFrame(
        {
            "size": rng.normal(50, 20, n),
            "colour": rng.choice(["red", "green", "blue"], n),
            "rare": rng.choice([f"c{j}" for j in range(40)], n),
        }
    )
    y = np.where(
        frame["size"] + 20 * (frame["colour"] == "red") + rng.normal(0, 15, n) > 60, "a", "b"
    )
    pipeline = make_pipeline(
        ColumnTransformer(
            [
                ("numbers", StandardScaler(), ["size"]),
                ("names", OneHotEncoder(handle_unknown="ignore"), ["colour", "rare"]),
            ]
        ),
        LogisticRegression(),
    )
    agree_with_grid_search(pipeline, frame, pandas.Series(y), StratifiedKFold(3))


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (make_pipeline(StandardScaler()), TypeError, "got .*StandardScaler"),
        (Pipeline([]), ValueError, "without steps"),
        (make_pipeline(StandardScaler(), "passthrough"), TypeError, "estimator must be"),
    ],
    ids=["transformer", "empty", "passthrough"],
)
def test_pipelines_that_cannot_be_tuned_are_refused(estimator, error, message):
    X, y = diabetes()
    with pytest.raises(error, match=message):
        ShineCV(estimator).fit(X, y)


def test_bad_data_is_refused_with_the_messages_of_the_steps():
    X, y = raw_breast_cancer()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ShineCV(pipeline).fit(X, y[:-1])
    spoiled = X.copy()
    spoiled[3, 3] = np.nan
    with pytest.raises(ValueError, match="LogisticRegression does not accept missing values"):
        ShineCV(pipeline).fit(spoiled, y)
