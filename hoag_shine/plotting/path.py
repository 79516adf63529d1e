"""The path of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from ..inner import Solution
from ..search.folds import FoldedData
from ..search.refit import Refit, fitted_model
from ..search.summary import loss_name
from .style import BEST_COLOR, BOUND_COLOR, LINE_COLORS, PATH_COLOR, SHADE, scale_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Position: TypeAlias = Literal["iterations", "passes", "seconds"]
Panel: TypeAlias = Literal["criterion", "folds", "penalty", "hypergradient", "coefficients"]

X_LABELS: dict[str, str] = {
    "iterations": "outer iteration",
    "passes": "passes over the data",
    "seconds": "time (s)",
}
# Most entries of a legend inside the axes.
# Why: by judgement; more hide the lines of a panel that is 2.4 inches high.
MAX_INSIDE = 3


class ShinePathDisplay:
    """Path of a search: the criterion, the hyperparameter and more along the outer iterations.

    Usually made by :meth:`from_estimator`; the parameters here take the numbers themselves. The
    panels are:

    ``"criterion"``
        The held-out loss, averaged over the folds; the shade is its error, as far as the inner
        fits were not finished.
    ``"folds"``
        The held-out loss of each fold.
    ``"penalty"``
        The hyperparameter, or each of them; up to six have their names in the legend.
    ``"hypergradient"``
        The norm of the derivative of the criterion; the shade ends at an upper bound of it, given
        the inner fits.
    ``"coefficients"``
        The coefficients of the final fit at each penalty; the six largest have their names in the
        legend, if names are known.

    Parameters
    ----------
    criterion : array-like of shape (n_iterations,)
        Held-out loss, averaged over the folds.
    values : array-like of shape (n_iterations,) or (n_iterations, n_hyperparameters)
        Hyperparameters, positive.
    best_index : int
        The iteration whose hyperparameter was chosen.
    bounds : pair of float, optional
        Smallest and largest value allowed; drawn if the path meets them.
    passes, seconds : array-like of shape (n_iterations,), optional
        Data passes and seconds spent until the end of each iteration.
    error : array-like of shape (n_iterations,), optional
        Error of the criterion.
    fold_criteria : array-like of shape (n_iterations, n_folds), optional
    hypergradient, hypergradient_bound : array-like of shape (n_iterations,), optional
        Norm of the hypergradient, and an upper bound of its error; infinite where there is none.
    coefficients : array-like of shape (n_iterations, n_coefficients), optional
    penalty_names : sequence of shape (n_hyperparameters,), optional
    coefficient_names : sequence of shape (n_coefficients,), optional
    parameter_name : str, default="alpha"
    criterion_name : str, default="held-out loss"

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of shape (n_panels,) of matplotlib Axes
        By default the criterion above, the hyperparameter below.

    Examples
    --------
    >>> from hoag_shine.plotting import ShinePathDisplay
    >>> display = ShinePathDisplay([0.31, 0.25, 0.24], [1.0, 7.4, 5.2], 2, parameter_name="C")
    >>> display.plot().axes_[1].get_ylabel()
    'C'
    """

    def __init__(
        self,
        criterion: ArrayLike,
        values: ArrayLike,
        best_index: int,
        *,
        bounds: tuple[float, float] | None = None,
        passes: ArrayLike | None = None,
        seconds: ArrayLike | None = None,
        error: ArrayLike | None = None,
        fold_criteria: ArrayLike | None = None,
        hypergradient: ArrayLike | None = None,
        hypergradient_bound: ArrayLike | None = None,
        coefficients: ArrayLike | None = None,
        penalty_names: Sequence[Any] | None = None,
        coefficient_names: Sequence[Any] | None = None,
        parameter_name: str = "alpha",
        criterion_name: str = "held-out loss",
    ) -> None:
        self.criterion = criterion
        self.values = values
        self.best_index = best_index
        self.bounds = bounds
        self.passes = passes
        self.seconds = seconds
        self.error = error
        self.fold_criteria = fold_criteria
        self.hypergradient = hypergradient
        self.hypergradient_bound = hypergradient_bound
        self.coefficients = coefficients
        self.penalty_names = penalty_names
        self.coefficient_names = coefficient_names
        self.parameter_name = parameter_name
        self.criterion_name = criterion_name

    @classmethod
    def from_estimator(
        cls,
        search: Any,
        X: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        panels: Sequence[Panel] = ("criterion", "penalty"),
        x: Position = "iterations",
        ax: Sequence[Axes] | None = None,
    ) -> ShinePathDisplay:
        """Plot the path of a fitted search.

        Parameters
        ----------
        search : ShineCV
            Fitted.
        X, y, sample_weight : optional
            What it was fitted to; only for the panel ``"coefficients"``, for which the estimator is
            fitted to them at each penalty, and needed there.
        panels, x, ax
            See :meth:`plot`.

        Returns
        -------
        display : ShinePathDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        sklearn.exceptions.NotFittedError
            If the search is not fitted.
        ValueError, TypeError
            See :meth:`plot`.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(search, "history_")
        coefficients = None
        if "coefficients" in panels:
            if X is None or y is None:
                raise ValueError("panels with 'coefficients' need X and y, to fit them.")
            coefficients = coefficient_path(search, X, y, sample_weight)
        (parameter_name,) = search.best_params_
        history = searched(search)
        spent = {
            name: np.cumsum([record[name] for record in search.history_])[
                [record["iteration"] for record in history]
            ]
            for name in ("data_passes", "seconds")
        }
        folds = f"\n(mean of {search.n_splits_} folds)" if search.n_splits_ > 1 else ""
        return cls(
            [record["criterion"] for record in history],
            [record["params"][parameter_name] for record in history],
            [record["iteration"] for record in history].index(search.best_index_),
            bounds=search.bounds,
            passes=spent["data_passes"],
            seconds=spent["seconds"],
            error=[record["error"] for record in history],
            fold_criteria=[record["fold_criteria"] for record in history],
            hypergradient=[record["hypergradient_norm"] for record in history],
            hypergradient_bound=[record["hypergradient_bound"] for record in history],
            coefficients=coefficients,
            penalty_names=search.penalty_names_,
            coefficient_names=_column_names(search),
            parameter_name=parameter_name,
            criterion_name=f"held-out {loss_name(search.estimator)}{folds}",
        ).plot(panels=panels, x=x, ax=ax)

    def plot(
        self,
        *,
        panels: Sequence[Panel] = ("criterion", "penalty"),
        x: Position = "iterations",
        ax: Sequence[Axes] | None = None,
    ) -> ShinePathDisplay:
        """Draw the panels.

        Parameters
        ----------
        panels : sequence of str, default=("criterion", "penalty")
            One or more of ``"criterion"``, ``"folds"``, ``"penalty"``, ``"hypergradient"`` and
            ``"coefficients"``, from top to bottom.
        x : {"iterations", "passes", "seconds"}, default="iterations"
            What is spent, on the horizontal axis.
        ax : sequence of matplotlib Axes, optional
            Where to draw the panels, as many as these; a new figure by default.

        Returns
        -------
        display : ShinePathDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If ``x`` or a panel is not known, or was not given to the display.
        TypeError
            If ``ax`` does not have an Axes for each panel.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        from matplotlib import pyplot as plt
        from matplotlib.ticker import MaxNLocator

        spent, draw = self._spent(x), [self._panel(name) for name in panels]
        if ax is None:
            size = 6.4, 2.4 * max(len(draw), 1)
            options: dict[str, Any] = {"layout": "constrained", "figsize": size}
            ax = plt.subplots(len(draw), 1, sharex=True, squeeze=False, **options)[1][:, 0]
        self.axes_ = np.asarray(ax, dtype=object)
        if self.axes_.shape != (len(draw),):
            raise TypeError(
                f"ax must be a sequence of {len(draw)} matplotlib Axes, one for each panel, "
                f"got {ax!r}."
            )
        for draw_panel, axes in zip(draw, self.axes_, strict=True):
            draw_panel(axes, spent)
        lowest = self.axes_[-1]
        self.figure_ = lowest.figure
        lowest.set_xlabel(X_LABELS[x])
        self.figure_.align_ylabels(self.axes_)
        if x == "iterations":
            lowest.set_xlim(-0.5, spent.size - 0.5)
            lowest.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        else:
            lowest.set_xlim(left=0.0)
        return self

    def _panel(self, name: str) -> Callable[[Axes, NDArray[Any]], None]:
        """Return what draws a panel, after checking that there is something to draw."""
        known = {
            "criterion": (self.criterion, self._draw_criterion),
            "folds": (self.fold_criteria, self._draw_folds),
            "penalty": (self.values, self._draw_values),
            "hypergradient": (self.hypergradient, self._draw_hypergradient),
            "coefficients": (self.coefficients, self._draw_coefficients),
        }
        if name not in known:
            raise ValueError(f"panels must be among {', '.join(known)}, got {name!r}.")
        values, draw = known[name]
        if values is None:
            raise ValueError(f"panel {name!r} needs a display that was made with its values.")
        return draw

    def _spent(self, x: Position) -> NDArray[Any]:
        spent = {
            "iterations": np.arange(np.size(self.criterion)),
            "passes": self.passes,
            "seconds": self.seconds,
        }
        if x not in spent:
            raise ValueError(f"x must be one of {', '.join(spent)}, got {x!r}.")
        if spent[x] is None:
            raise ValueError(f"x={x!r} needs a display that was made with {x}.")
        return np.asarray(spent[x])

    def _draw_criterion(self, ax: Axes, spent: NDArray[Any]) -> None:
        criterion = np.asarray(self.criterion, dtype=float)
        best = criterion[self.best_index]
        if self.error is not None:
            error = np.asarray(self.error, dtype=float)
            ax.fill_between(spent, criterion - error, criterion + error, **SHADE)
        self._draw_path(ax, spent, criterion, f"chosen: {best:.4g}")
        ax.set_ylabel(self.criterion_name)
        scale_axis(ax, criterion, log_from=20.0)

    def _draw_folds(self, ax: Axes, spent: NDArray[Any]) -> None:
        folds = np.asarray(self.fold_criteria, dtype=float)
        self._draw_path(ax, spent, folds, "chosen")
        ax.set_ylabel("held-out loss\nof each fold")
        scale_axis(ax, folds, log_from=20.0)

    def _draw_hypergradient(self, ax: Axes, spent: NDArray[Any]) -> None:
        norm = np.asarray(self.hypergradient, dtype=float)
        if self.hypergradient_bound is not None:
            bound = np.asarray(self.hypergradient_bound, dtype=float)
            certain = np.where(np.isfinite(bound), norm + bound, np.nan)
            ax.fill_between(spent, norm, certain, label="certainly within", **SHADE)
        self._draw_path(ax, spent, norm, "chosen")
        ax.set_ylabel("norm of the\nhypergradient")
        scale_axis(ax, norm, log_from=20.0)

    def _draw_coefficients(self, ax: Axes, spent: NDArray[Any]) -> None:
        coefficients = np.asarray(self.coefficients, dtype=float)
        lines = ax.plot(spent, coefficients, linewidth=0.8, marker=".")
        names = self.coefficient_names
        if names is not None and len(names) == len(lines):
            size = np.abs(coefficients[self.best_index])
            largest = np.argsort(size)[::-1][: len(LINE_COLORS)]
            for line in lines:
                line.set(color=BOUND_COLOR, alpha=0.5)
            _name([lines[k] for k in largest], [names[k] for k in largest])
        ax.axvline(spent[self.best_index], color=BEST_COLOR, linestyle="--", label="chosen")
        ax.set_ylabel("coefficients")
        _legend(ax)
        ax.grid(color="0.9")

    def _draw_values(self, ax: Axes, spent: NDArray[Any]) -> None:
        values = np.asarray(self.values, dtype=float)
        best = values[self.best_index]
        for bound in self.bounds or ():
            if np.isclose(values, bound).any():
                ax.axhline(bound, color=BOUND_COLOR, linestyle="--", label=f"bound {bound:g}")
        label = f"{self.parameter_name} = {best:.4g}" if best.size == 1 else "chosen"
        lines = self._draw_path(ax, spent, values, label)
        names = self.penalty_names
        if names is not None and 1 < len(names) <= len(LINE_COLORS):
            _name(lines, names)
            _legend(ax)
        ax.set_ylabel(self.parameter_name)
        scale_axis(ax, values, log_from=3.0)

    def _draw_path(self, ax: Axes, x: NDArray[Any], y: NDArray[Any], label: str) -> list[Line2D]:
        lines = ax.plot(x, y, color=PATH_COLOR, marker="o", markersize=4)
        best = np.atleast_1d(y[self.best_index])
        ax.plot(
            np.repeat(x[self.best_index], best.size),
            best,
            color=BEST_COLOR,
            marker="*",
            markeredgecolor="white",
            markersize=16,
            linestyle="none",
            label=label,
        )
        _legend(ax)
        ax.grid(color="0.9")
        ax.set_axisbelow(True)
        return lines


def coefficient_path(search: Any, X: Any, y: Any, sample_weight: Any = None) -> NDArray[Any]:
    """Return the coefficients of the final fit at each penalty that a search has visited.

    Parameters
    ----------
    search : ShineCV
        Fitted.
    X, y, sample_weight
        What it was fitted to.

    Returns
    -------
    coefficients : ndarray of shape (n_iterations, n_coefficients)
        Of all features and outputs, without intercepts.
    """
    rows = np.arange(np.shape(y)[0])
    data = FoldedData(search.estimator, X, y, cv=[(rows, rows)], sample_weight=sample_weight)
    (design,) = data.designs
    if data.chain.prefix:
        design = replace(data.whole(), splits=data.splits)
    (groups,) = data.groups(search.penalty, [design])
    design = design.with_groups(groups, reduce=False)
    refit = Refit(data.with_designs([design]), design, search.tol, shared=True)
    path: list[NDArray[Any]] = []
    solutions: list[Solution] = []
    for record in searched(search):
        solutions = [refit.fit(record["theta"], solutions)]
        (value,) = record["params"].values()
        # The variables of a problem are not all coefficients: one may be a scale, columns may be
        # merged.
        path.append(np.ravel(fitted_model(design, value, solutions[0], by_output=False).coef_))
    return np.array(path)


def _name(lines: Sequence[Line2D], names: Sequence[Any]) -> None:
    """Give each line a colour and a name."""
    for line, name, color in zip(lines, names, LINE_COLORS, strict=False):
        line.set(color=color, label=str(name), alpha=1.0, linewidth=1.5)


def _legend(ax: Axes) -> None:
    """Draw a legend; one of many lines stands beside the axes."""
    options: dict[str, Any] = {"frameon": False, "markerscale": 0.75, "handletextpad": 0.4}
    if len(ax.get_legend_handles_labels()[0]) > MAX_INSIDE:
        options |= {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "fontsize": "small"}
    ax.legend(**options)


def _column_names(search: Any) -> list[Any] | None:
    """Return the names of the linear model's columns, where they are known."""
    best = getattr(search, "best_estimator_", None)
    if isinstance(best, Pipeline):
        try:
            return list(best[:-1].get_feature_names_out())
        except (AttributeError, ValueError):  # a step has no names for what it makes
            return None
    names = getattr(best, "feature_names_in_", None)
    return None if names is None else list(names)


def searched(search: Any) -> list[dict[str, Any]]:
    """Return the iterations of a search, without those that only looked at another part."""
    best = search.best_index_
    return [r for r in search.history_ if not r["look"] or r["iteration"] == best]
