"""ShineCV against the fastest of scikit-learn's searches, on every set of the zoo.

    python benchmarks/zoo.py
    python benchmarks/zoo.py --only breast_cancer a9a --repeats 3
    python benchmarks/zoo.py --jobs 1 -1 --json docs/figures/zoo.json
    python benchmarks/zoo.py --page docs/figures/zoo.json
    python benchmarks/zoo.py --quick
    python benchmarks/zoo.py --only digits --rivals "LogisticRegressionCV, lbfgs, 20"

Five folds. The *lead* is the time of a rival over that of ShineCV, final fits included. A rival is
*honest* on a set where it ends within 0.1 % of the optimum of the converged criterion: the held-out
loss of folds that are solved as good as exactly. Near a loss of zero, 0.1 % of 0.001 of the loss
of a constant counts instead.

All searches run in a process of their own, whose first, quick runs are not counted: they load
modules and compiled code. First every rival runs once. It is stopped when it has taken longer than
twice the fastest honest one, 60 times ShineCV, or ``--patience``. Then ShineCV and those that were
fastest run in turn, and a lead is the median ratio. Rivals that are named run in turn all of them,
and are stopped after ``--patience`` only. Times are in units, the best of 20 products
X @ v plus X.T @ u by scipy or numpy, and in fits of scikit-learn at the best penalty.

``--page`` writes the table and the figure of the documentation from a file of ``--json``. A file
that is there is added to: sets that are measured again replace their old results.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
from benchmark_utils.child import Child, TooSlow
from benchmark_utils.criterion import kept_criterion
from benchmark_utils.measuring import environment
from benchmark_utils.rivals import absent
from benchmark_utils.settling import explore
from benchmark_utils.zoo_contest import (
    Entry,
    allowed,
    fastest,
    summary,
    surely_slower,
)
from benchmark_utils.zoo_page import as_table, cores_of, write_page
from benchmark_utils.zoo_runs import FIT, OURS, data_of, searches_of, timed, unit_seconds
from benchmark_utils.zoo_sets import BY_NAME
from joblib import effective_n_jobs
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

# The sets of --quick, and the rivals that it leaves out: those that are slow on all of them.
QUICK = ["breast_cancer", "iris", "diabetes"]
SLOW_ON_SMALL = ("sag, ", "saga, ", "GridSearchCV", ", 100")
# Below this share of the loss of a constant, the criterion counts as zero.
ZERO = 1e-3


def main():
    args = parse_arguments()
    if args.page:
        write_page(json.loads(args.page.read_text()), args.page.parent)
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    kept = args.json and args.json.exists()
    records = json.loads(args.json.read_text()) if kept else []
    found = []
    with Child() as child:
        for name in args.only or (QUICK if args.quick else BY_NAME):
            for jobs in map(effective_n_jobs, args.jobs):
                try:
                    with threadpool_limits(jobs):
                        record = measure(args, child, BY_NAME[name], jobs)
                except (OSError, RuntimeError, TooSlow) as error:
                    console.print(f"{name} is left out: {error}")
                    continue
                console.print(competition_table(record))
                sys.stdout.flush()  # hours pass before the last set
                found.append(record)
                records = [*(each for each in records if place(each) != place(record)), record]
                if args.json:
                    args.json.write_text(json.dumps(records, indent=1))
    console.print(as_table(found))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=BY_NAME, metavar="SET", help="these sets")
    parser.add_argument("--quick", action="store_true", help="three small sets, fewer rivals")
    parser.add_argument("--rivals", nargs="+", metavar="NAME", help="these rivals")
    parser.add_argument("--repeats", type=int, default=5, help="runs in turn, at most")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1], help="cores, -1 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument(
        "--limit", type=float, default=600.0, metavar="SECONDS", help="of the repeats of a set"
    )
    parser.add_argument(
        "--patience", type=float, default=600.0, metavar="SECONDS", help="of a single run"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results are kept")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page of these results")
    return parser.parse_args()


def place(record):
    return record["set"], record["jobs"]


# --- a set ---------------------------------------------------------------------------------------


def measure(args, child, each, jobs):
    """Return all that is found out about a set."""
    setting = each.name, args.seed, jobs

    def run(search, seconds, C=None):
        child.run(data_of, *setting[:2], seconds=args.patience)  # loading is not timed
        return child.run(timed, *setting, search, C, seconds=seconds)

    ours = first(run, Entry(OURS), args.patience)
    if ours.seconds is None:
        raise RuntimeError(ours.note or f"ShineCV takes more than {args.patience:g} s")
    judge = Judge(each, args.seed, ours.theta)
    judge(ours)
    entries = [Entry(name) for name in rivals_of(args, each)]
    for entry in entries:
        entry.note = absent(entry.name, judge.shape[1], judge.n_classes) or ""
        if entry.note:
            continue
        seconds = args.patience if args.rivals else allowed(ours, entries, args.patience)
        if surely_slower(entry, entries, seconds):
            entry.stopped, entry.note = seconds, "not run: 20 values take as long"
        else:
            judge(first(run, entry, seconds))
    fit = Entry(FIT)
    ended = [entry for entry in entries if entry.seconds is not None]
    chosen = ended if args.rivals else fastest(entries)
    repeat(run, args, ours, [*chosen, fit], np.exp(-judge.optimum["theta"]))
    optimum = judge.settle([ours, *entries])
    unit = child.run(unit_seconds, *setting[:2], seconds=args.patience)
    return {
        "set": each.name,
        "kind": each.kind,
        "shape": judge.shape,
        "classes": judge.n_classes,
        "jobs": jobs,
        "folds": f"{each.splitter(args.seed)}",
        "environment": environment(patience=args.patience, limit=args.limit),
        "unit": unit,
        "optimum": optimum,
        "summary": summary(ours, entries, fit, unit),
        "ours": asdict(ours),
        "fit": asdict(fit),
        "rivals": [asdict(entry) for entry in entries],
    }


def rivals_of(args, each):
    """Return the names of the rivals that are to run on a set."""
    skipped = SLOW_ON_SMALL if args.quick else ()
    names = [name for name in searches_of(each) if not any(part in name for part in skipped)]
    return [name for name in names if name in (args.rivals or names)]


def first(run, entry, seconds):
    """Have a search run for the first time."""
    try:
        done = run(entry.name, seconds)
    except TooSlow:
        entry.stopped = seconds
    except RuntimeError as error:
        entry.note = str(error)
    else:
        entry.seconds, entry.theta, entry.memory = done
    return entry


def repeat(run, args, ours, entries, C):
    """Run ShineCV and each of the entries in turn, as often as the limit allows."""
    cost = sum(ours.seconds + (entry.seconds or ours.seconds) for entry in entries)
    for _ in range(int(np.clip(args.limit / cost, 1, args.repeats))):
        for entry in entries:
            try:
                before = run(OURS, args.patience)
                after = run(entry.name, args.patience, C)
            except (TooSlow, RuntimeError) as error:
                entry.note = f"a repeat failed: {error!r}"
                continue
            entry.pairs.append((before[0], after[0]))
            entry.memory = max(entry.memory or 0.0, after[2])
            ours.memory = max(ours.memory, before[2])


class Judge:
    """Says how far the penalty of a search is from the best one."""

    def __init__(self, each, seed, start):
        data = each.data(seed)
        y = data["y"]
        self.shape = data["X"].shape
        self.n_classes = 0 if each.kind == "ridge" else np.unique(y).size
        self.null = constant_loss(y, self.n_classes)
        self.criterion = kept_criterion(each.estimator, data)
        landscape = explore(self.criterion, (), float(round(start)))
        self.optimum = {"theta": landscape.theta, "value": landscape.value, "null": self.null}

    def __call__(self, entry):
        if entry.theta is not None:
            try:
                value = self.criterion(entry.theta)
            except RuntimeError as error:  # the folds could not be solved there
                entry.note = str(error)
            else:
                best = self.optimum["value"]
                entry.excess = (value - best) / max(best, ZERO * self.null)

    def settle(self, entries):
        """Judge all again if one of them found a better penalty than the scan did."""
        theta = min(self.criterion.values, key=self.criterion.values.get)
        self.optimum |= {"theta": theta, "value": self.criterion.values[theta]}
        for entry in entries:
            self(entry)
        return self.optimum


def constant_loss(y, n_classes):
    """Return the loss of the best constant."""
    if not n_classes:
        return float(np.var(y))
    share = np.unique(y, return_counts=True)[1] / y.size
    return float(-share @ np.log(share))


# --- what is shown -------------------------------------------------------------------------------


def competition_table(record):
    """Return a row a search."""
    rows, columns = record["shape"]
    table = Table(
        title=f"{record['set']}, {rows:,} x {columns:,}, {cores_of(record['jobs'])}: optimum "
        f"{record['optimum']['value']:.6g} at log alpha = {record['optimum']['theta']:.3f}",
        caption=f"1 unit = {1e3 * record['unit']:.3g} ms; in parentheses: of a single run",
    )
    table.add_column("search")
    for heading in ("log alpha", "loss", "excess", "ms", "times ShineCV", "MiB"):
        table.add_column(heading, justify="right")
    for entry in [record["ours"], *record["rivals"], record["fit"]]:
        table.add_row(entry["name"], *cells(entry, record["ours"], record["optimum"]["value"]))
    return table


def cells(entry, ours, optimum):
    if entry["stopped"]:
        return "", "", "", f"> {1e3 * entry['stopped']:,.0f}", entry["note"], ""
    if entry["seconds"] is None and not entry["pairs"]:
        return "", "", "", "", entry["note"], ""
    if entry["pairs"]:
        seconds = median(theirs for _, theirs in entry["pairs"])
        times = f"{median(theirs / own for own, theirs in entry['pairs']):.2f}"
    else:
        seconds = entry["seconds"]
        times = f"({seconds / ours['seconds']:.2f})"
    theta, excess = entry["theta"], entry["excess"]
    return (
        "" if theta is None else f"{theta:.3f}",
        "" if excess is None else f"{optimum * (1.0 + excess):.5g}",
        "" if excess is None else f"{excess:.1e}",
        f"{1e3 * seconds:,.1f}",
        times,
        f"{entry['memory']:.0f}",
    )


if __name__ == "__main__":
    main()
