"""What it costs to look at the whole range, and what it finds: searches with and without looks.

    python benchmarks/looks.py
    python benchmarks/looks.py --data libsvm:a9a text:20news text:imdb

For each set, five folds and the default tolerance: ``hoag(step="secant")``, the local search alone,
and ``hoag()``, which goes on to look around, in turn, on one thread. Passes over the data, seconds
of the processor, the criterion, and what the certificate says may still be gained, as a share of
the criterion. The first run of all compiles and is not counted.
"""

import argparse
import platform
import time
import warnings

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.sparse import issparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from hoag_shine import fold_problems, hoag
from hoag_shine.datasets import load_dataset

SETS = [
    *("sklearn:breast_cancer", "sklearn:wine", "sklearn:iris", "sklearn:digits"),
    *("libsvm:a9a", "libsvm:phishing", "libsvm:mushrooms", "libsvm:svmguide3"),
    *("libsvm:german.numer_scale", "libsvm:splice_scale", "libsvm:leukemia"),
    *("libsvm:colon-cancer", "libsvm:duke_train", "text:20news", "text:imdb"),
    *("sklearn:diabetes", "tabular:abalone", "tabular:cpu_small", "tabular:cal_housing"),
    *("tabular:boston_housing", "tabular:puma32H"),
]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=SETS)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    table = Table(caption=f"{platform.processor() or platform.machine()}, one thread")
    for column in ("data", "rows", "passes", "with looks", "time", "criterion", "gained", "left"):
        table.add_column(column, justify="left" if column == "data" else "right")
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in args.data:
            try:
                table.add_row(*row(name, args.repeats))
            except OSError as error:
                table.add_row(name, str(error))
    Console().print(table)


def row(name, repeats):
    """Return what both searches have cost and found, as text."""
    X, y, estimator, cv = problem_of(name)
    run(X, y, estimator, cv, "auto")
    seconds, results = {}, {}
    for step in ["secant", "auto"] * repeats:
        result, taken, passes = run(X, y, estimator, cv, step)
        results[step] = result, passes
        seconds.setdefault(step, []).append(taken)
    (local, few), (whole, many) = results["secant"], results["auto"]
    times = [np.median(seconds[step]) for step in ("auto", "secant")]
    return (
        name,
        str(len(y)),
        f"{few:.1f}",
        f"{many:.1f}",
        f"{times[0] / times[1]:.2f}",
        f"{whole.value:.6g}",
        f"{1.0 - whole.value / local.value:.1e}",
        f"{whole.certificate.gain / abs(whole.value):.1e}",
    )


def problem_of(name):
    """Return data, of which dense columns are standardised, an estimator and five folds."""
    X, y = load_dataset(name)
    X = X if issparse(X) else StandardScaler().fit_transform(X)
    if name.startswith("tabular:") or name == "sklearn:diabetes":
        return X, y, Ridge(), list(KFold(5, shuffle=True, random_state=0).split(X))
    split = StratifiedKFold(5, shuffle=True, random_state=0)
    return X, y, LogisticRegression(), list(split.split(X, y))


def run(X, y, estimator, cv, step):
    """Return the result of a search, its seconds and its passes."""
    problems = fold_problems(estimator, X, y, cv=cv)
    begin = time.process_time()
    result = hoag(problems, step=step, tol=2e-2)
    passes = sum(record["data_passes"] for record in result.history)
    return result, time.process_time() - begin, passes


if __name__ == "__main__":
    main()
