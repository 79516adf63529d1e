"""A demonstration on embedded data: ShineCV beside a grid, on rows that none of them has seen."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from threadpoolctl import threadpool_limits

from ..search import ShineCV

LOSS = "neg_mean_squared_error"
# Width of the bars, in characters.
# Why: the table then fits into 80 columns.
BAR_WIDTH = 12
BAR_STYLE = "cyan"


def demonstrate() -> int:
    """Tune a ridge regression by ShineCV and by a grid on the same folds, and compare them.

    Returns
    -------
    code : int
        0, for the shell.
    """
    console = Console(highlight=False)
    X, y = load_diabetes(return_X_y=True)
    rows, others, target, answers = train_test_split(X, y, test_size=0.3, random_state=0)
    model = make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False))
    model = make_pipeline(model, StandardScaler(), Ridge())
    folds = KFold(5, shuffle=True, random_state=0)
    degrees = ["columns"] * X.shape[1] + ["products"] * (X.shape[1] * (X.shape[1] + 1) // 2)
    console.print(
        f"Ridge regression on the {X.shape[1]} columns of scikit-learn's diabetes data, their "
        f"squares and products. {len(rows)} rows for tuning in five folds, {len(others)} others "
        "to judge by, one thread."
    )
    shared = ShineCV(model, cv=folds)
    by_degree = ShineCV(model, cv=folds, penalty=degrees)
    grid = GridSearchCV(model, {"ridge__alpha": np.logspace(-4, 4, 20)}, cv=folds, scoring=LOSS)
    # Several threads of BLAS slow small products down by more than they help, most of all the grid.
    with threadpool_limits(limits=1):
        first = _seconds(shared, rows, target)
        before = -cross_val_score(model, rows, target, cv=folds, scoring=LOSS).mean()
        compared: list[Any] = [("untuned", "1", before, None, model.fit(rows, target))]
        for name, search in (
            ("grid of 20 values", grid),
            ("ShineCV", shared),
            ("two penalties", by_degree),
        ):
            seconds = _seconds(search, rows, target)
            alphas = np.atleast_1d(search.best_params_["ridge__alpha"])
            found = ", ".join(f"{alpha:.4g}" for alpha in alphas)
            compared.append((name, found, -search.best_score_, seconds, search))
    losses = [mean_squared_error(answers, fitted.predict(others)) for *_, fitted in compared]
    console.print(_table(console, compared, losses))
    console.print(shared.summary(), markup=False, soft_wrap=True)
    console.print(
        "\nThe two penalties are for the columns, and for their squares and products: a grid of 20 "
        "values each would be 400 fits for each fold.\n"
        f"Times of ShineCV are those of a second run; the first took {first:.1f} s, because numba "
        "has to load its kernels, and to compile them once after the installation."
    )
    return 0


def _table(console: Console, compared: list[Any], losses: list[float]) -> Table:
    """Return the comparison, with bars where the terminal has the characters."""
    drawn = console.encoding.startswith("utf")
    headings = "", "alpha", "folds", "others", "seconds"
    title = "Mean squared error in the folds, and on the others" + " (bars)" * drawn
    table = Table(*headings, *[""] * drawn, title=title, title_justify="left")
    for (name, found, loss, seconds, _), other in zip(compared, losses, strict=True):
        spent = "" if seconds is None else f"{seconds:.2f}"
        bar = [Bar(max(losses), 0.0, other, width=BAR_WIDTH, color=BAR_STYLE)] * drawn
        table.add_row(name, found, f"{loss:.0f}", f"{other:.0f}", spent, *bar)
    return table


def _seconds(search: Any, X: Any, y: Any) -> float:
    """Return how long the search takes, the final fit included."""
    start = time.perf_counter()
    search.fit(X, y)
    return time.perf_counter() - start
