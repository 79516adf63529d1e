"""ShineCV against the field: what each search costs and how good the penalty is that it finds.

    python benchmarks/table.py
    python benchmarks/table.py --quick

Five folds each, one thread. Every search is run several times, in turn with the others, and timed
in *units*: the best of 20 products X @ v and X.T @ u by scipy (numpy for dense X) over all rows, in
the same run. The penalty that it returns is judged by the *converged* criterion, the held-out loss
of folds that are solved as good as exactly, above its minimum. ``fit`` is one
``LogisticRegression(C=best, max_iter=1000).fit(X, y)`` at the best penalty, for comparison.

Three tables: logistic regression, ridge, and the kernels. ``--quick`` takes small sets that come
with scikit-learn. A search that takes longer than ``--patience`` seconds is not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from benchmark_utils.criterion import kept_criterion
from benchmark_utils.data import five_folds
from benchmark_utils.kernels import KERNELS
from benchmark_utils.measuring import environment, unit_of
from benchmark_utils.rivals import RIDGE_RIVALS, RIVALS, absent
from benchmark_utils.settling import explore
from rich.console import Console
from rich.table import Table
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from hoag_shine.datasets import load_dataset

CLASSIFICATION = ["text:20news", "text:imdb"] + [
    f"libsvm:{name}" for name in ("a9a", "w8a", "phishing", "ijcnn1")
]
REGRESSION = [f"tabular:{name}" for name in ("cal_housing", "cpu_small", "puma32H")] + [
    "text:20news"
]
QUICK = {"logistic": ["sklearn:breast_cancer", "sklearn:digits=8"], "ridge": ["sklearn:diabetes"]}
TOLERANCE = 1e-3


@dataclass
class Entry:
    """What one search did: seconds of each run, and the penalty as log alpha."""

    name: str
    seconds: list[float] = field(default_factory=list)
    theta: float = np.nan
    excess: float = np.nan
    note: str = ""


def main():
    args = parse_arguments()
    console = Console(width=None if sys.stdout.isatty() else 120)
    found = {}
    with threadpool_limits(args.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rivals that do not converge are judged by their result
        found["environment"] = environment(repeats=args.repeats, seed=args.seed)
        console.print(found["environment"])
        for part in args.parts:
            found[part] = PARTS[part](args, console)
            if args.json:
                args.json.write_text(json.dumps(found, indent=1, default=float))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--data", nargs="+", help="sets, instead of those of a part")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--quick", action="store_true", help="small sets")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--patience", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--threads", type=int, default=1, help="of BLAS and OpenMP")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


# --- searches ------------------------------------------------------------------------------------


def logistic(args, console):
    """Tune logistic regression by every rival."""
    rows = {}
    for name in args.data or (QUICK["logistic"] if args.quick else CLASSIFICATION):
        data = five_folds(name, args.seed)
        X, y, cv = data["X"], data["y"], data["cv"]
        criterion = kept_criterion(LogisticRegression(), data)
        landscape = explore(criterion, (TOLERANCE,))
        best = np.exp(-landscape.theta)
        searches = {rival: partial(RIVALS[rival], X, y, cv) for rival in args.rivals}
        missing = {rival: absent(rival, X.shape[1]) for rival in searches}
        model = LogisticRegression(C=best, max_iter=1000)
        searches["fit"] = lambda model=model, X=X, y=y: clone(model).fit(X, y).C
        rows[name] = compete(args, console, name, X, searches, missing, criterion, landscape)
    return rows


def ridge(args, console):
    """Tune ridge regression by scikit-learn's searches and ours."""
    rows = {}
    for name in args.data or (QUICK["ridge"] if args.quick else REGRESSION):
        X, y = load_dataset(name)
        X = X if issparse(X) else StandardScaler().fit_transform(X)
        y = np.asarray(y, dtype=np.float64)
        cv = list(KFold(5, shuffle=True, random_state=args.seed).split(X))
        criterion = kept_criterion(Ridge(), {"X": X, "y": y, "cv": cv})
        landscape = explore(criterion, (TOLERANCE,))
        runs = {key: partial(search, X, y, cv) for key, search in RIDGE_RIVALS.items()}
        rows[name] = compete(args, console, name, X, runs, {}, criterion, landscape)
    return rows


def compete(args, console, name, X, searches, missing, criterion, landscape):
    """Run the searches in turn; judge what they find, and print a table."""
    entries = {key: Entry(key, note=missing.get(key) or "") for key in searches}
    unit = np.inf
    for repeat in range(args.repeats):
        for key, entry in entries.items():
            if entry.note or (repeat and entry.seconds[0] > args.patience):
                continue
            unit = min(unit, unit_of(X))
            begin = time.perf_counter()
            entry.theta = -float(np.log(searches[key]()))
            entry.seconds.append(time.perf_counter() - begin)
    for entry in entries.values():
        if entry.seconds:
            entry.excess = criterion(entry.theta) / landscape.value - 1.0
    console.print(competition_table(name, X, unit, entries.values(), landscape))
    return {
        "shape": X.shape,
        "unit": unit,
        "optimum": {"theta": landscape.theta, "value": landscape.value},
        "entries": [asdict(entry) for entry in entries.values()],
    }


def competition_table(name, X, unit, entries, landscape):
    table = Table(
        title=f"{name}, {X.shape[0]:,} x {X.shape[1]:,}: optimum {landscape.value:.6g} at "
        f"log alpha = {landscape.theta:.3f}",
        caption=f"1 unit = {1e3 * unit:.3g} ms",
    )
    table.add_column("search")
    for heading in ("log alpha", "excess", "units", "times ShineCV"):
        table.add_column(heading, justify="right")
    ours = next((median(e.seconds) for e in entries if e.name == "ShineCV"), np.nan)
    for entry in entries:
        if not entry.seconds:
            table.add_row(entry.name, entry.note)
            continue
        seconds = median(entry.seconds)
        table.add_row(
            entry.name,
            f"{entry.theta:.3f}",
            f"{entry.excess:.1e}",
            f"{seconds / unit:,.0f}",
            f"{seconds / ours:.2f}",
        )
    return table


# --- kernels -------------------------------------------------------------------------------------


def kernels(args, console):
    """Time the parts of a pass in units, the recursion in bandwidth, and the start of a process."""
    rows = {}
    for name in args.data or (QUICK["logistic"] if args.quick else CLASSIFICATION[:3]):
        data = five_folds(name)
        rows[name] = {key: kernel(data, unit_of) for key, kernel in KERNELS.items()}
        table = Table(title=name)
        for heading, justify in (("kernel", "left"), ("figure", "right")):
            table.add_column(heading, justify=justify)
        for key, figure in rows[name].items():
            table.add_row(key, f"{figure:.2f}")
        console.print(table)
    rows["start of a process"] = start_of_a_process(args.repeats)
    console.print(rows["start of a process"])
    return rows


def start_of_a_process(repeats):
    """Return seconds for imports, and for the first and the second fit of a process."""
    rival = "import sklearn.linear_model, sklearn.model_selection"
    imports = {rival: [], OURS: []}
    in_a_process(TWO_FITS)  # all is compiled by then
    for _ in range(repeats):
        for code, seconds in imports.items():
            seconds.append(float(in_a_process(timed(code))))
    fits = [json.loads(in_a_process(TWO_FITS)) for _ in range(repeats)]
    first, second = np.median(fits, axis=0)
    ours, theirs = median(imports[OURS]), median(imports[rival])
    return {
        "import ShineCV / import sklearn": ours / theirs,
        "first fit (s)": float(first),
        "second fit (s)": float(second),
    }


# The package itself imports nothing before it is asked for something.
OURS = "from hoag_shine import ShineCV"


def timed(code):
    return f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"


TWO_FITS = """
import json, time
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import scale
from hoag_shine import ShineCV
X, y = load_breast_cancer(return_X_y=True)
X, seconds = scale(X), []
for _ in range(2):
    begin = time.perf_counter()
    ShineCV(LogisticRegression()).fit(X, y)
    seconds.append(time.perf_counter() - begin)
print(json.dumps(seconds))
"""


def in_a_process(code):
    command = [sys.executable, "-c", code]
    # Packages are installed with their bytecode, ours not always where it is developed.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout


PARTS = {"logistic": logistic, "ridge": ridge, "kernels": kernels}

if __name__ == "__main__":
    main()
