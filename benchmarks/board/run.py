"""hoag_shine against the methods of benchopt's benchmark_bilevel, on its ijcnn1 problem.

    python benchmarks/board/run.py --board PATH
    python benchmarks/board/run.py --board PATH --quick
    python benchmarks/board/run.py --board PATH --methods SABA SRBA --seconds 60 --json FILE
    python benchmarks/board/run.py --page docs/figures/board.json

PATH is a checkout of https://github.com/benchopt/benchmark_bilevel. The environment needs what its
methods import, beside this library: pip install ".[benchmarks]" jax jaxopt

The board's code is copied to a temporary folder, our solver and our split of the data are put
beside it, and ``benchopt run`` runs everything in one process, on one core. The board's methods
have the settings of its files ``config/ijcnn1*_best_params.yml``, the newer file first; those that
it has tuned on other problems only have the defaults of their classes. Hyperparameters are recorded
in the runs and judged afterwards, all in the same way: inner problems are solved by Newton's method
in double precision.

``--page`` writes the table and the figure of the documentation from a file of ``--json``. A file
that is there is added to: methods that run again replace their old curves.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmark_utils.measuring import environment
from benchmark_utils.zoo_page import list_table
from judge import Judge
from threadpoolctl import threadpool_limits

HERE = Path(__file__).parent
OURS = "hoag_shine"
# The newer file of settings, and the older one.
FILES = ("ijcnn1_021424_best_params.yml", "ijcnn1_best_params.yml")
OLDER = "{}, older settings"
# Iterations between two points of a curve, for methods that do not count each.
EVERY = 512
# Methods that the board has tuned on other problems only.
UNTUNED = {
    "BOME": ("BOME", {}),
    "F2SA": ("F2SA", {"eval_freq": EVERY}),
    "jaxopt_GD, gd": ("jaxopt_GD", {"inner_solver": "gd"}),
    "jaxopt_GD, lbfgs": ("jaxopt_GD", {"inner_solver": "lbfgs"}),
}
# Parameters of the files that the solvers no longer have, or that are not part of a method.
DROPPED = ("framework", "init_memory", "eval_freq")
# Points of a curve that are judged.
POINTS = 50
# Squared norms, and a share above the lowest value, that a method may reach.
NORMS, NEAR = (1e-6, 1e-8), 0.01
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# What the warm-up has compiled need not be compiled again.
JAX = {
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def main():
    args = parse_arguments()
    if args.page:
        write_page(json.loads(args.page.read_text()), args.page.parent)
        return
    configurations = chosen(args)
    with tempfile.TemporaryDirectory() as folder:
        board = assemble(args.board, Path(folder) / "benchmark_bilevel")
        curves = run(args, board, configurations)
        judge = Judge(*load(board / "datasets" / "ijcnn1_split.py").parts())
    with threadpool_limits(1):
        found = {
            "environment": measured_on(args),
            "rows": [len(judge.inner), len(judge.outer)],
            "runs": [judged(judge, each) for each in curves],
        }
    print(json.dumps(found["environment"], indent=1))
    for row in table(found):
        print(" | ".join(row))
    if args.json:
        args.json.write_text(json.dumps(merged(args.json, found)))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--board", type=Path, metavar="PATH", help="checkout of the board")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="the board's, all by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a run of a method")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="SABA and ours, a seed, ten seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the curves are kept")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page of these curves")
    args = parser.parse_args()
    if (args.board is None) == (args.page is None):
        parser.error("one of --board and --page is needed")
    if args.quick:
        args.methods, args.seconds, args.seeds = ["SABA"], 10.0, 1
    return args


def merged(path, found):
    """Return what is there, with the runs of methods that have run again replaced."""
    known = json.loads(path.read_text())["runs"] if path.exists() else []
    again = {each["method"] for each in found["runs"]}
    return found | {"runs": [*(r for r in known if r["method"] not in again), *found["runs"]]}


# --- what is run ---------------------------------------------------------------------------------


def chosen(args):
    """Return the configurations that take part, by their names."""
    known = configurations(args.board)
    names = args.methods or known
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"The board has no {unknown}; it has {list(known)}.")
    return {name: known[name] for name in names}


def configurations(board):
    """Return solver and parameters, by the names that they have here."""
    found = {}
    for file in FILES:
        for solver, parameters in settings((board / "config" / file).read_text()).items():
            other = found.get(solver, (solver, None))[1]
            if other is None:
                found[solver] = solver, parameters
            elif other != parameters:
                found[OLDER.format(solver)] = solver, parameters
    return found | UNTUNED


def settings(text):
    """Return the parameters of each solver in a file of the board, without seeds.

    The files have lines of the form ``- SABA[step_size=0.25,...,random_state=[1, 2]``, some of them
    without the last bracket.
    """
    found = {}
    for solver, inside in re.findall(r"- (\w+)\[(.*?)random_state=", text):
        given = dict(each.split("=", 1) for each in inside.split(",") if each)
        found[solver] = {key: number(each) for key, each in given.items() if key not in DROPPED}
        if given.get("eval_freq", "1") != "1":
            found[solver]["eval_freq"] = EVERY
    return found


def number(text):
    """Return a number, or the word that it is not."""
    try:
        return float(text)
    except ValueError:
        return text


def assemble(board, folder):
    """Copy the board, with our solver and our split of the data beside its own."""
    shutil.copytree(
        board, folder, ignore=shutil.ignore_patterns(".*", "outputs", "__cache__", "__pycache__")
    )
    for kind in ("datasets", "solvers"):
        for file in (HERE / kind).glob("*.py"):
            shutil.copy(file, folder / kind)
    return folder


def run(args, board, configurations):
    """Have benchopt run all; return a curve for each method and seed."""
    output = board.parent / "curves.parquet"
    seeds = list(range(1, args.seeds + 1))
    options = ["-d", "ijcnn1_split", "-s", f"{OURS}[random_state={list(range(1, 4))}]"]
    for solver, parameters in configurations.values():
        given = [f"{key}={plain(each)}" for key, each in parameters.items()]
        seeded = [] if solver == "jaxopt_GD" else [f"random_state={seeds}"]
        options += ["-s", f"{solver}[{','.join([*given, *seeded])}]"]
    options += ["--timeout", f"{args.seconds:g}", "--max-runs", "1000000000", "-r", "1"]
    options += ["--no-cache", "--no-plot", "--no-html", "--no-display", "--output", str(output)]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    setting = dict.fromkeys(THREADS, "1") | JAX
    setting["JAX_COMPILATION_CACHE_DIR"] = str(board.parent / "compiled")
    command = [sys.executable, str(HERE / "launch.py"), "run", str(board), *options]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | setting
    )
    if done.returncode:
        raise SystemExit(f"benchopt failed.\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    curves = read(output, configurations)
    for name in {OURS, *configurations}.difference(each["method"] for each in curves):
        print(f"{name} has failed:\n{done.stderr[-3000:]}")
    return curves


def plain(value):
    """Return a parameter as the command line takes it; counts are whole numbers there."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read(output, configurations):
    import pandas as pd

    names = {OURS: (OURS, {}), **configurations}
    curves = []
    for _, rows in pd.read_parquet(output).groupby("solver_name", sort=False):
        first, n = rows.iloc[0], sum(column.startswith("objective_theta_") for column in rows)
        solver = first["solver_name"].partition("[")[0]
        given = {
            key.removeprefix("p_solver_"): each
            for key, each in first.items()
            if key.startswith("p_solver_") and pd.notna(each)
        }
        curves.append(
            {
                "method": name_of(names, solver, given),
                "parameters": {
                    key: getattr(each, "item", lambda each=each: each)()
                    for key, each in given.items()
                    if key not in ("random_state", "eval_freq")
                },
                "seed": int(given.get("random_state", 1)),
                "seconds": rows["time"].to_numpy(),
                "theta": rows[[f"objective_theta_{i}" for i in range(n)]].to_numpy(),
            }
        )
    return curves


def name_of(names, solver, given):
    """Return the name of the configuration that these parameters belong to."""
    for name, (own, parameters) in names.items():
        if own == solver and all(given[key] == each for key, each in parameters.items()):
            return name
    raise RuntimeError(f"{solver} was run with {given}, which nobody asked for.")


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured_on(args):
    head = ["git", "-C", str(args.board), "rev-parse", "HEAD"]
    commit = subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()
    packages = {name: version(name) for name in ("jax", "jaxlib", "jaxopt", "benchopt")}
    return environment(**packages, board=commit, seconds=args.seconds)


# --- what is made of it --------------------------------------------------------------------------


def judged(judge, curve):
    """Return a curve with values and squared hypergradient norms in place of hyperparameters."""
    kept = spread(curve["seconds"])
    found = [judge(curve["theta"][i]) for i in kept]
    return {
        **{key: curve[key] for key in ("method", "parameters", "seed")},
        "seconds": [float(f"{curve['seconds'][i]:.4g}") for i in kept],
        "value": [float(f"{value:.10g}") for value, _ in found],
        "squared_norm": [float(f"{norm:.3g}") for _, norm in found],
    }


def spread(seconds):
    """Return indices of points that are spread over the logarithm of time, with first and last."""
    if len(seconds) <= POINTS:
        return range(len(seconds))
    wanted = np.geomspace(max(seconds[1], 1e-3), seconds[-1], POINTS - 1)
    near = np.clip(np.searchsorted(seconds, wanted), 1, len(seconds) - 1)
    return sorted({0, *near.tolist(), len(seconds) - 1})


def ranked(found):
    """Return each method with its runs, the lowest squared norm at the end first."""
    methods = {}
    for each in found["runs"]:
        methods.setdefault(each["method"], []).append(each)
    return sorted(methods.items(), key=lambda item: last(item[1], "squared_norm"))


def lowest(found):
    return min(min(each["value"]) for each in found["runs"])


def table(found):
    """Return a heading, and a row for each method, the best first."""
    best = lowest(found)
    headings = ["Method", "Settings", "Runs", "Seconds", "Squared norm at the end"]
    headings += [f"Seconds to {norm:.0e}" for norm in NORMS]
    headings += ["Value at the end", f"Seconds to {NEAR:.0%} above the lowest"]
    rows = [
        [
            name,
            ", ".join(f"{key} {short(each)}" for key, each in runs[0]["parameters"].items()),
            str(len(runs)),
            f"{last(runs, 'seconds'):.3g}",
            f"{last(runs, 'squared_norm'):.1e}",
            *(reached(runs, "squared_norm", norm) for norm in NORMS),
            f"{last(runs, 'value'):.6f}",
            reached(runs, "value", (1.0 + NEAR) * best),
        ]
        for name, runs in ranked(found)
    ]
    return [headings, *rows]


def last(runs, key):
    return median(run[key][-1] for run in runs)


def short(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def reached(runs, key, level):
    """Return the median time from which on a curve stays below a level."""
    times = []
    for run in runs:
        above = [i for i, each in enumerate(run[key]) if each > level]
        after = above[-1] + 1 if above else 0
        times.append(run["seconds"][after] if after < len(run["seconds"]) else np.inf)
    time = median(times)
    return f"{time:.2g}" if np.isfinite(time) else "never"


def write_page(found, folder):
    """Write ``board.inc`` and ``board.png`` for the documentation."""
    has = found["environment"]
    packages = ("hoag_shine", "jax", "jaxlib", "jaxopt", "benchopt", "numpy", "scipy")
    versions = ", ".join(f"{package} {has[package]}" for package in packages)
    parts = [
        ".. Written by benchmarks/board/run.py --page.",
        (
            f"Measured on {has['processor']}, one core; Python {has['python']}, {versions}; the "
            f"board at commit ``{has['board'][:10]}``; {found['rows'][0]:,} rows in the inner "
            f"problem, {found['rows'][1]:,} in the outer one. Medians over the runs."
        ),
        list_table(table(found)),
    ]
    (folder / "board.inc").write_text("\n\n".join(parts) + "\n")
    draw(found).savefig(folder / "board.png", dpi=150, metadata={})


def draw(found):
    import matplotlib as mpl
    from matplotlib.figure import Figure

    best = lowest(found)
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(7.5, 5.0), layout="constrained")
        norms, values = figure.subplots(1, 2)
        for place, (name, runs) in enumerate(ranked(found)):
            for run in runs:
                style = {"color": "black" if name == OURS else f"C{place % 10}", "linewidth": 1.0}
                style |= {"linestyle": "-" if place <= 10 else ":"}
                style |= {"label": name} if run is runs[0] else {}
                seconds = np.maximum(run["seconds"], 1e-2)
                norms.plot(seconds, run["squared_norm"], **style)
                values.plot(seconds, np.maximum(np.array(run["value"]) - best, 1e-9), **style)
        norms.set(title="Squared norm of the hypergradient")
        values.set(title="Value above the lowest")
        for ax in (norms, values):
            ax.set(xscale="log", yscale="log", xlabel="seconds")
        names = norms.get_legend_handles_labels()
        figure.legend(*names, loc="outside lower center", ncols=4, fontsize=7)
    return figure


if __name__ == "__main__":
    main()
