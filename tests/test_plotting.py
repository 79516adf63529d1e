"""The display of a search's path."""

import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

from hoag_shine import ShineCV, ShinePathDisplay


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def breast_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return scale(X), y


@pytest.fixture(scope="module")
def search(breast_cancer):
    return ShineCV(LogisticRegression(), cv=5).fit(*breast_cancer)


def path_and_best(ax):
    path, best = ax.lines[-2:]
    return path.get_xydata(), best.get_xydata()


def records(search):
    """Those of the search itself, and where the best one is among them."""
    history = [record for record in search.history_ if not record["look"]]
    return history, [record["iteration"] for record in history].index(search.best_index_)


def test_panels_show_the_history(search):
    upper, lower = ShinePathDisplay.from_estimator(search).axes_
    history, index = records(search)
    path, best = path_and_best(upper)
    criterion = [record["criterion"] for record in history]
    np.testing.assert_array_equal(path, list(enumerate(criterion)))
    np.testing.assert_array_equal(best, path[[index]])
    path, best = path_and_best(lower)
    np.testing.assert_array_equal(path, list(enumerate(r["params"]["C"] for r in history)))
    np.testing.assert_array_equal(best, [[index, search.best_params_["C"]]])
    assert upper.get_ylabel() == "held-out log-loss\n(mean of 5 folds)"
    assert (lower.get_xlabel(), lower.get_ylabel()) == ("outer iteration", "C")
    assert lower.get_legend().texts[-1].get_text() == f"C = {search.best_params_['C']:.4g}"


@pytest.mark.parametrize(
    ("x", "key", "label"),
    [("passes", "data_passes", "passes over the data"), ("seconds", "seconds", "time (s)")],
)
def test_horizontal_axis_is_what_was_spent_so_far(search, x, key, label):
    display = ShinePathDisplay.from_estimator(search, x=x)
    total = 0.0
    path, _ = path_and_best(display.axes_[0])
    shown = iter(path[:, 0])
    for record in search.history_:
        total += record[key]
        if not record["look"]:
            assert next(shown) == pytest.approx(total)
    assert list(shown) == []
    assert display.axes_[1].get_xlabel() == label
    assert display.axes_[1].get_xlim()[0] == 0.0


def test_regression_on_one_split_without_refit():
    X, y = load_diabetes(return_X_y=True)
    cv = PredefinedSplit(np.repeat([0, -1], [100, 342]))
    search = ShineCV(Ridge(), cv=cv, refit=False).fit(scale(X), y)
    upper, lower = ShinePathDisplay.from_estimator(search).axes_
    assert upper.get_ylabel() == "held-out mean squared error"
    assert lower.get_ylabel() == "alpha"


def test_a_bound_is_drawn_if_the_path_meets_it(breast_cancer, search):
    def bound_lines(search):
        axes = ShinePathDisplay.from_estimator(search).axes_
        return [line.get_ydata()[0] for line in axes[1].lines[:-2]]

    assert bound_lines(search) == []
    bounded = ShineCV(LogisticRegression(), bounds=(1e-4, 0.01))
    with pytest.warns(ConvergenceWarning, match="bound"):
        bounded.fit(*breast_cancer)
    assert bound_lines(bounded) == [0.01]


def test_scales_follow_the_range():
    near = ShinePathDisplay([0.30, 0.29], [1.0, 1.1], 1).plot().axes_
    far = ShinePathDisplay([900.0, 1.0], [1.0, 1e4], 1).plot().axes_
    negative = ShinePathDisplay([-2.0, 100.0], [1.0, 9.0], 0).plot().axes_
    assert [ax.get_yscale() for ax in (*near, *far, *negative)] == [
        *("linear", "linear"),
        *("log", "log"),
        *("linear", "log"),
    ]


def test_several_hyperparameters_are_several_lines():
    values = np.array([[1.0, 1.0], [2.0, 0.5], [3.0, 0.2]])
    _, lower = ShinePathDisplay([3.0, 2.0, 1.0], values, 2).plot().axes_
    *paths, best = lower.lines
    np.testing.assert_array_equal(np.column_stack([p.get_ydata() for p in paths]), values)
    np.testing.assert_array_equal(best.get_xydata(), [[2, 3.0], [2, 0.2]])


def test_every_panel_shows_its_part_of_the_history(breast_cancer, search):
    names = ("criterion", "folds", "penalty", "hypergradient", "coefficients")
    display = ShinePathDisplay.from_estimator(search, *breast_cancer, panels=names)
    panels = dict(zip(names, display.axes_, strict=True))
    history, index = records(search)
    shade = panels["criterion"].collections[0].get_paths()[0].vertices[:, 1]
    assert shade.max() == max(r["criterion"] + r["error"] for r in history)
    folds = np.column_stack([line.get_ydata() for line in panels["folds"].lines[:-1]])
    np.testing.assert_array_equal(folds, [r["fold_criteria"] for r in history])
    norms = panels["hypergradient"].lines[0].get_ydata()
    np.testing.assert_array_equal(norms, [r["hypergradient_norm"] for r in history])
    bound = panels["hypergradient"].collections[0].get_paths()[0].vertices[:, 1]
    assert bound.max() >= max(
        r["hypergradient_norm"] + r["hypergradient_bound"]
        for r in history
        if np.isfinite(r["hypergradient_bound"])
    )
    paths = np.column_stack([line.get_ydata() for line in panels["coefficients"].lines[:-1]])
    assert paths.shape == (len(history), 30)
    own = LogisticRegression(solver="newton-cholesky", tol=1e-10)
    for coefficients, record in zip(paths, history, strict=True):
        own.set_params(**record["params"]).fit(*breast_cancer)
        np.testing.assert_allclose(coefficients, own.coef_[0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(paths[index], search.best_estimator_.coef_[0], atol=1e-3)
    assert display.axes_[-1].get_xlabel() == "outer iteration"


def test_coefficients_of_a_pipeline_with_several_penalties():
    X, y = load_diabetes(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), Ridge())
    search = ShineCV(pipeline, penalty=np.arange(10) % 2).fit(X, y)
    (ax,) = ShinePathDisplay.from_estimator(search, X, y, panels=["coefficients"]).axes_
    last = [line.get_ydata()[records(search)[1]] for line in ax.lines[:-1]]
    np.testing.assert_allclose(last, search.best_estimator_[-1].coef_, atol=1e-2)


def test_axes_of_another_figure(search):
    figure, axes = plt.subplots(1, 2)
    display = ShinePathDisplay.from_estimator(search, ax=axes)
    assert display.figure_ is figure
    assert list(display.axes_) == list(axes)


def test_bad_arguments(search):
    display = ShinePathDisplay([1.0, 0.5], [1.0, 2.0], 1)
    with pytest.raises(
        ValueError, match="x must be one of iterations, passes, seconds, got 'time'"
    ):
        display.plot(x="time")
    with pytest.raises(ValueError, match="made with passes"):
        display.plot(x="passes")
    with pytest.raises(TypeError, match="sequence of 2 matplotlib Axes"):
        display.plot(ax=plt.gca())
    with pytest.raises(ValueError, match="panels must be among criterion"):
        display.plot(panels=["beauty"])
    with pytest.raises(ValueError, match="panel 'folds' needs a display that was made with"):
        display.plot(panels=["folds"])
    with pytest.raises(ValueError, match="'coefficients' need X and y"):
        ShinePathDisplay.from_estimator(search, panels=["coefficients"])
    with pytest.raises(NotFittedError):
        ShinePathDisplay.from_estimator(ShineCV(LogisticRegression()))


def test_without_matplotlib(search, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="requires matplotlib"):
        ShinePathDisplay.from_estimator(search)
    with pytest.raises(ImportError, match="requires matplotlib"):
        ShinePathDisplay([1.0], [1.0], 0).plot()


def test_penalties_and_the_largest_coefficients_have_names():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    groups = {"body": ["age", "sex", "bmi", "bp"], "blood": ["s1", "s2", "s3", "s4", "s5", "s6"]}
    search = ShineCV(make_pipeline(StandardScaler(), Ridge()), penalty=groups).fit(X, y)
    panels = ("penalty", "coefficients")
    upper, lower = ShinePathDisplay.from_estimator(search, X, y, panels=panels).axes_
    body, blood = upper.lines[:2]
    assert (body.get_label(), blood.get_label()) == ("body", "blood")
    assert body.get_color() != blood.get_color()
    named = {line.get_label(): line for line in lower.lines[:-1] if line.get_label() in X.columns}
    size = dict(zip(X.columns, np.abs(search.best_estimator_[-1].coef_), strict=True))
    assert set(named) == set(sorted(size, key=size.get)[-6:])
    assert len({line.get_color() for line in named.values()}) == 6
    assert {text.get_text() for text in lower.get_legend().texts} == {*named, "chosen"}
