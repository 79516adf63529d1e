"""What a search says of itself in a few lines."""

import copy
import pickle
import re

import numpy as np
import pytest
from helpers import breast_cancer, diabetes
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from hoag_shine import GeneralizedLinear, LogisticLoss, ShineCV


def lines(search):
    """Return what stands behind each name."""
    return dict(re.split(r"  +", line) for line in search.summary().splitlines())


def numbers(text):
    return [float(number) for number in re.findall(r"\d+\.?\d*(?:e[+-]\d+)?", text)]


@pytest.fixture(scope="module")
def ridge():
    return ShineCV(make_pipeline(StandardScaler(), Ridge(0.5))).fit(*diabetes())


def test_start_result_and_standard_error_are_those_of_fits_at_both(ridge):
    X, y = diabetes()
    said = lines(ridge)
    assert said["estimator"] == "Ridge"
    start, best = numbers(said["ridge__alpha"])
    assert start == 0.5
    assert best == pytest.approx(ridge.best_params_["ridge__alpha"], rel=1e-3)
    before, after, error, folds = numbers(said["held-out mean squared error"])
    fits = [
        -cross_val_score(
            make_pipeline(StandardScaler(), Ridge(alpha)), X, y, scoring="neg_mean_squared_error"
        )
        for alpha in (0.5, ridge.best_params_["ridge__alpha"])
    ]
    assert [before, after] == pytest.approx([fit.mean() for fit in fits], rel=1e-4)
    assert error == pytest.approx(fits[1].std(ddof=1) / np.sqrt(5.0), rel=0.05)
    assert folds == 5.0


def test_end_and_cost_are_those_of_the_attributes(ridge):
    said = lines(ridge)
    assert said["outcome"] == "converged"
    gain, percent, low, high = numbers(said["still to gain"])
    assert gain == pytest.approx(ridge.certificate_.gain, rel=0.05)
    assert percent == pytest.approx(100.0 * gain / -ridge.best_score_, rel=0.05)
    assert low < ridge.best_params_["ridge__alpha"] < high
    iterations, passes, seconds = numbers(said["cost"])
    assert iterations == ridge.n_iter_
    assert passes == pytest.approx(sum(r["data_passes"] for r in ridge.history_), rel=1e-3)
    assert seconds >= 0.9 * ridge.refit_time_


def test_seconds_of_minutes_have_no_exponent(ridge):
    slow = copy.copy(ridge)
    slow.refit_time_ = 1234.0
    assert re.search(r" \d+ s$", lines(slow)["cost"])


def test_the_interval_of_C_is_in_its_own_units():
    search = ShineCV(LogisticRegression()).fit(*breast_cancer())
    _, _, low, high = numbers(lines(search)["still to gain"])
    assert low < search.best_params_["C"] < high
    ends = sorted(np.exp(-end[0]) for end in search.certificate_.interval)
    assert [low, high] == pytest.approx(ends, rel=1e-3)


def test_few_penalties_are_named_and_many_are_a_range():
    X, y = diabetes()
    few = ShineCV(Ridge(), penalty=["body"] * 4 + ["blood"] * 6).fit(X, y)
    said = lines(few)
    found = [numbers(said[f"alpha of {name}"])[1] for name in few.penalty_names_]
    assert found == pytest.approx(few.best_params_["alpha"], rel=1e-3)
    many = ShineCV(Ridge(), penalty="feature").fit(X, y)
    text = lines(many)["alpha"]
    assert text.endswith("(10 penalties)")
    least, most = numbers(text.partition("->")[2])[:2]
    values = many.best_params_["alpha"]
    assert [least, most] == pytest.approx([values.min(), values.max()], rel=1e-3)


def test_an_end_that_is_not_convergence_is_explained():
    short = ShineCV(LogisticRegression(), max_iter=2)
    with pytest.warns(ConvergenceWarning):
        short.fit(*breast_cancer())
    assert lines(short)["outcome"] == "max iter: the limit of outer iterations was reached"


def test_what_is_not_known_is_not_said():
    X, y = diabetes()
    one = PredefinedSplit(np.repeat([-1, 0], [342, 100]))
    single = ShineCV(Ridge(), cv=one, refit=False).fit(X, y)
    assert "standard error" not in single.summary()
    rough = ShineCV(Ridge(), hypergradient="shine").fit(X, y)
    assert lines(rough)["still to gain"] == "not known"


def test_the_certificate_of_another_row_is_said_to_be_of_the_lowest():
    simpler = ShineCV(LogisticRegression(), selection="one-se").fit(*breast_cancer())
    assert "below the lowest loss" in lines(simpler)["still to gain"]


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (LinearSVC(), "squared hinge loss"),
        (PoissonRegressor(), "deviance"),
        (GeneralizedLinear(LogisticLoss()), "loss of GeneralizedLinear"),
    ],
)
def test_losses_have_names(estimator, name):
    X, y = breast_cancer()
    assert f"held-out {name}" in ShineCV(estimator, tol=0.5).fit(X, y).summary()


def test_notebooks_show_it_once_there_is_one(ridge):
    assert "still to gain" not in ShineCV(Ridge())._repr_html_()
    shown = ridge._repr_html_()
    assert "still to gain" in shown
    assert "0.5 -&gt; " in shown


def test_it_needs_a_fit_and_survives_pickling(ridge):
    with pytest.raises(NotFittedError):
        ShineCV(Ridge()).summary()
    assert pickle.loads(pickle.dumps(ridge)).summary() == ridge.summary()  # noqa: S301
