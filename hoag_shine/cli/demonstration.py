"""A demonstration on embedded data: ShineCV beside a grid."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ..datasets import load_dataset
from ..search import ShineCV


def demonstrate() -> int:
    """Tune a logistic regression by ShineCV and by a grid on the same folds, and compare them.

    Returns
    -------
    code : int
        0, for the shell.
    """
    console = Console(highlight=False)
    X, y = load_dataset("sklearn:breast_cancer")
    X = StandardScaler().fit_transform(X)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    grid = {"C": np.logspace(-4, 4, 20)}
    shine = ShineCV(LogisticRegression(), cv=folds)
    rival = GridSearchCV(
        LogisticRegression(max_iter=10_000), grid, cv=folds, scoring="neg_log_loss"
    )
    console.print(
        f"Logistic regression on breast cancer data ({X.shape[0]} rows, {X.shape[1]} columns, "
        "standardised), 5 folds, one thread:"
    )
    table = Table("", "C", "held-out log-loss", "seconds")
    # Several threads of BLAS slow small products down by more than they help, most of all the grid.
    with threadpool_limits(limits=1):
        first = _seconds(shine, X, y)
        for name, search in (("ShineCV", shine), ("GridSearchCV, 20 values", rival)):
            seconds = _seconds(search, X, y)
            loss = f"{-search.best_score_:.6f}"
            table.add_row(name, f"{search.best_params_['C']:.4g}", loss, f"{seconds:.3f}")
    console.print(table)
    console.print(
        f"The time of ShineCV is that of a second run; the first took {first:.1f} s, because numba "
        "has to load its kernels, and to compile them once after the installation."
    )
    return 0


def _seconds(search: Any, X: Any, y: Any) -> float:
    """Return how long the search takes, the final fit included."""
    start = time.perf_counter()
    search.fit(X, y)
    return time.perf_counter() - start
