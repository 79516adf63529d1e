"""Many penalties against the best single one: held-out and untouched loss, and what they cost.

    python benchmarks/groups.py
    python benchmarks/groups.py --quick

On 20news (80 % of the rows to train on, 10 % held out, 10 % untouched): one penalty for all
columns, one for each of ten and of twenty groups of columns by the number of documents that they
occur in, and one for each column, with and without shrinkage. And on random problems whose relevant
columns are known: the penalty of each group of columns, relevant or not. ``--quick`` is the second
part alone.
"""

import argparse
import json
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit
from threadpoolctl import threadpool_limits

from hoag_shine import ShineCV, fold_problems, hoag
from hoag_shine.datasets import load_dataset

# Edges between the groups, in documents.
TEN = [1, 2, 4, 8, 16, 64, 256, 1024, 4096]
TWENTY = [1, 2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 45, 64, 128, 256, 512, 1024, 2048, 4096]
FACTOR = 3.0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="text:20news")
    parser.add_argument("--hypergradient", default="auto")
    parser.add_argument("--shrinkage", type=float, default=5e-4, help="of a penalty per column")
    parser.add_argument("--max-iter", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the split and of random problems")
    parser.add_argument("--quick", action="store_true", help="random problems only")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    console, found = Console(), {}
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # how they ended is in the table
        if not args.quick:
            found["data"] = compare(args)
            console.print(comparison_table(args, found["data"]))
        found["recovery"] = recover(args)
    console.print(recovery_table(found["recovery"]))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1, default=float))


def compare(args):
    """Tune with each kind of penalty on one split; return a row for each."""
    X, y = load_dataset(args.data)
    order = np.random.default_rng(args.seed).permutation(len(y))
    train, held_out, untouched = np.split(order, [int(0.8 * len(y)), int(0.9 * len(y))])
    rows = np.concatenate([train, held_out])
    split = PredefinedSplit(np.repeat([-1, 0], [train.size, held_out.size]))
    documents = np.bincount(X[train].indices, minlength=X.shape[1])
    kinds = {
        "one": ("shared", 0.0),
        "ten groups": (np.searchsorted(TEN, documents), 0.0),
        "twenty groups": (np.searchsorted(TWENTY, documents), 0.0),
        "columns": ("feature", 0.0),
        "columns, shrunk": ("feature", args.shrinkage),
    }
    found = {}
    for name, (penalty, shrinkage) in kinds.items():
        problems = fold_problems(LogisticRegression(), X[rows], y[rows], cv=split, penalty=penalty)
        found[name] = tune(args, problems, shrinkage, partial(judge, X[untouched], y[untouched]))
    limit = FACTOR * found["one"][-1]["seconds"]
    return [{"penalty": name, **summary(trace, limit)} for name, trace in found.items()]


def tune(args, problems, shrinkage, judged):
    """Return the best so far after every sample: its losses, and what had been spent."""
    trace = []

    def watch(record, solutions):
        spent = {"seconds": time.process_time() - begin, "passes": problems.n_passes}
        held_out = record["criterion"]
        trace.append({"held_out": held_out, **judged(solutions[0].w), **spent})
        trace[-1]["iterations"] = record["iteration"] + 1

    begin = time.process_time()
    result = hoag(
        problems,
        hypergradient=args.hypergradient,
        shrinkage=shrinkage,
        tol=1e-2,
        max_iter=args.max_iter,
        callback=watch,
    )
    watch(result.history[result.best_index], result.solutions)
    return [*trace[:-1], {**trace[-1], "iterations": len(result.history)}]


def judge(X, y, w):
    """Return the loss and the share of errors of coefficients and intercept."""
    z = X @ w[:-1] + w[-1]
    margin = np.where(y == y.max(), z, -z)
    return {"untouched": np.logaddexp(0.0, -margin).mean(), "error": np.mean(margin <= 0.0)}


def summary(trace, limit):
    """Return the end of a search, and where it stood after a time."""
    in_time = [each for each in trace if each["seconds"] <= limit]
    early = min(in_time, key=lambda each: each["held_out"])
    return {**trace[-1], "early": early}


def recover(args, *, n_problems=10, n=400, n_groups=8, width=10):
    """Tune a penalty a group where half of the groups are noise; return the penalties."""
    found = []
    for seed in range(args.seed, args.seed + n_problems):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(n, n_groups * width))
        relevant = rng.permutation(n_groups) < n_groups // 2
        coef = rng.normal(size=X.shape[1]) * np.repeat(relevant, width)
        y = X @ coef + 0.5 * rng.logistic(size=n) > 0
        labels = np.repeat(np.arange(n_groups), width)
        model = LogisticRegression()
        search = ShineCV(
            model, penalty=labels, hypergradient=args.hypergradient, random_state=seed
        ).fit(X, y)
        alpha = 1.0 / search.best_params_["C"]
        found.append({"relevant": relevant.tolist(), "alpha": alpha.tolist()})
    return found


def comparison_table(args, rows):
    table = Table(
        title=f"{args.data}, {args.hypergradient}, seed {args.seed}: at the end, and after "
        f"{FACTOR:g} times the processor time of one penalty"
    )
    table.add_column("penalties")
    headings = ["held out", "untouched", "error", "iterations", "passes", "time"]
    for heading in [*headings, "held out then", "untouched then", "error then"]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["penalty"],
            f"{row['held_out']:.4f}",
            f"{row['untouched']:.4f}",
            f"{100 * row['error']:.2f} %",
            f"{row['iterations']}",
            f"{row['passes']:.0f}",
            f"x {row['seconds'] / rows[0]['seconds']:.1f}",
            f"{row['early']['held_out']:.4f}",
            f"{row['early']['untouched']:.4f}",
            f"{100 * row['early']['error']:.2f} %",
        )
    return table


def recovery_table(found):
    table = Table(title="Groups of known relevance: alpha, median over groups")
    for heading in ["problem", "relevant", "noise", "told apart"]:
        table.add_column(heading, justify="right")
    for i, each in enumerate(found):
        alpha, relevant = np.array(each["alpha"]), np.array(each["relevant"])
        apart = "yes" if alpha[relevant].max() < alpha[~relevant].min() else "no"
        medians = (f"{np.median(alpha[mask]):.3g}" for mask in (relevant, ~relevant))
        table.add_row(str(i), *medians, apart)
    return table


if __name__ == "__main__":
    main()
