"""Held-out loss against time: how good the penalty is that each search would return by then.

    python benchmarks/curves.py
    python benchmarks/curves.py --quick

Five folds each, one thread. At each moment, a search would return the best penalty that it has
seen; that is judged by the *converged* criterion, above its minimum. Time is in units of X @ v plus
X.T @ u, the best of 20 in the same run; searches of scikit-learn that say nothing before they end
are points. ``--quick`` takes a small set that comes with scikit-learn.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
from benchmark_utils.criterion import kept_criterion
from benchmark_utils.data import five_folds
from benchmark_utils.measuring import unit_of
from benchmark_utils.methods import METHODS
from benchmark_utils.rivals import CS, SCORING, logistic_regression_cv
from benchmark_utils.settling import explore
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from threadpoolctl import threadpool_limits

from hoag_shine import ShineCV, fold_problems

DATA = ["text:20news", "text:imdb", "libsvm:a9a"]
# Below this excess, curves are not told apart.
FLOOR = 1e-5


class Watch:
    """Moments of a search: seconds since it began, and the log alpha that it would return."""

    def __init__(self):
        self.begin = time.perf_counter()
        self.lowest = np.inf
        self.moments = []

    def note(self, theta, value=-np.inf):
        """Note a penalty if the search has seen none of a lower value."""
        if value <= self.lowest:
            self.lowest = value
            self.moments.append((time.perf_counter() - self.begin, float(theta)))


def shine_cv(X, y, cv, watch):
    def follow(record):
        watch.note(record["theta"][0], record["criterion"] + record["error"])

    found = ShineCV(LogisticRegression(), cv=cv, callback=follow).fit(X, y)
    watch.note(-np.log(found.best_params_["C"]))


def brent(X, y, cv, watch):
    problems = fold_problems(LogisticRegression(), X, y, cv=cv)

    def follow(theta, ws):
        values = [p.outer_value_and_grad(w)[0] for p, w in zip(problems, ws, strict=True)]
        watch.note(theta, np.mean(values))

    watch.note(METHODS["brent"](problems, follow))


def score(X, y, cv, C, watch):
    """Score C as GridSearchCV does."""
    model = LogisticRegression(C=C, max_iter=1000)
    value = -cross_val_score(model, X, y, cv=cv, scoring=SCORING).mean()
    watch.note(-np.log(C), value)
    return value


def grid_search(X, y, cv, watch):
    for C in CS:
        score(X, y, cv, C, watch)


def optuna_tpe(X, y, cv, watch):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial):
        return score(X, y, cv, trial.suggest_float("C", CS[0], CS[-1], log=True), watch)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=len(CS))


def at_the_end(solver):
    def search(X, y, cv, watch):
        watch.note(-np.log(logistic_regression_cv(solver)(X, y, cv)))

    return search


SEARCHES = {
    "ShineCV": shine_cv,
    "Brent, warm starts": brent,
    "GridSearchCV": grid_search,
    "Optuna, TPE": optuna_tpe,
    "LogisticRegressionCV, lbfgs": at_the_end("lbfgs"),
    "LogisticRegressionCV, liblinear": at_the_end("liblinear"),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+")
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--quick", action="store_true", help="a small set")
    parser.add_argument("--out", type=Path, default=Path("curves"), metavar="FOLDER")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # searches that do not converge are judged by their result
        for name in args.data or (["sklearn:breast_cancer"] if args.quick else DATA):
            curves = measure(name, args.searches)
            file = args.out / name.replace(":", "_")
            file.with_suffix(".json").write_text(json.dumps(curves, indent=1))
            draw(name, curves).savefig(file.with_suffix(".png"), dpi=150, metadata={})
            print(f"{name}: {file.with_suffix('.png')}")


def measure(name, searches):
    """Return for each search its moments as (units, excess)."""
    data = five_folds(name)
    X, y, cv = data["X"], data["y"], data["cv"]
    criterion = kept_criterion(LogisticRegression(), data)
    optimum = explore(criterion, (1e-3,)).value
    ShineCV(LogisticRegression(), cv=cv, max_time=1e-9).fit(X, y)  # compiled code is loaded
    watches, unit = {}, np.inf
    for search in searches:
        unit = min(unit, unit_of(X))
        watches[search] = Watch()
        SEARCHES[search](X, y, cv, watches[search])
    return {
        search: [(t / unit, criterion(theta) / optimum - 1.0) for t, theta in watch.moments]
        for search, watch in watches.items()
    }


def draw(name, curves):
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(7.5, 3.6), layout="constrained")
        ax = figure.subplots()
        for search, moments in curves.items():
            units, excess = np.array(moments).T
            excess = np.maximum(excess, FLOOR)
            ax.step(units, excess, where="post", marker="o", markersize=3, label=search)
        ax.axhline(1e-3, color="0.7", linewidth=0.8, zorder=0)
        ax.set(xscale="log", yscale="log", title=name)
        ax.set(xlabel="units of X @ v and X.T @ u", ylabel="excess of the held-out loss")
        figure.legend(loc="outside right upper", fontsize=7)
    return figure


if __name__ == "__main__":
    sys.exit(main())
