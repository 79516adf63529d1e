"""What more cores gain: searches with n_jobs threads, against what the machine itself gives.

    python benchmarks/cores.py
    python benchmarks/cores.py --only 20news 100000x100 --jobs 1 2 4 8 --repeats 7
    python benchmarks/cores.py --quick
    python benchmarks/cores.py --json docs/figures/cores.json
    python benchmarks/cores.py --page docs/figures/cores.json

Sets of the zoo, five folds, ``ShineCV(LogisticRegression(), n_jobs=n).fit``, refit included, with
one thread of BLAS in each thread of ours. Searches with different n run in turn, after one that is
not counted, and *gain* is the median of the ratios to one thread. *Machine* is how many times the
passes of one process are made in the same time by n processes side by side, at most n, in turns
with one alone: some machines' second core adds little. *Share* is gain over machine. *Predicted* is
1 / (1 - p + p / n) for p, the share of the time of one thread in passes and in what else threads
divide (Amdahl's law); it leaves out what threads cost, and that five folds do not divide evenly.

The searches must agree to the last bit; otherwise it says so and exits with 1.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
from benchmark_utils.measuring import environment
from benchmark_utils.zoo_page import list_table
from benchmark_utils.zoo_sets import BY_NAME
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from hoag_shine import ShineCV, fold_problems
from hoag_shine.problems.passes import Passes
from hoag_shine.utils.interrupts import Threads

SETS = ["20news", "imdb", "mnist-10000", "100000x20", "100000x100", "20000x512x200"]
QUICK = ["a9a", "10000x100"]
HEADINGS = ("set", "n_jobs", "seconds", "gain", "machine", "share", "predicted", "same bits")
FIELDS = [heading.replace(" ", "_") for heading in HEADINGS]
# Seconds in which processes side by side make as many passes as they can, and how often.
TURN_SECONDS, TURNS = 1.0, 7


def main():
    args = parse_arguments()
    warnings.simplefilter("ignore")
    console = Console(width=None if sys.stdout.isatty() else 120)
    if args.page:
        write_page(json.loads(args.page.read_text()), args.page.parent)
        return
    kept = args.json and args.json.exists()
    records = json.loads(args.json.read_text()) if kept else []
    found = []
    for name in args.only or (QUICK if args.quick else SETS):
        try:
            data = BY_NAME[name].data(0)
        except OSError as error:
            console.print(f"{name} is left out: {error}")
            continue
        own = measure(name, data, args.jobs, args.repeats)
        found += own
        records = [*(each for each in records if each["set"] != name), *own]
        if args.json:
            args.json.write_text(json.dumps(records, indent=1))
    table = Table(*HEADINGS)
    for record in found:
        table.add_row(*row(record))
    console.print(table)
    console.print(environment(folds=5))
    if not all(record["same_bits"] for record in found):
        sys.exit("searches with different n_jobs differ")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = sorted({1, 2, 4, 8, 16, os.cpu_count()})
    parser.add_argument("--only", nargs="+", choices=list(BY_NAME), metavar="SET")
    parser.add_argument(
        "--jobs", nargs="+", type=int, default=[n for n in cores if n <= os.cpu_count()]
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--json", type=Path, help="where results are kept")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page of these results")
    args = parser.parse_args()
    args.jobs = sorted({1, *args.jobs})
    return args


def measure(name, data, jobs, repeats):
    """Return a record for each number of threads."""
    searches, seconds = {}, {n: [] for n in jobs}
    with threadpool_limits(1):
        fit(data, 1)  # loads compiled code
        for _ in range(repeats):
            for n in jobs:
                begin = time.perf_counter()
                searches[n] = fit(data, n)
                seconds[n].append(time.perf_counter() - begin)
        shared = shared_share(data)
    records = []
    for n in jobs:
        gain = median(one / own for one, own in zip(seconds[1], seconds[n], strict=True))
        machine = gain_of_processes(name, n)
        records.append(
            {
                "set": name,
                "n_jobs": n,
                "seconds": median(seconds[n]),
                "gain": gain,
                "machine": machine,
                "share": gain / machine,
                "shared": shared,
                "predicted": predicted(shared, n),
                "same_bits": same_bits(searches[1], searches[n]),
                "environment": environment(folds=5),
            }
        )
    return records


def predicted(share, n):
    """Return the gain of n threads by Amdahl's law, for the share that they can divide."""
    return 1.0 / (1.0 - share + share / n)


def fit(data, n_jobs):
    search = ShineCV(LogisticRegression(), cv=data["cv"], n_jobs=n_jobs)
    return search.fit(data["X"], data["y"])


def same_bits(one, other):
    return bool(
        one.best_score_ == other.best_score_
        and np.array_equal(one.best_estimator_.coef_, other.best_estimator_.coef_)
    )


def shared_share(data):
    """Return the share of the time of a search on one thread in what several would divide."""
    spent, depth = 0.0, 0  # depth: how many of these methods are running, one within the other
    methods = [(Passes, name) for name in ("add_up", "each", "each_vector", "grams", "run")]
    methods = {place: getattr(*place) for place in [*methods, (Threads, "map")]}

    def timed(method):
        def call(self, *args, **options):
            nonlocal spent, depth
            if isinstance(self, Passes) and self.most_threads == 1:
                return method(self, *args, **options)
            begin, depth = time.perf_counter(), depth + 1
            try:
                return method(self, *args, **options)
            finally:
                depth -= 1
                spent += 0.0 if depth else time.perf_counter() - begin

        return call

    for (kind, name), method in methods.items():
        setattr(kind, name, timed(method))
    try:
        begin = time.perf_counter()
        fit(data, 1)
        return spent / (time.perf_counter() - begin)
    finally:
        for (kind, name), method in methods.items():
            setattr(kind, name, method)


def gain_of_processes(name, n):
    """Return how many passes n processes make side by side, in units of what one makes.

    One alone and all of them take turns, since the speed of a machine may change.
    """
    if n == 1:
        return 1.0
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(n)]
    for _, theirs in pipes:
        context.Process(target=count_passes, args=(name, theirs), daemon=True).start()
    ours = [pipe for pipe, _ in pipes]
    passes_of(ours, 0.0)  # they are ready
    gains = [
        passes_of(ours, TURN_SECONDS) / passes_of(ours[:1], TURN_SECONDS) for _ in range(TURNS)
    ]
    for pipe in ours:
        pipe.send(None)
    return min(float(n), median(gains))


def passes_of(pipes, seconds):
    """Return how many passes some processes make in some seconds, together."""
    for pipe in pipes:
        pipe.send(seconds)
    return sum(pipe.recv() for pipe in pipes)


def count_passes(name, pipe):
    with threadpool_limits(1):
        data = BY_NAME[name].data(0)
        problems = fold_problems(LogisticRegression(), data["X"], data["y"], cv=data["cv"])
        rng = np.random.default_rng(0)

        def once():
            ws = 1e-3 * rng.normal(size=(len(problems), problems[0].n_params))
            problems.outer_values_and_grads(list(ws))
            problems.data_diagonals(list(ws))

        once()
        while (seconds := pipe.recv()) is not None:
            begin, n_passes = time.perf_counter(), 0
            while time.perf_counter() < begin + seconds:
                once()
                n_passes += 1
            pipe.send(n_passes / (time.perf_counter() - begin))


def row(record):
    return [shown(record[name]) for name in FIELDS]


def shown(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_page(records, folder):
    """Write ``cores.inc`` and ``cores.png`` for the documentation."""
    environments = [record["environment"] for record in records]
    machines = dict.fromkeys(f"{each['processor']}, {each['cores']} cores" for each in environments)
    table = list_table([HEADINGS, *map(row, records)])
    parts = [
        ".. Written by benchmarks/cores.py --page.",
        f"Measured on {'; '.join(machines)}.",
        table,
    ]
    (folder / "cores.inc").write_text("\n\n".join(parts) + "\n")
    draw(records).savefig(folder / "cores.png", dpi=150, metadata={})


def draw(records):
    """Draw what is predicted for up to 16 threads as lines, and what was measured as points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    ax = figure.subplots()
    threads = np.arange(1, 17)
    for place, name in enumerate(dict.fromkeys(record["set"] for record in records)):
        own, colour = [record for record in records if record["set"] == name], f"C{place}"
        ax.plot(threads, predicted(own[0]["shared"], threads), color=colour, label=name)
        measured = [(record["n_jobs"], record["gain"]) for record in own]
        ax.plot(*zip(*measured, strict=True), "o", color=colour)
    ax.set(xscale="log", yscale="log", xlabel="threads", ylabel="gain over one thread")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    ax.set_xticks([1, 2, 4, 8, 16])
    ax.set_yticks([1, 2, 4, 8])
    ax.legend()
    return figure


if __name__ == "__main__":
    main()
