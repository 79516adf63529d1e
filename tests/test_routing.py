"""Metadata: weights, groups and whatever transformers ask for, with and without routing."""

import numpy as np
import pytest
from helpers import breast_cancer
from sklearn import config_context
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, get_scorer, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    StratifiedGroupKFold,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hoag_shine import ShineCV

X, Y = breast_cancer()
WEIGHT = np.random.default_rng(0).exponential(size=Y.size)
GROUPS = np.arange(Y.size) % 23
# Scores beside the criterion are what is tested here; that they do not choose is said elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:The penalty is chosen by the held-out loss")
TIGHT = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 1000}


@pytest.fixture
def _routing():
    with config_context(enable_metadata_routing=True):
        yield


def same(search, other):
    assert search.best_params_ == other.best_params_
    assert search.best_score_ == other.best_score_
    np.testing.assert_array_equal(search.predict_proba(X), other.predict_proba(X))


def piped(**params):
    return make_pipeline(StandardScaler(), LogisticRegression(**params))


def test_weights_of_each_step_go_by_its_name():
    """The final fit is that of the pipeline with the same metadata."""
    search = ShineCV(piped(), cv=3, tol=1e-3)
    params = {"standardscaler__sample_weight": WEIGHT, "logisticregression__sample_weight": WEIGHT}
    search.fit(X, Y, **params)
    C = search.best_params_["logisticregression__C"]
    own = piped(C=C, **TIGHT).fit(X, Y, **params)
    np.testing.assert_allclose(search.predict_proba(X), own.predict_proba(X), atol=1e-4)
    np.testing.assert_allclose(search.best_estimator_[0].mean_, own[0].mean_)
    # GridSearchCV splits them in the same way.
    grid = GridSearchCV(
        piped(**TIGHT), {"logisticregression__C": [C]}, cv=3, scoring=get_scorer("accuracy")
    ).fit(X, Y, **params)
    np.testing.assert_allclose(
        grid.best_estimator_[-1].coef_, search.best_estimator_[-1].coef_, atol=1e-3
    )


def test_plain_weights_are_the_linear_models():
    plain = ShineCV(piped(), cv=3).fit(X, Y, sample_weight=WEIGHT)
    named = ShineCV(piped(), cv=3).fit(X, Y, logisticregression__sample_weight=WEIGHT)
    same(plain, named)
    with pytest.raises(ValueError, match="are the same: pass one"):
        ShineCV(piped()).fit(X, Y, sample_weight=WEIGHT, logisticregression__sample_weight=WEIGHT)


@pytest.mark.parametrize(
    ("estimator", "params"),
    [
        (LogisticRegression(), {"colour": 1}),
        (LogisticRegression(), {"model__sample_weight": WEIGHT}),
        (piped(), {"colour": 1}),
        (piped(), {"logisticregression__coef_init": 1}),
    ],
    ids=["plain", "prefixed", "piped", "of the model"],
)
def test_metadata_that_nobody_knows_are_refused(estimator, params):
    with pytest.raises(TypeError, match=r"fit\(\) got unexpected metadata"):
        ShineCV(estimator).fit(X, Y, **params)


@pytest.mark.usefixtures("_routing")
def test_requested_weights_weigh_losses_and_scores():
    estimator = LogisticRegression().set_fit_request(sample_weight=True)
    scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
    routed = ShineCV(estimator, cv=3, scoring=scorer).fit(X, Y, sample_weight=WEIGHT)
    routed_score = routed.score(X, Y, sample_weight=WEIGHT)
    with config_context(enable_metadata_routing=False):
        plain = ShineCV(LogisticRegression(), cv=3, scoring="accuracy")
        plain.fit(X, Y, sample_weight=WEIGHT)
        assert plain.score(X, Y, sample_weight=WEIGHT) == routed_score
    same(routed, plain)


@pytest.mark.usefixtures("_routing")
def test_weights_that_nobody_has_requested_are_refused():
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        ShineCV(LogisticRegression(), cv=3).fit(X, Y, sample_weight=WEIGHT)


@pytest.mark.usefixtures("_routing")
def test_weights_may_be_requested_by_the_scorer_alone():
    estimator = LogisticRegression().set_fit_request(sample_weight=False)
    scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
    search = ShineCV(estimator, cv=3, scoring=scorer).fit(X, Y, sample_weight=WEIGHT)
    plain = ShineCV(LogisticRegression(), cv=3).fit(X, Y)
    assert search.best_params_ == plain.best_params_
    assert 0.9 < search.best_score_ < 1.0


@pytest.mark.usefixtures("_routing")
def test_groups_go_to_the_splitter_that_asks_for_them_by_default():
    search = ShineCV(LogisticRegression(), cv=GroupKFold(3)).fit(X, Y, groups=GROUPS)
    explicit = ShineCV(LogisticRegression(), cv=list(GroupKFold(3).split(X, Y, GROUPS))).fit(X, Y)
    same(search, explicit)


@pytest.mark.usefixtures("_routing")
def test_requests_of_a_pipelines_steps():
    pipeline = make_pipeline(
        StandardScaler().set_fit_request(sample_weight=True),
        LogisticRegression().set_fit_request(sample_weight="importance"),
    )
    search = ShineCV(pipeline, cv=3).fit(X, Y, sample_weight=WEIGHT, importance=1.0 / WEIGHT)
    with config_context(enable_metadata_routing=False):
        params = {
            "standardscaler__sample_weight": WEIGHT,
            "logisticregression__sample_weight": 1.0 / WEIGHT,
        }
        by_name = ShineCV(piped(), cv=3).fit(X, Y, **params)
    same(search, by_name)


@pytest.mark.usefixtures("_routing")
def test_a_nested_pipeline_routes_through_its_inner_one():
    inner = make_pipeline(
        StandardScaler().set_fit_request(sample_weight=False),
        LogisticRegression().set_fit_request(sample_weight=True),
    )
    search = ShineCV(make_pipeline("passthrough", inner), cv=3).fit(X, Y, sample_weight=WEIGHT)
    with config_context(enable_metadata_routing=False):
        plain = ShineCV(piped(), cv=3).fit(X, Y, sample_weight=WEIGHT)
    np.testing.assert_array_equal(search.predict_proba(X), plain.predict_proba(X))


@pytest.mark.usefixtures("_routing")
def test_nested_cross_validation_hands_metadata_through_the_search():
    estimator = LogisticRegression().set_fit_request(sample_weight=True)
    scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
    search = ShineCV(estimator, cv=GroupKFold(3), scoring=scorer)
    params = {"sample_weight": WEIGHT, "groups": GROUPS}
    outer = StratifiedGroupKFold(3)
    scores = cross_validate(
        search, X, Y, cv=outer, params=params, return_estimator=True, scoring=scorer
    )
    for fitted, score, (train, test) in zip(
        scores["estimator"], scores["test_score"], outer.split(X, Y, GROUPS), strict=True
    ):
        own = ShineCV(estimator, cv=GroupKFold(3), scoring=scorer).fit(
            X[train], Y[train], sample_weight=WEIGHT[train], groups=GROUPS[train]
        )
        assert own.best_params_ == fitted.best_params_
        expected = accuracy_score(Y[test], own.predict(X[test]), sample_weight=WEIGHT[test])
        assert score == pytest.approx(expected)


def test_nested_cross_validation_without_routing():
    scores = cross_val_score(ShineCV(LogisticRegression(), cv=3), X, Y, cv=3, scoring="roc_auc")
    assert scores.min() > 0.98


def test_the_search_itself_asks_for_nothing():
    assert not hasattr(ShineCV, "set_fit_request")
    routing = str(ShineCV(LogisticRegression()).get_metadata_routing())
    assert "estimator" in routing
    assert "splitter" in routing
    assert "scorer" in routing
