"""Colours and scales that the displays share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Two colours that every kind of colour vision keeps apart (Okabe and Ito's blue and vermilion).
PATH_COLOR, BEST_COLOR, BOUND_COLOR = "#0072B2", "#D55E00", "0.45"
# Lines that have names: theirs, without the yellow that paper swallows and the colour of the best.
LINE_COLORS = ("#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
SHADE: dict[str, Any] = {"color": PATH_COLOR, "alpha": 0.2, "linewidth": 0.0}


def scale_axis(ax: Axes, y: NDArray[Any], *, log_from: float) -> None:
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
