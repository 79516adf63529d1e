"""Time and memory of a search against the size of the data, on synthetic sparse problems.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --quick

Rows of 50 entries, on average, in columns that occur as words do: the j-th of p most common in
proportion to 1 / j; p is the number of rows, at most 100,000. Labels follow a random linear model
with noise. Each size runs in a process of its own, on one thread. ``seconds`` are processor time of
``ShineCV(LogisticRegression(), cv=5).fit``, refit included, after another fit has loaded the
compiled code; ``memory`` is the growth of the largest resident set during the fit, ``pairs`` what
the five folds' memory of L-BFGS takes of it, and ``rest`` what is left, as a share of X. The growth
is counted from what is in memory when the fit begins on Linux; elsewhere from the most that was in
memory until then, which making the data makes too much.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from inspect import signature
from pathlib import Path

import numpy as np
from benchmark_utils.measuring import forget_largest, resident
from rich.console import Console
from rich.table import Table
from scipy import sparse
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from hoag_shine import InverseHessian, ShineCV, hoag

ROWS = [10_000, 30_000, 100_000, 300_000, 1_000_000]
PER_ROW = 50
MOST_COLUMNS = 100_000
FOLDS = 5


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    found = [alone(n) for n in (ROWS[:2] if args.quick else args.rows)]
    entries, seconds = (np.log([each[key] for each in found]) for key in ("entries", "seconds"))
    slope = np.polyfit(entries, seconds, 1)[0]
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(caption=f"seconds grow with the {slope:.2f}th power of the entries")
    for name in found[0]:
        table.add_column(name, justify="right")
    for each in found:
        table.add_row(*(f"{value:,.4g}" for value in each.values()))
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps({"slope": slope, "sizes": found}, indent=1))


def alone(n):
    command = [sys.executable, __file__, "--one", str(n)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(n):
    """Return what a search over n rows takes."""
    warnings.simplefilter("ignore")
    X, y = synthetic(n)
    search = ShineCV(LogisticRegression(), cv=FOLDS)
    with threadpool_limits(1):
        search.fit(sparse.csr_array(load_breast_cancer().data), load_breast_cancer().target)
        forget_largest()
        before, begin = resident(), time.process_time()
        search.fit(X, y)
        seconds, memory = time.process_time() - begin, resident() - before
    size = (X.data.nbytes + X.indices.nbytes + X.indptr.nbytes) / 2**20
    memory_of_search = signature(hoag).parameters["memory"].default
    estimate = InverseHessian(X.shape[1] + 1, memory_of_search)
    pairs = FOLDS * estimate.nbytes / 2**20
    return {
        "rows": n,
        "columns": X.shape[1],
        "entries": int(X.nnz),
        "seconds": seconds,
        "data passes": sum(record["data_passes"] for record in search.history_),
        "X (MiB)": size,
        "memory (MiB)": memory,
        "pairs (MiB)": pairs,
        "rest": (memory - pairs) / size,
    }


def synthetic(n):
    rng = np.random.default_rng(0)
    p = min(n, MOST_COLUMNS)
    often = 1.0 / np.arange(1, p + 1)
    columns = rng.choice(p, size=n * PER_ROW, p=often / often.sum()).astype(np.int32)
    ends = np.arange(0, n * PER_ROW + 1, PER_ROW, dtype=np.int32)
    X = sparse.csr_array((rng.random(columns.size), columns, ends), shape=(n, p))
    X.sum_duplicates()
    z = X @ (rng.normal(size=p) * np.sqrt(often))
    return X, (z + z.std() * rng.normal(size=n) > np.median(z)).astype(int)


if __name__ == "__main__":
    main()
