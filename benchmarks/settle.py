"""Measure what each method spends until its penalty is settled where the true criterion is low.

    python benchmarks/settle.py text:20news --split holdout --seeds 0 1 2
    python benchmarks/settle.py sklearn:digits=8 --split holdout --methods all

For each split seed, the converged criterion (held-out loss at tightly solved inner problems) is
scanned for its optimum and for the sets within 1 % and 0.1 % of it. Then each method runs, and its
path is held against these sets. All work on the problems that ShineCV makes of the data, which is
part of their time. Passes and losses do not depend on the machine; for times, the unit is the best
of 20 products X @ v plus X.T @ u by scipy, measured before and after each run.
"""

import argparse
import json
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from benchmark_utils.criterion import KeptCriterion, default_cache
from benchmark_utils.data import SPLITS
from benchmark_utils.measuring import environment, unit_of
from benchmark_utils.methods import EXACT_LIMIT, METHODS
from benchmark_utils.problems import searched
from benchmark_utils.settling import Moment, explore, settled
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from hoag_shine import fold_problems

TOLERANCES = (1e-2, 1e-3)


@dataclass
class Run:
    """What one run of one method found and spent; times in seconds, settled by tolerance."""

    method: str
    seed: int
    theta: float
    converged: float
    excess: float
    capped: bool
    passes: float
    seconds: float
    unit: float
    settled: dict[float, Moment | None]
    trace: list[Moment]


def main():
    args = parse_arguments()
    console = Console(width=None if sys.stdout.isatty() else 120)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    found = {}
    with (
        threadpool_limits(args.threads),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        described = environment(
            data=args.data,
            split=args.split,
            max_seconds=args.max_seconds,
            max_passes=args.max_passes,
            repeats=args.repeats,
        )
        console.print(described)
        for seed in args.seeds:
            task = bar.add_task("")

            def say(text, task=task, seed=seed):
                bar.update(task, description=f"seed {seed}: {text}")

            landscape, runs = found[seed] = measure(args, seed, say)
            bar.remove_task(task)
            console.print(describe_landscape(seed, landscape), soft_wrap=True)
            console.print(table(seed, runs))
            if args.json:
                args.json.write_text(json.dumps(as_json(described, found), indent=1))
        if len(args.seeds) > 1:
            console.print(summary([each for _, runs in found.values() for each in runs]))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="name of a classification set, as load_dataset takes it")
    parser.add_argument("--split", choices=SPLITS, default="folds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the splits")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=[*METHODS, "all"],
        default=["auto", "cg", "hoag-published", "brent"],
    )
    parser.add_argument("--repeats", type=int, default=1, help="runs a method, for median times")
    parser.add_argument("--max-seconds", type=float, default=600.0, help="cap of one run")
    parser.add_argument("--max-passes", type=float, default=np.inf, help="cap of one run")
    parser.add_argument("--threads", type=int, default=1, help="of BLAS and OpenMP")
    parser.add_argument("--scan-cache", type=Path, default=default_cache(), metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def measure(args, seed, say):
    """Scan one split and run every method on it, in turn."""
    say("loading")
    data = SPLITS[args.split](args.data, seed)
    X, splits = data["X"], data["cv"]
    problems = fold_problems(LogisticRegression(), X, data["y"], cv=splits)
    scan = KeptCriterion(problems, data, args.scan_cache, say)
    landscape = explore(scan, TOLERANCES)
    trained_on = np.unique(np.concatenate([train for train, _ in splits]))
    X_train = X if trained_on.size == X.shape[0] else X[trained_on]
    runs = [
        run(method, seed, data, X_train, scan, args, say)
        for _ in range(args.repeats)
        for method in chosen(args.methods, X.shape[1])
    ]
    for each in runs:
        each.excess = each.converged / landscape.value - 1.0
        each.settled = {tol: settled(each.trace, landscape.sets[tol]) for tol in TOLERANCES}
    return landscape, runs


def chosen(methods, n_features):
    if "all" not in methods:
        return methods
    return [name for name in METHODS if name != "exact" or n_features <= EXACT_LIMIT]


def run(method, seed, data, X_train, criterion, args, say):
    """Run one method and judge what it returns."""
    say(method)
    unit = unit_of(X_train)
    trace = []
    start = time.perf_counter()
    problems = searched(data)
    spent, capped = (0.0, 0.0), False

    def watch(theta, ws):
        nonlocal spent, capped
        trace.append(Moment(theta, *spent))
        spent = problems.n_passes, time.perf_counter() - start
        say(f"{method}, log alpha = {theta:.3f}, {spent[0]:.0f} passes")
        capped = spent[0] > args.max_passes or spent[1] > args.max_seconds
        return capped

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # how far it came is in the table
        theta = METHODS[method](problems, watch)
    seconds = time.perf_counter() - start
    trace.append(Moment(theta, *spent))
    return Run(
        method=method,
        seed=seed,
        theta=theta,
        converged=criterion(theta),
        excess=float("nan"),
        capped=capped,
        passes=problems.n_passes,
        seconds=seconds,
        unit=min(unit, unit_of(X_train)),
        settled={},
        trace=trace,
    )


def describe_landscape(seed, landscape):
    sets = ", ".join(
        f"{tol:g}: [{low:.3f}, {high:.3f}]" for tol, (low, high) in landscape.sets.items()
    )
    return (
        f"\nSeed {seed}: converged optimum {landscape.value:.6f} at log alpha = "
        f"{landscape.theta:.3f} (C = {np.exp(-landscape.theta):.4g}); sets {sets}"
    )


def table(seed, runs):
    """Return a row a method, with medians of the times over its repeats."""
    unit = median(each.unit for each in runs)
    shown = Table(
        title=f"Seed {seed}: passes (units) until settled within a tolerance, and in total",
        caption="total: with the accurate solves at the end; +: capped; "
        f"1 unit = {1e3 * unit:.3g} ms",
    )
    shown.add_column("method")
    settled_in = [f"{tol:g}" for tol in TOLERANCES]
    for heading in [
        "log alpha",
        "excess",
        *settled_in,
        "search",
        "total",
        "outer it.",
    ]:
        shown.add_column(heading, justify="right")
    for method in dict.fromkeys(each.method for each in runs):
        same = [each for each in runs if each.method == method]
        first = same[0]
        units = median(each.seconds / each.unit for each in same)
        shown.add_row(
            method,
            f"{first.theta:.4f}",
            f"{first.excess:.1e}",
            *(settled_cell(same, tol) for tol in TOLERANCES),
            f"{first.trace[-1].passes:,.0f}",
            f"{first.passes:,.0f} ({units:,.0f})",
            f"{len(first.trace) - 1}" + ("+" if first.capped else ""),
        )
    return shown


def settled_cell(same, tol):
    if same[0].settled[tol] is None:
        return "never"
    units = median(each.settled[tol].seconds / each.unit for each in same)
    return f"{same[0].settled[tol].passes:,.0f} ({units:,.0f})"


def summary(runs):
    """Return a row a method, with medians over all of its runs."""
    shown = Table(
        title="All seeds: median passes (units) until settled within a tolerance",
        caption=f"excess: of the converged loss at the end, median; inside: runs that end in the "
        f"{TOLERANCES[-1]:g} set",
    )
    shown.add_column("method")
    for heading in [*(f"{tol:g}" for tol in TOLERANCES), "search", "inside", "excess"]:
        shown.add_column(heading, justify="right")
    for method in dict.fromkeys(each.method for each in runs):
        same = [each for each in runs if each.method == method]
        inside = [each.settled[TOLERANCES[-1]] is not None for each in same]
        shown.add_row(
            method,
            *(typical(same, [each.settled[tol] for each in same]) for tol in TOLERANCES),
            typical(same, [each.trace[-1] for each in same]),
            f"{sum(inside)} of {len(same)}",
            f"{median(each.excess for each in same):.1e}",
        )
    return shown


def typical(runs, moments):
    """Return the median passes and units of a moment of each run; never is later than any."""
    spent = [
        (np.inf, np.inf) if moment is None else (moment.passes, moment.seconds / each.unit)
        for each, moment in zip(runs, moments, strict=True)
    ]
    passes, units = np.median(spent, axis=0)
    return "never" if np.isinf(passes) else f"{passes:,.0f} ({units:,.0f})"


def as_json(described, found):
    return {
        "environment": described,
        "seeds": {
            seed: {"landscape": asdict(landscape), "runs": [asdict(each) for each in runs]}
            for seed, (landscape, runs) in found.items()
        },
    }


if __name__ == "__main__":
    main()
