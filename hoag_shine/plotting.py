"""Plots of a search, in the style of scikit-learn's displays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import is_classifier
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Position: TypeAlias = Literal["iterations", "passes", "seconds"]

X_LABELS: dict[str, str] = {
    "iterations": "outer iteration",
    "passes": "passes over the data",
    "seconds": "time (s)",
}
# Two colours that every kind of colour vision keeps apart (Okabe and Ito's blue and vermilion).
PATH_COLOR, BEST_COLOR, BOUND_COLOR = "#0072B2", "#D55E00", "0.45"


class ShinePathDisplay:
    """Path of a search: the criterion and the hyperparameter along the outer iterations.

    Made by :meth:`from_estimator`; the parameters here are for those who have the numbers already.

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
    parameter_name : str, default="alpha"
    criterion_name : str, default="held-out loss"

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of shape (2,) of matplotlib Axes
        The criterion above, the hyperparameter below.

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
        parameter_name: str = "alpha",
        criterion_name: str = "held-out loss",
    ) -> None:
        self.criterion = criterion
        self.values = values
        self.best_index = best_index
        self.bounds = bounds
        self.passes = passes
        self.seconds = seconds
        self.parameter_name = parameter_name
        self.criterion_name = criterion_name

    @classmethod
    def from_estimator(
        cls, search: Any, *, x: Position = "iterations", ax: Sequence[Axes] | None = None
    ) -> ShinePathDisplay:
        """Plot the path of a fitted search.

        Parameters
        ----------
        search : ShineCV
            Fitted.
        x, ax
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
        (parameter_name,) = search.best_params_
        loss = "log-loss" if is_classifier(search) else "mean squared error"
        folds = f"\n(mean of {search.n_splits_} folds)" if search.n_splits_ > 1 else ""
        return cls(
            [record["criterion"] for record in search.history_],
            [record["params"][parameter_name] for record in search.history_],
            search.best_index_,
            bounds=search.bounds,
            passes=np.cumsum([record["data_passes"] for record in search.history_]),
            seconds=np.cumsum([record["seconds"] for record in search.history_]),
            parameter_name=parameter_name,
            criterion_name=f"held-out {loss}{folds}",
        ).plot(x=x, ax=ax)

    def plot(
        self, *, x: Position = "iterations", ax: Sequence[Axes] | None = None
    ) -> ShinePathDisplay:
        """Draw the two panels.

        Parameters
        ----------
        x : {"iterations", "passes", "seconds"}, default="iterations"
            What is spent, on the horizontal axis.
        ax : pair of matplotlib Axes, optional
            Where to draw the criterion and the hyperparameter; a new figure by default.

        Returns
        -------
        display : ShinePathDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If ``x`` is not one of the three, or was not given to the display.
        TypeError
            If ``ax`` is not a pair.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        from matplotlib import pyplot as plt
        from matplotlib.ticker import MaxNLocator

        spent = self._spent(x)
        if ax is None:
            _, ax = plt.subplots(2, 1, sharex=True, layout="constrained", figsize=(6.4, 4.8))
        self.axes_ = np.asarray(ax, dtype=object)
        if self.axes_.shape != (2,):
            raise TypeError(f"ax must be a pair of matplotlib Axes, got {ax!r}.")
        upper, lower = self.axes_
        self.figure_ = upper.figure
        self._draw_criterion(upper, spent)
        self._draw_values(lower, spent)
        lower.set_xlabel(X_LABELS[x])
        self.figure_.align_ylabels(self.axes_)
        if x == "iterations":
            lower.set_xlim(-0.5, spent.size - 0.5)
            lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        else:
            lower.set_xlim(left=0.0)
        return self

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
        self._draw_path(ax, spent, criterion, f"lowest: {best:.6g}")
        ax.set_ylabel(self.criterion_name)
        _scale(ax, criterion, log_from=20.0)

    def _draw_values(self, ax: Axes, spent: NDArray[Any]) -> None:
        values = np.asarray(self.values, dtype=float)
        best = values[self.best_index]
        for bound in self.bounds or ():
            if np.isclose(values, bound).any():
                ax.axhline(bound, color=BOUND_COLOR, linestyle="--", label=f"bound {bound:g}")
        label = f"{self.parameter_name} = {best:.4g}" if best.size == 1 else "chosen"
        self._draw_path(ax, spent, values, label)
        ax.set_ylabel(self.parameter_name)
        _scale(ax, values, log_from=3.0)

    def _draw_path(self, ax: Axes, x: NDArray[Any], y: NDArray[Any], label: str) -> None:
        ax.plot(x, y, color=PATH_COLOR, marker="o", markersize=4)
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
        ax.legend(frameon=False, markerscale=0.75, handletextpad=0.3)
        ax.grid(color="0.9")
        ax.set_axisbelow(True)


def _scale(ax: Axes, y: NDArray[Any], *, log_from: float) -> None:
    """Scale the vertical axis by logarithms if the largest value is that many times the least."""
    from matplotlib.ticker import LogLocator

    low, high = y.min(), y.max()
    if low <= 0.0 or high < log_from * low:
        ax.ticklabel_format(axis="y", useOffset=False)
        return
    ax.set_yscale("log")
    if high < 500.0 * low:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
