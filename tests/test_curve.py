"""The display of the criterion against the penalty."""

import sys

import numpy as np
import pytest
from helpers import breast_cancer, diabetes
from matplotlib import pyplot as plt
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from hoag_shine import ShineCurveDisplay, ShineCV


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def polynomials():
    return make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler(), Ridge())


@pytest.fixture(scope="module")
def search():
    return ShineCV(polynomials()).fit(*diabetes())


def labelled(display, start):
    """Return the line whose label begins so."""
    (line,) = [line for line in display.ax_.lines if line.get_label().startswith(start)]
    return line


def test_the_curve_is_that_of_cross_validation(search):
    display = ShineCurveDisplay.from_estimator(search, decades=1.0)
    alphas, curve = display.line_.get_data()
    best = search.best_params_["ridge__alpha"]
    assert [alphas[0], alphas[-1]] == pytest.approx([best / 10.0, best * 10.0])
    for k in (0, 150, 300, 450, 599):
        model = polynomials().set_params(ridge__alpha=alphas[k])
        scores = cross_val_score(model, *diabetes(), scoring="neg_mean_squared_error")
        assert curve[k] == pytest.approx(-scores.mean(), rel=0.01)
    assert display.ax_.get_xlabel() == "ridge__alpha"
    assert display.ax_.get_ylabel() == "held-out mean squared error"
    assert display.ax_.get_xscale() == "log"


def test_the_band_is_a_standard_error_of_the_folds(search):
    display = ShineCurveDisplay.from_estimator(search)
    (band,) = [c for c in display.ax_.collections if c.get_label() == "one standard error"]
    best = search.best_params_["ridge__alpha"]
    scores = cross_val_score(
        polynomials().set_params(ridge__alpha=best), *diabetes(), scoring="neg_mean_squared_error"
    )
    vertices = band.get_paths()[0].vertices
    near = vertices[np.abs(np.log(vertices[:, 0] / best)) < 0.01, 1]
    width = 2.0 * scores.std(ddof=1) / np.sqrt(5.0)
    assert near.max() - near.min() == pytest.approx(width, rel=0.02)


def test_marks_are_the_choice_and_that_of_the_one_standard_error_rule(search):
    display = ShineCurveDisplay.from_estimator(search)
    chosen = labelled(display, "chosen").get_xydata()[0]
    assert chosen == pytest.approx([search.best_params_["ridge__alpha"], -search.best_score_])
    simpler = ShineCV(polynomials(), selection="one-se").fit(*diabetes())
    found = labelled(display, "one-se").get_xdata()[0]
    assert found == pytest.approx(simpler.best_params_["ridge__alpha"], rel=0.1)
    other = ShineCurveDisplay.from_estimator(simpler)
    assert labelled(other, "chosen").get_xdata()[0] == simpler.best_params_["ridge__alpha"]
    assert labelled(other, "lowest").get_xdata()[0] == pytest.approx(chosen[0], rel=1e-6)


def test_the_strongest_C_is_the_smaller_one():
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression()).fit(X, y)
    simpler = ShineCV(LogisticRegression(), selection="one-se").fit(X, y)
    display = ShineCurveDisplay.from_estimator(search)
    found = labelled(display, "one-se").get_xdata()[0]
    assert found == pytest.approx(simpler.best_params_["C"], rel=0.1)
    low, high = display.interval
    assert low < search.best_params_["C"] < high
    (span,) = [p for p in display.ax_.patches if p.get_label() == "certified interval"]
    corners = display.ax_.transData.inverted().transform(span.get_window_extent().get_points())
    assert corners[:, 0] == pytest.approx([low, high])


def test_a_grid_is_drawn_beside_it(search):
    values = np.logspace(0, 4, 5)
    grid = GridSearchCV(
        polynomials(), {"ridge__alpha": values}, scoring="neg_mean_squared_error"
    ).fit(*diabetes())
    display = ShineCurveDisplay.from_estimator(search, grid=grid, decades=3.0)
    drawn = labelled(display, "grid")
    np.testing.assert_allclose(drawn.get_xdata(), values)
    np.testing.assert_allclose(drawn.get_ydata(), -grid.cv_results_["mean_test_score"])
    other = GridSearchCV(polynomials(), {"ridge__tol": [0.1]}).fit(*diabetes())
    with pytest.raises(ValueError, match="grid must have tried ridge__alpha"):
        ShineCurveDisplay.from_estimator(search, grid=other)
    with pytest.raises(NotFittedError):
        ShineCurveDisplay.from_estimator(search, grid=GridSearchCV(Ridge(), {"alpha": [1.0]}))


def test_one_split_has_no_standard_error():
    X, y = diabetes()
    one = PredefinedSplit(np.repeat([-1, 0], [342, 100]))
    display = ShineCurveDisplay.from_estimator(ShineCV(Ridge(), cv=one, refit=False).fit(X, y))
    labels = [text.get_text() for text in display.ax_.get_legend().texts]
    assert "one standard error" not in labels
    assert not any(label.startswith("one-se") for label in labels)


def test_slopes_make_the_line_exact_for_a_parabola():
    x = np.array([-2.0, -1.0, 0.0, 1.0, 3.0])
    order = np.array([3, 0, 4, 1, 2])  # evaluations come in the order of a search
    display = ShineCurveDisplay(np.exp(x)[order], (x**2)[order], 4, slopes=(2.0 * x)[order])
    values, curve = display.plot().line_.get_data()
    np.testing.assert_allclose(curve, np.log(values) ** 2, atol=1e-12)


def test_the_line_does_not_swing_beyond_its_ends():
    """Between two values it stays between them, however steep the slopes are."""
    display = ShineCurveDisplay([1e-3, 1.0, 1e3], [1.0, 0.5, 2.0], 1, slopes=[-9.0, 3.0, -1.0])
    values, curve = display.plot(decades=3.0).line_.get_data()
    assert (np.diff(curve[values < 1.0]) <= 1e-12).all()
    assert (np.diff(curve[values > 1.0]) >= -1e-12).all()


def test_without_slopes_lines_are_straight():
    display = ShineCurveDisplay([1.0, np.e, np.e**3], [3.0, 1.0, 2.0], 1).plot()
    values, curve = display.line_.get_data()
    expected = np.interp(np.log(values), [0.0, 1.0, 3.0], [3.0, 1.0, 2.0])
    np.testing.assert_allclose(curve, expected)


def test_axes_of_another_figure(search):
    figure, ax = plt.subplots()
    display = ShineCurveDisplay.from_estimator(search, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is figure


def test_bad_arguments(search, monkeypatch):
    several = ShineCV(Ridge(), penalty=[0] * 5 + [1] * 5).fit(*diabetes())
    with pytest.raises(ValueError, match="search has 2 penalties"):
        ShineCurveDisplay.from_estimator(several)
    with pytest.raises(ValueError, match="decades"):
        ShineCurveDisplay.from_estimator(search, decades=0.0)
    with pytest.raises(NotFittedError):
        ShineCurveDisplay.from_estimator(ShineCV(Ridge()))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="requires matplotlib"):
        ShineCurveDisplay([1.0], [1.0], 0).plot()
