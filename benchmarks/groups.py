"""Many penalties against the best single one: held-out and untouched loss, and what they cost.

    python benchmarks/groups.py
    python benchmarks/groups.py --quick

On 20news (80 % of the rows to train on, 10 % held out, 10 % untouched): one penalty for all
columns, one for each of ten groups of columns by the number of documents that they occur in, and
one for each column, with and without shrinkage. And on random problems whose relevant columns are
known: the penalty of each group of columns, relevant or not. ``--quick`` is the second part alone.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit
from threadpoolctl import threadpool_limits

from hoag_shine import ShineCV
from hoag_shine.datasets import load_dataset

# Edges between the groups, in documents.
EDGES = [1, 2, 4, 8, 16, 64, 256, 1024, 4096]


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
        args.json.write_text(json.dumps(found, indent=1))


def compare(args):
    """Tune with each kind of penalty on one split; return a row for each."""
    X, y = load_dataset(args.data)
    order = np.random.default_rng(args.seed).permutation(len(y))
    train, held_out, untouched = np.split(order, [int(0.8 * len(y)), int(0.9 * len(y))])
    rows = np.concatenate([train, held_out])
    split = PredefinedSplit(np.repeat([-1, 0], [train.size, held_out.size]))
    documents = np.bincount(X[train].indices, minlength=X.shape[1])
    kinds = {
        "one penalty": ("shared", 0.0),
        "ten groups": (np.searchsorted(EDGES, documents), 0.0),
        "one for each column": ("feature", 0.0),
        "one for each column, shrunk": ("feature", args.shrinkage),
    }
    return [
        {"penalty": name, **tune(args, X, y, rows, split, untouched, penalty, shrinkage)}
        for name, (penalty, shrinkage) in kinds.items()
    ]


def tune(args, X, y, rows, split, untouched, penalty, shrinkage):
    """Tune, and judge the coefficients that were fitted on the training rows alone."""
    judged = {}

    def judge(estimator, X_held_out, y_held_out):
        z = estimator.decision_function(X[untouched])
        target = y[untouched] == estimator.classes_[1]
        loss = np.mean(np.logaddexp(0.0, np.where(target, -z, z)))
        judged[len(judged)] = float(loss), float(np.mean((z > 0.0) != target))
        return 0.0

    search = ShineCV(
        LogisticRegression(),
        cv=split,
        penalty=penalty,
        shrinkage=shrinkage,
        hypergradient=args.hypergradient,
        max_iter=args.max_iter,
        scoring=judge,
        refit=False,
    )
    begin = time.perf_counter()
    search.fit(X[rows], y[rows])
    seconds = time.perf_counter() - begin
    loss, error = judged[search.best_index_]
    return {
        "held_out": -search.best_score_,
        "untouched": loss,
        "error": error,
        "outer_iterations": search.n_iter_,
        "passes": float(sum(record["data_passes"] for record in search.history_)),
        "seconds": seconds,
        "outcome": search.outcome_.name,
    }


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
    table = Table(title=f"{args.data}, {args.hypergradient}, seed {args.seed}")
    table.add_column("penalty")
    for heading in ["held out", "untouched", "error", "iterations", "passes", "time", "ended"]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["penalty"],
            f"{row['held_out']:.4f}",
            f"{row['untouched']:.4f}",
            f"{100 * row['error']:.2f} %",
            f"{row['outer_iterations']}",
            f"{row['passes']:.0f} (x {row['passes'] / rows[0]['passes']:.1f})",
            f"x {row['seconds'] / rows[0]['seconds']:.1f}",
            row["outcome"].lower(),
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
