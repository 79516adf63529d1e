"""Each warning points to the user's line, whatever stands between, and is told once."""

import importlib.util
import json
import re
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers import breast_cancer, diabetes, make_case
from joblib import parallel_config
from safetensors.numpy import save_file
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.feature_selection import SelectFromModel, SelectKBest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_persistence import FIRST_VERSION, TENSORS

from hoag_shine import GeneralizedLinear, ProblemSet, ShineCV, TweedieLoss, fold_problems, hoag
from hoag_shine.persistence import load_model

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)
OWN_MODULE = re.escape(__name__) + r"\Z"


class Told(NamedTuple):
    """A warning: its category, and its message."""

    category: type
    message: str


def place(call):
    """Return the file and the line of a lambda of one line."""
    return call.__code__.co_filename, call.__code__.co_firstlineno


def told(call):
    """Return the one warning of a call that is written in one line, after a look where it points.

    Where warnings of this module alone are errors, it is one.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert [(w.filename, w.lineno) for w in caught] == [place(call)], list(map(str, caught))
    (warning,) = caught
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", module=OWN_MODULE)
        with pytest.raises(warning.category):
            call()
    return Told(warning.category, str(warning.message))


def interrupt(_record):
    raise KeyboardInterrupt


def search(estimator=None, **options):
    """Return a search that ends at its first iteration, unless the options say otherwise."""
    options = {"cv": 3, "max_iter": 1} | options
    return ShineCV(LogisticRegression() if estimator is None else estimator, **options)


# --- what a search says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "increase max_iter"),
        ({"max_iter": 100, "bounds": (1e-4, 1e-3)}, "lies on a bound"),
        ({"max_iter": 100, "max_time": 1e-9}, "increase max_time"),
        ({"callback": interrupt}, "interrupted"),
    ],
)
def test_the_end_of_a_search(options, message):
    X, y = breast_cancer()
    category, text = told(lambda: search(**options).fit(X, y))
    assert category is ConvergenceWarning
    assert message in text


def test_a_search_without_scikit_learn_around_it():
    problems = fold_problems(Ridge(), *diabetes(), cv=3)
    category, text = told(lambda: hoag(problems, bounds=(20.0, 30.0)))
    assert category is ConvergenceWarning
    assert "lies on a bound" in text


def test_an_end_and_its_unsolved_problems_are_one_warning():
    problems = ProblemSet(list(make_case("logistic").problems))
    _, text = told(lambda: hoag(problems, max_inner_iter=1, max_iter=1, tolerance="exponential"))
    assert "The outer search ended" in text
    assert "The inner problems are not solved" in text


def test_a_search_and_its_final_fit_are_one_warning(monkeypatch):
    """The fit is kept from converging, which small data cannot do."""
    from hoag_shine.search import refit

    monkeypatch.setattr(refit, "fit", partial(refit.fit, max_iter=1))
    X, y = breast_cancer()
    category, text = told(lambda: search().fit(X, y))
    assert category is ConvergenceWarning
    assert re.search(r"The outer search ended .* The final fit did not converge", text)
    unfitted = search()
    with pytest.raises(ConvergenceWarning):
        unfitted.fit(X, y)
    assert not hasattr(unfitted, "best_estimator_")


def test_folds_that_take_minutes(monkeypatch):
    """Here, all do."""
    monkeypatch.setattr("hoag_shine.outer.hoag.SLOW_STEP_MULTIPLICATIONS", 0.0)
    X, y = breast_cancer()
    category, text = told(lambda: search(max_iter=100).fit(X, y))
    assert category is UserWarning
    assert "use fewer folds, or max_time" in text


# --- what stands between -----------------------------------------------------------------------


def test_through_a_pipeline():
    X, y = breast_cancer()
    assert "max_iter" in told(lambda: make_pipeline(StandardScaler(), search()).fit(X, y)).message


def test_through_a_regressor_around_it():
    X, y = diabetes()
    regressor = TransformedTargetRegressor(search(Ridge(), bounds=(1e8, 1e9), max_iter=100))
    assert "bound" in told(lambda: regressor.fit(X, y)).message


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_through_cross_validation(n_jobs):
    """Each fit warns, at the line that made it, but for those in threads of joblib's own."""
    X, y = breast_cancer()
    grid = GridSearchCV(search(), {"shrinkage": [0.0]}, cv=2, refit=False, n_jobs=n_jobs)
    scored, tuned = (
        lambda: cross_val_score(search(), X, y, cv=2, n_jobs=n_jobs),
        lambda: grid.fit(X, y),
    )
    for call in (scored, tuned):
        with warnings.catch_warnings(record=True) as caught, parallel_config("threading"):
            warnings.simplefilter("always")
            call()
        assert len(caught) == 2
        if n_jobs is None:
            assert {(w.filename, w.lineno) for w in caught} == {place(call)}
        assert not any("hoag_shine" in Path(w.filename).parts[-2:] for w in caught)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_searches_inside_of_a_search_speak_once(n_jobs):
    """Transformers are fitted to three folds and to all rows, in threads."""
    X, y = breast_cancer()
    chain = make_pipeline(
        SelectFromModel(search(), importance_getter="best_estimator_.coef_"), LogisticRegression()
    )
    _, text = told(lambda: search(chain, n_jobs=n_jobs).fit(X, y))
    assert text.count("increase max_iter") == 1


def test_a_search_in_the_users_function_speaks_for_itself():
    """As the user's other line, which a callback of a search has."""
    X, y = breast_cancer()
    lines = []

    def callback(_record):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            search().fit(X, y)
        lines.extend(w.lineno for w in caught)

    told(lambda: search(callback=callback).fit(X, y))
    assert set(lines) == {callback.__code__.co_firstlineno + 3}
    assert len(lines) == 2  # of two searches with one iteration


# --- scores, metadata, targets -----------------------------------------------------------------


def failing(_estimator, _X, _y):
    raise RuntimeError("no taste")


@pytest.mark.parametrize("scoring", [failing, {"it": failing, "accuracy": "accuracy"}])
def test_scores_that_fail_in_one_way(scoring):
    X, y = breast_cancer()
    options = {"scoring": scoring, "refit": False, "max_iter": 100}
    category, text = told(lambda: search(**options).fit(X, y))
    assert category is UserWarning
    assert text.startswith("Scoring failed")
    assert "no taste" in text


def test_scores_that_fail_in_two_ways():
    X, y = breast_cancer()

    def other(estimator, X, y):
        return np.empty(0)[len(X)]

    options = {"scoring": {"one": failing, "two": other}, "refit": False, "max_iter": 100}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search(**options).fit(X, y)
    assert len(caught) == 2


def plain(estimator, X, y):
    return -log_loss(y, estimator.predict_proba(X))


def test_scores_without_weights():
    X, y = breast_cancer()
    options = {"scoring": plain, "max_iter": 100, "refit": "neg_criterion"}
    _, text = told(lambda: search(**options).fit(X, y, sample_weight=np.ones(y.size)))
    assert "does not take sample_weight" in text


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        RidgeClassifier(),
        make_pipeline(SelectKBest(k=20), LogisticRegression()),
    ],
)
def test_a_column_as_target(estimator):
    X, y = breast_cancer()
    tuned = search(estimator, max_iter=100)
    category, text = told(lambda: tuned.fit(X, y[:, None]))
    assert category is DataConversionWarning
    assert "y.ravel()" in text
    expected = search(estimator, max_iter=100).fit(X, y)
    assert tuned.best_params_ == expected.best_params_


# --- beside a search ---------------------------------------------------------------------------


def test_a_fit_of_a_generalized_linear_model():
    X, y = diabetes()
    y = np.exp(y)
    _, text = told(lambda: GeneralizedLinear(TweedieLoss(1), max_iter=1).fit(X, y))
    assert "raise max_iter" in text
    assert told(lambda: GeneralizedLinear().fit(X, y[:, None])).category is DataConversionWarning


def test_a_model_without_a_checksum(tmp_path):
    texts = {key: json.dumps(value) for key, value in FIRST_VERSION.items()}
    save_file(TENSORS, tmp_path / "model", metadata=texts)
    assert "save it again" in told(lambda: load_model(tmp_path / "model")).message


@needs_torch
def test_a_backward_pass_with_a_lost_sample():
    import torch

    from hoag_shine.deq import fixed_point

    x = torch.ones(3, 2, requires_grad=True)
    poison = torch.tensor([[0.0], [torch.nan], [0.0]])

    z, _ = fixed_point(lambda z: 0.5 * z + x + poison * z, torch.zeros(3, 2))
    _, text = told(lambda: z.nan_to_num().sum().backward(retain_graph=True))
    assert "sample 1" in text


@needs_torch
def test_a_checkpoint_that_is_passed_over(tmp_path):
    from hoag_shine.deq.training import load_checkpoint

    (tmp_path / "step-00000001.json").write_text("{")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="none of"):
            load_checkpoint(tmp_path)
    assert [w.filename for w in caught] == [__file__]
