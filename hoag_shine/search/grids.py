"""Arguments that users of grid searches may try, and what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import numpy as np

P = ParamSpec("P")
# Names of arguments by which other searches take candidates.
GRID_WORDS = ("param_grid", "param_distributions", "params", "Cs", "alphas")


def explaining_grids(
    init: Callable[Concatenate[Any, P], None],
) -> Callable[Concatenate[Any, P], None]:
    """Make ``__init__`` say what to write instead when it is given candidates."""

    @wraps(init)
    def checked(self: Any, /, *arguments: P.args, **options: P.kwargs) -> None:
        grids = [*arguments[1:2], *(options[word] for word in GRID_WORDS if word in options)]
        if grids:
            raise TypeError(
                f"{type(self).__name__} takes no candidates: it finds the best C or alpha itself. "
                f"Write {type(self).__name__}(estimator{_bounds(grids[0])}), and other options by "
                "their names."
            )
        init(self, *arguments, **options)

    return checked


def _bounds(grid: Any) -> str:
    """Return the bounds that a grid of one parameter has, as an argument."""
    values = next(iter(grid.values())) if isinstance(grid, Mapping) and len(grid) == 1 else grid
    try:
        numbers = np.array(values, dtype=np.float64)
        low, high = float(numbers.min()), float(numbers.max())
    except (TypeError, ValueError):
        return ""
    return f", bounds=({low:g}, {high:g})" if 0.0 < low < high < np.inf else ""
