"""Pipelines that resample, transformed targets, and subclasses."""

import numpy as np
import pytest
from helpers import breast_cancer, diabetes
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.linear_model import (
    Lasso,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    Ridge,
)
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from hoag_shine import ShineCV
from hoag_shine.plotting import ShinePathDisplay

TIGHT = {"tol": 1e-10, "max_iter": 10_000}


class FewerOfTheMany(BaseEstimator):
    """Keeps as many rows of each class as the rarest has: a sampler, as imbalanced-learn has it."""

    def __init__(self, random_state=None):
        self.random_state = random_state

    def fit_resample(self, X, y):
        rng = np.random.default_rng(self.random_state)
        classes, counts = np.unique(y, return_counts=True)
        rows = [rng.choice(np.flatnonzero(y == c), counts.min(), replace=False) for c in classes]
        self.sample_indices_ = np.sort(np.concatenate(rows))
        return X[self.sample_indices_], y[self.sample_indices_]


class SamplingPipeline(Pipeline):
    """A pipeline whose samplers act where it is fitted, and nowhere else."""

    def _walk(self, X, y=None, *, fitted):
        for _, step in self.steps[:-1]:
            if hasattr(step, "fit_resample"):
                X, y = (X, y) if fitted else step.fit_resample(X, y)
            else:
                X = step.transform(X) if fitted else step.fit_transform(X, y)
        return X, y

    def fit(self, X, y):
        self.steps = [(name, clone(step)) for name, step in self.steps]
        self.steps[-1][1].fit(*self._walk(X, y, fitted=False))
        return self

    def fit_resample(self, X, y):
        raise NotImplementedError

    def predict(self, X):
        return self.steps[-1][1].predict(self._walk(X, fitted=True)[0])

    def predict_proba(self, X):
        return self.steps[-1][1].predict_proba(self._walk(X, fitted=True)[0])


def unbalanced():
    X, y = load_breast_cancer(return_X_y=True)
    rows = np.concatenate([np.flatnonzero(y == 1), np.flatnonzero(y == 0)[:60]])
    return X[rows], y[rows]


def sampling_pipeline(**options):
    return SamplingPipeline(
        [
            ("scale", StandardScaler()),
            ("sample", FewerOfTheMany(random_state=0)),
            ("model", LogisticRegression(**options)),
        ]
    )


@pytest.mark.parametrize("return_train_score", [False, True])
def test_samplers_act_on_training_rows_alone(return_train_score):
    X, y = unbalanced()
    cv = StratifiedKFold(3)
    scoring = ["neg_log_loss", "accuracy"]
    search = ShineCV(
        sampling_pipeline(),
        cv=cv,
        scoring=scoring,
        refit="neg_log_loss",
        return_train_score=return_train_score,
    ).fit(X, y)
    grid = GridSearchCV(
        sampling_pipeline(**TIGHT),
        {name: [value] for name, value in search.best_params_.items()},
        cv=cv,
        scoring=scoring,
        refit="neg_log_loss",
        return_train_score=return_train_score,
    ).fit(X, y)
    for side in ["test", "train"] if return_train_score else ["test"]:
        for k in range(3):
            name = f"split{k}_{side}_neg_log_loss"
            own = search.cv_results_[name][search.best_index_]
            assert own == pytest.approx(grid.cv_results_[name][0], rel=1e-3)
    np.testing.assert_allclose(search.predict_proba(X), grid.predict_proba(X), atol=1e-3)
    assert search.best_estimator_.named_steps["sample"].sample_indices_.size == 120


def test_sample_weights_of_rows_that_are_resampled_are_refused():
    X, y = unbalanced()
    with pytest.raises(ValueError, match="sample_weight belongs to the rows of X"):
        ShineCV(sampling_pipeline()).fit(X, y, sample_weight=np.ones(len(y)))


def test_a_sampler_in_a_pipeline_without_any_is_refused_by_scikit_learn():
    X, y = unbalanced()
    pipeline = make_pipeline(FewerOfTheMany(), LogisticRegression())
    with pytest.raises(TypeError, match="should be transformers"):
        ShineCV(pipeline).fit(X, y)


# --- subclasses ----------------------------------------------------------------------------------


class Named(Pipeline):
    """A pipeline that only has another name."""


class Own(Pipeline):
    def fit(self, X, y=None, **params):
        return super().fit(X, y, **params)


class OwnRidge(Ridge):
    """Nothing new."""


@pytest.mark.parametrize(
    ("estimator", "same"),
    [
        (
            Named([("scale", StandardScaler()), ("model", Ridge())]),
            make_pipeline(StandardScaler(), Ridge()),
        ),
        (OwnRidge(), Ridge()),
    ],
)
def test_a_subclass_that_keeps_fit_is_what_it_is_derived_from(estimator, same):
    X, y = diabetes()
    search, reference = ShineCV(estimator).fit(X, y), ShineCV(same).fit(X, y)
    assert [*search.best_params_.values()] == [*reference.best_params_.values()]
    assert type(search.best_estimator_) is type(estimator)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Own([("model", Ridge())]), r"test_chains.Own, which has a fit of its own"),
        (LogisticRegressionCV(), "LogisticRegressionCV, whose fit is not that of LogisticReg"),
        (Lasso(), "got sklearn.linear_model._coordinate_descent.Lasso"),
    ],
)
def test_others_are_refused_by_module_name_and_reason(estimator, message):
    X, y = diabetes()
    with pytest.raises(TypeError, match=message):
        ShineCV(estimator).fit(X, y)


# --- transformed targets -------------------------------------------------------------------------


def skewed():
    X, y = diabetes()
    return X, np.exp(y)


def log_target(regressor):
    return TransformedTargetRegressor(regressor, func=np.log, inverse_func=np.exp)


def test_the_penalty_is_that_of_the_transformed_target():
    X, y = skewed()
    search = ShineCV(log_target(Ridge()), cv=KFold(4)).fit(X, y)
    alpha = search.best_params_["regressor__alpha"]
    grid = GridSearchCV(Ridge(), {"alpha": [alpha]}, cv=KFold(4), scoring="neg_mean_squared_error")
    assert search.best_score_ == pytest.approx(grid.fit(X, np.log(y)).best_score_, rel=1e-6)
    start = GridSearchCV(Ridge(), {"alpha": [1e-3, 1.0, 1e3]}, cv=KFold(4), scoring=grid.scoring)
    assert search.best_score_ >= start.fit(X, np.log(y)).best_score_ * (1 + 1e-3)
    fitted = clone(search.best_estimator_).fit(X, y)
    np.testing.assert_allclose(search.predict(X), fitted.predict(X), rtol=1e-3)
    assert search.score(X, y) == pytest.approx(fitted.score(X, y), rel=1e-3)


@pytest.mark.parametrize(
    ("estimator", "parameter"),
    [
        (log_target(Ridge()), "regressor__alpha"),
        (log_target(make_pipeline(StandardScaler(), PCA(5), Ridge())), "regressor__ridge__alpha"),
        (
            make_pipeline(
                PCA(5),
                TransformedTargetRegressor(
                    Ridge(), transformer=QuantileTransformer(n_quantiles=50)
                ),
            ),
            "transformedtargetregressor__regressor__alpha",
        ),
    ],
    ids=["alone", "pipeline inside", "at the end of a pipeline"],
)
def test_scores_are_on_the_scale_of_y(estimator, parameter):
    X, y = skewed()
    search = ShineCV(
        estimator, cv=KFold(3), scoring="neg_mean_absolute_error", refit="neg_mean_absolute_error"
    ).fit(X, y)
    grid = GridSearchCV(
        estimator,
        {parameter: [search.best_params_[parameter]]},
        cv=KFold(3),
        scoring="neg_mean_absolute_error",
    ).fit(X, y)
    assert search.best_score_ == pytest.approx(grid.best_score_, rel=1e-3)
    np.testing.assert_allclose(search.predict(X), grid.predict(X), rtol=1e-2, atol=1e-2)


def test_several_targets_may_be_transformed():
    X, y = skewed()
    Y = np.column_stack([y, np.sqrt(y)])
    search = ShineCV(log_target(Ridge()), cv=3, penalty="output").fit(X, Y)
    assert search.predict(X).shape == Y.shape
    assert search.best_params_["regressor__alpha"].shape == (2,)


def test_targets_must_be_fit_for_the_model_once_transformed():
    X, y = skewed()
    negative = TransformedTargetRegressor(PoissonRegressor(), func=np.log, inverse_func=np.exp)
    with pytest.raises(ValueError, match="y must"):
        ShineCV(negative).fit(X, y)
    with (
        pytest.raises(ValueError, match=r"y cannot be used|contains (NaN|infinity)"),
        np.errstate(all="ignore"),
    ):
        ShineCV(log_target(Ridge()), cv=3).fit(X, y - y.min())


# --- threads and configuration -------------------------------------------------------------------


class Remembering(TransformerMixin, BaseEstimator):
    """Asks for the columns' names, which it has only if the step before made a data frame."""

    def fit(self, X, y=None):
        self.names_ = list(X.columns)
        return self

    def transform(self, X):
        return X[self.names_]

    def get_feature_names_out(self, input_features=None):
        return np.array(self.names_)


def test_threads_have_the_configuration_of_scikit_learn():
    pytest.importorskip("pandas")
    X, y = breast_cancer()
    pipeline = make_pipeline(StandardScaler(), Remembering(), LogisticRegression())
    with config_context(transform_output="pandas"):
        one = ShineCV(pipeline, cv=3).fit(X, y)
        two = ShineCV(pipeline, cv=3, n_jobs=2).fit(X, y)
    assert two.best_params_ == one.best_params_


def test_scores_of_data_frames_do_not_miss_their_names():
    pytest.importorskip("pandas")
    X, y = breast_cancer()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).set_output(transform="pandas")
    search = ShineCV(pipeline, cv=3, scoring=["neg_log_loss", "accuracy"]).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_accuracy"]).all()


def test_coefficient_paths_of_huber_have_a_line_a_feature():
    from sklearn.linear_model import HuberRegressor

    from hoag_shine.plotting import coefficient_path

    X, y = diabetes()
    search = ShineCV(HuberRegressor(), cv=3).fit(X, y)
    path = coefficient_path(search, X, y)
    shown = [record["iteration"] for record in search.history_ if not record["look"]]
    assert path.shape == (len(shown), X.shape[1])
    own = HuberRegressor(**search.best_params_, tol=1e-8, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(path[shown.index(search.best_index_)], own.coef_, atol=1e-3)
    ShinePathDisplay.from_estimator(search, X, y, panels=["coefficients"])
