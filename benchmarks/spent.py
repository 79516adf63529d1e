"""Where the time of a search goes: a profile by kinds of work, in units.

    python benchmarks/spent.py
    python benchmarks/spent.py --data sklearn:digits=8

``ShineCV(LogisticRegression(), cv=five folds).fit``, refit included, on one thread, the second fit
of the process. A unit is X @ v plus X.T @ u by scipy, the best of 20. What numpy takes is counted
where it is called from, so that "vectors" are all operations on arrays of as many numbers as X has
columns or rows, but for products, recursion and losses.
"""

import argparse
import cProfile
import pstats
import sys
import warnings
from collections import defaultdict
from pathlib import Path

from benchmark_utils.data import five_folds
from benchmark_utils.measuring import unit_of
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import hoag_shine
from hoag_shine import ShineCV

PACKAGE = Path(hoag_shine.__file__).parent
# By the start of the path within the package, and the function; the first that fits.
KINDS = {
    "products X @ W": [
        "linalg/kernels.py:csr_matmul",
        "linalg/kernels.py:dense_matmul",
        "linalg/design.py:matmul",
    ],
    "products X.T @ U": [
        "linalg/kernels.py:csr_rmatmul",
        "linalg/kernels.py:dense_rmatmul",
        "linalg/kernels.py:csr_add_rows",
        "linalg/design.py:add_rmatmul",
        "linalg/design.py:add_rows",
    ],
    "two-loop recursion": ["linalg/pairs.py:_two_loop"],
    "losses": [
        "problems/losses",
        "linalg/kernels.py:logistic",
        "linalg/kernels.py:multinomial",
        "problems/linear.py:_losses",
    ],
    "factorised Hessian": [
        "linalg/kernels.py:csr_add_gram",
        "linalg/design.py:add_gram",
        "linalg/cholesky.py",
        "problems/direct",
        "problems/mean_hessian.py",
        "inner/factorised.py",
    ],
    "data, folds, final estimator": ["problems/presolve", "search", "estimators", "utils"],
    "vectors": ["linalg", "inner", "hypergradients", "problems", "outer/inexact_oracle.py"],
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["text:20news", "text:imdb", "libsvm:a9a"])
    args = parser.parse_args()
    table = Table(caption="units")
    table.add_column("work")
    columns = []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in args.data:
            columns.append(profile(name))
            table.add_column(name, justify="right")
    for kind in [*KINDS, "all else", "all"]:
        table.add_row(kind, *(f"{column[kind]:,.0f}" for column in columns))
    Console().print(table)


def profile(name):
    """Return units by kind of work."""
    data = five_folds(name)
    search = ShineCV(LogisticRegression(), cv=data["cv"])
    search.fit(data["X"], data["y"])
    profiler = cProfile.Profile()
    profiler.runcall(search.fit, data["X"], data["y"])
    unit = unit_of(data["X"])
    spent = defaultdict(float)
    for function, (_, _, seconds, _, callers) in pstats.Stats(profiler).stats.items():
        own = kind_of(function)
        if own is not None or not callers:
            spent[own or "all else"] += seconds / unit
            continue
        # What numpy and others do is counted for whom they do it; stats are by caller.
        for caller, (*_, share, _) in callers.items():
            spent[kind_of(caller) or "all else"] += share / unit
    spent["all"] = sum(spent.values())
    return spent


def kind_of(function):
    """Return the kind of work of a function of ours; None for what is not ours."""
    file, _, name = function
    if not file.startswith(str(PACKAGE)):
        return None
    place = f"{Path(file).relative_to(PACKAGE).as_posix()}:{name}"
    for kind, starts in KINDS.items():
        if place.startswith(tuple(starts)):
            return kind
    return "all else"


if __name__ == "__main__":
    sys.exit(main())
