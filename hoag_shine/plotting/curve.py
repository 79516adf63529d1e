"""The criterion against the penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from ..estimators.registry import as_model
from ..outer.history import standard_error
from ..search.pipelines import PipelineParts
from ..search.summary import certified, loss_name
from ..utils.validation import check_positive
from .style import BEST_COLOR, BOUND_COLOR, PATH_COLOR, SHADE, scale_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

OTHER_COLOR, INTERVAL_COLOR = "#CC79A7", "#009E73"  # of Okabe and Ito, as those of style.py
# Points at which the curve is drawn: more than a printed column shows apart.
# Why: by judgement.
N_DRAWN = 600
# Penalties that differ by less than this share of one of them are marked once.
# Why: by judgement; half the width of a mark, where a column shows four decades.
SAME_PLACE = 0.02


class ShineCurveDisplay:
    """Curve of a search: the held-out loss against the penalty.

    The line is the mean over the folds, the band one standard error of that mean to either side.
    The line goes through the evaluations of the search, with their derivatives; between two of them
    it is monotone. Usually made by :meth:`from_estimator`; the parameters here take the numbers
    themselves.

    Parameters
    ----------
    values : array-like of shape (n_evaluations,)
        Penalties, positive, each once, in any order.
    criterion : array-like of shape (n_evaluations,)
        Held-out loss, averaged over the folds.
    best_index : int
        The evaluation that was chosen.
    slopes : array-like of shape (n_evaluations,), optional
        Derivatives of the criterion in the logarithm of the penalty; straight lines without them.
    standard_error : array-like of shape (n_evaluations,), optional
        Of the criterion.
    one_standard_error : float, optional
        The strongest penalty whose criterion is within one standard error of the lowest.
    interval : pair of float, optional
        Ends of the certified interval.
    grid : pair of array-like of shape (n_candidates,), optional
        Penalties and losses of a grid, for comparison.
    parameter_name : str, default="alpha"
    criterion_name : str, default="held-out loss"

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes
    line_ : matplotlib Line2D
        The curve.

    References
    ----------
    .. [1] F. N. Fritsch and R. E. Carlson, "Monotone piecewise cubic interpolation", SIAM Journal
       on Numerical Analysis 17 (2), 1980: the line between two evaluations.

    Examples
    --------
    >>> from hoag_shine import ShineCurveDisplay
    >>> display = ShineCurveDisplay([0.1, 1.0, 10.0], [0.31, 0.24, 0.28], 1, parameter_name="C")
    >>> display.plot().ax_.get_xlabel()
    'C'
    """

    def __init__(
        self,
        values: ArrayLike,
        criterion: ArrayLike,
        best_index: int,
        *,
        slopes: ArrayLike | None = None,
        standard_error: ArrayLike | None = None,
        one_standard_error: float | None = None,
        interval: tuple[float, float] | None = None,
        grid: tuple[ArrayLike, ArrayLike] | None = None,
        parameter_name: str = "alpha",
        criterion_name: str = "held-out loss",
    ) -> None:
        self.values = values
        self.criterion = criterion
        self.best_index = best_index
        self.slopes = slopes
        self.standard_error = standard_error
        self.one_standard_error = one_standard_error
        self.interval = interval
        self.grid = grid
        self.parameter_name = parameter_name
        self.criterion_name = criterion_name

    @classmethod
    def from_estimator(
        cls, search: Any, *, grid: Any = None, decades: float = 2.0, ax: Axes | None = None
    ) -> ShineCurveDisplay:
        """Plot the curve of a fitted search with one penalty.

        Parameters
        ----------
        search : ShineCV
            Fitted.
        grid : GridSearchCV, optional
            Fitted on the same folds by the same loss (``scoring="neg_log_loss"`` or
            ``"neg_mean_squared_error"``): its candidates are drawn, too.
        decades, ax
            See :meth:`plot`.

        Returns
        -------
        display : ShineCurveDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        sklearn.exceptions.NotFittedError
            If the search is not fitted.
        ValueError
            If the search has several penalties, the grid has another parameter or several scores,
            or ``decades`` is not positive.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(search, "history_")
        ((name, best),) = search.best_params_.items()
        if np.ndim(best) > 0:
            raise ValueError(
                f"search has {np.size(best)} penalties, and a curve is of one: use "
                "ShinePathDisplay, or penalty='shared'."
            )
        records = _known(search)
        values = np.array([record["params"][name] for record in records])
        direction = _direction(search)
        display = cls(
            values,
            [record["criterion"] for record in records],
            int(np.flatnonzero(values == best)[0]),
            slopes=[direction * record["hypergradient"][0] for record in records],
            interval=certified(search),
            grid=None if grid is None else _candidates(grid, name),
            parameter_name=name,
            criterion_name=f"held-out {loss_name(search.estimator)}",
        )
        if search.n_splits_ > 1:
            display.standard_error = [standard_error(r["fold_criteria"]) for r in records]
            display.one_standard_error = display._strongest_within(direction)
        return display.plot(decades=decades, ax=ax)

    def plot(self, *, decades: float = 2.0, ax: Axes | None = None) -> ShineCurveDisplay:
        """Draw the curve.

        Parameters
        ----------
        decades : float, default=2.0
            How much of the range is drawn to either side of the chosen penalty, in powers of ten.
            The one-standard-error choice and the interval are always inside.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        display : ShineCurveDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError, TypeError
            If ``decades`` is not a positive number.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        from matplotlib import pyplot as plt

        check_positive("decades", decades)
        if ax is None:
            _, ax = plt.subplots(figsize=(4.8, 3.6), layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        drawn = np.geomspace(*self._range(decades), N_DRAWN)
        curve = self._curve(np.log(drawn))
        self._draw_known(drawn, curve)
        self._draw_marks()
        ax.set_xscale("log")
        ax.set_xlim(drawn[0], drawn[-1])
        ax.set_xlabel(self.parameter_name)
        ax.set_ylabel(self.criterion_name)
        scale_axis(ax, curve, log_from=20.0)
        ax.grid(color="0.9")
        ax.set_axisbelow(True)
        ax.legend(frameon=False, fontsize="small")
        return self

    def _draw_known(self, drawn: Array, curve: Array) -> None:
        """Draw the curve, what it is made of, and what it is compared with."""
        ax = self.ax_
        if self.interval is not None:
            label = "certified interval"
            ax.axvspan(*self.interval, color=INTERVAL_COLOR, alpha=0.2, linewidth=0, label=label)
        if self.standard_error is not None:
            error = self._interpolated(self.standard_error, np.log(drawn))
            label = "one standard error"
            ax.fill_between(drawn, curve - error, curve + error, label=label, **SHADE)
        (self.line_,) = ax.plot(drawn, curve, color=PATH_COLOR, label="mean of the folds")
        inside = (drawn[0] <= np.asarray(self.values)) & (np.asarray(self.values) <= drawn[-1])
        points = np.asarray(self.values)[inside], np.asarray(self.criterion)[inside]
        ax.plot(*points, ".", color=PATH_COLOR, label="evaluations")
        if self.grid is not None:
            values, losses = (np.asarray(column, dtype=float) for column in self.grid)
            shown = (drawn[0] <= values) & (values <= drawn[-1])
            ax.plot(values[shown], losses[shown], "x", color=BOUND_COLOR, label="grid")

    def _draw_marks(self) -> None:
        """Mark the choice, and the one of the one-standard-error rule."""
        values = np.asarray(self.values, dtype=float)
        best, lowest = values[self.best_index], values[np.argmin(self.criterion)]
        marks = [(best, "chosen", "*", BEST_COLOR, 14.0)]
        others = (lowest, "lowest", "o"), (self.one_standard_error, "one-se rule", "D")
        for value, label, marker in others:
            if value is not None and not np.isclose(value, best, rtol=SAME_PLACE):
                marks.insert(0, (value, label, marker, OTHER_COLOR, 6.0))
        for value, label, marker, color, size in marks:
            self.ax_.plot(
                value,
                self._curve(np.log([value])),
                color=color,
                marker=marker,
                markersize=size,
                markeredgecolor="white",
                linestyle="none",
                label=f"{label}: {value:.4g}",
            )

    def _range(self, decades: float) -> tuple[float, float]:
        values = np.asarray(self.values, dtype=float)
        factor = 10.0**decades
        best = values[self.best_index]
        wanted = [best / factor, best * factor, *(self.interval or ())]
        if self.one_standard_error is not None:
            wanted.append(self.one_standard_error)
        low, high = max(min(wanted), values.min()), min(max(wanted), values.max())
        return (low, high) if low < high else (best / factor, best * factor)

    def _curve(self, at: Array) -> Array:
        """Return the criterion at logarithms of penalties."""
        if self.slopes is None:
            return self._interpolated(self.criterion, at)
        x, y, slopes = self._sorted(np.log(self.values), self.criterion, self.slopes)
        return through(x, y, slopes, at) if x.size > 1 else np.full(at.shape, y[0])

    def _interpolated(self, of_values: ArrayLike, at: Array) -> Array:
        x, y = self._sorted(np.log(self.values), of_values)
        return np.interp(at, x, y)

    def _sorted(self, *columns: ArrayLike) -> list[Array]:
        order = np.argsort(self.values)
        return [np.asarray(column, dtype=float)[order] for column in columns]

    def _strongest_within(self, direction: float) -> float:
        """Return the strongest penalty to which the curve stays within an error of its lowest."""
        x, y, error = self._sorted(np.log(self.values), self.criterion, self.standard_error or [])
        lowest = int(np.argmin(y))
        at = np.linspace(x[lowest], x[-1 if direction > 0.0 else 0], 20_000)
        above = self._curve(at) > y[lowest] + error[lowest]
        return float(np.exp(at[max(int(above.argmax()) - 1, 0) if above.any() else -1]))


def through(x: Array, y: Array, slopes: Array, at: Array) -> Array:
    """Return a curve through points, with these slopes as far as it is monotone in between.

    Parameters
    ----------
    x, y, slopes : ndarray of shape (n_points,)
        At least two points, ``x`` increasing.
    at : ndarray of shape (n,)

    Returns
    -------
    values : ndarray of shape (n,)
    """
    step = np.diff(x)
    secant = np.diff(y) / step
    # Slopes between zero and three secants keep a cubic monotone (Fritsch and Carlson, lemma 2).
    low, high = np.minimum(0.0, 3.0 * secant), np.maximum(0.0, 3.0 * secant)
    left, right = np.clip(slopes[:-1], low, high), np.clip(slopes[1:], low, high)
    k = np.clip(np.searchsorted(x, at, side="right") - 1, 0, step.size - 1)
    t = (at - x[k]) / step[k]
    value: Array = (
        y[k]
        + t * t * (3.0 - 2.0 * t) * (y[k + 1] - y[k])
        + step[k] * t * (1.0 - t) * ((1.0 - t) * left[k] - t * right[k])
    )
    return value


def _known(search: Any) -> list[dict[str, Any]]:
    """Return the last record of each penalty, if its criterion is known."""
    last = {record["theta"].tobytes(): record for record in search.history_}
    best = search.history_[search.best_index_]
    last[best["theta"].tobytes()] = best
    return [r for r in last.values() if np.isfinite(r["criterion"] + r["error"]) or r is best]


def _direction(search: Any) -> float:
    """Return 1 where a larger parameter is a stronger penalty, and -1 where it is a weaker one."""
    model = as_model(PipelineParts(search.estimator).model)
    return 1.0 if model.value(np.ones(1))[0] > 1.0 else -1.0


def _candidates(grid: Any, name: str) -> tuple[Array, Array]:
    """Return the values of a grid's candidates and their losses."""
    check_is_fitted(grid, "cv_results_")
    table = grid.cv_results_
    needed = f"param_{name}", "mean_test_score"
    if not all(key in table for key in needed):
        raise ValueError(f"grid must have tried {name} by one score, as the search has.")
    values, scores = (np.asarray(table[key], dtype=float) for key in needed)
    return values, -scores
