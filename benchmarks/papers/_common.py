"""What the papers' figures share: run searches, keep their curves as CSV, draw them with bands."""

import argparse
import csv
import sys
import time
import warnings
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy.interpolate import CubicSpline
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmark_utils.criterion import KeptCriterion, default_cache
from benchmark_utils.data import holdout, untouched
from benchmark_utils.methods import METHODS, PUBLISHED, Enough, as_published, by_values

from hoag_shine import LogisticLoss, fold_problems

# The grid of the published code, over log alpha.
CANDIDATES = (-12.0, 12.0, 10)
# Where the converged criterion is known, in log alpha.
LANDSCAPE = np.arange(-9.0, 3.01, 0.25)
BAND = (0.1, 0.5, 0.9)
# Below this relative suboptimality, curves are not told apart.
FLOOR = 1e-5

LABELS = {
    "hoag": "HOAG",
    "cg": "HOAG",
    "hoag-limited": "HOAG, limited backward",
    "cg-limited": "HOAG, limited backward",
    "shine": "SHINE",
    "shine-refine": "SHINE refine",
    "shine-opa": "SHINE-OPA",
    "jacobian-free": "Jacobian-free",
    "auto": "auto",
    "grid": "grid search",
    "random": "random search",
    "brent": "bounded Brent",
}
# The papers' colours and lines; methods that they do not have come in grey and black.
STYLES = {
    "HOAG": {"color": "C0", "linestyle": "-."},
    "Jacobian-free": {"color": "C1", "linestyle": ":"},
    "SHINE": {"color": "C2"},
    "SHINE refine": {"color": "C3"},
    "grid search": {"color": "C4", "linestyle": "--"},
    "random search": {"color": "C5"},
    "HOAG, limited backward": {"color": "C6"},
    "SHINE-OPA": {"color": "chocolate"},
    "bounded Brent": {"color": "0.5", "linestyle": "--"},
    "auto": {"color": "black"},
}
MATPLOTLIB = {
    "font.size": 8,
    "font.family": "serif",
    "mathtext.fontset": "cm",
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "legend.frameon": False,
    "savefig.dpi": 120,
}


def by_grid(criterion):
    for theta in np.linspace(*CANDIDATES):
        criterion(theta)


def at_random(criterion):
    low, high, n = CANDIDATES
    for theta in np.random.default_rng(0).uniform(low, high, n):
        criterion(theta)


SEARCHES = {
    "grid": partial(by_values, explore=by_grid),
    "random": partial(by_values, explore=at_random),
    "brent": METHODS["brent"],
}


def papers_settings(*names, **settings):
    """Return methods of the papers by label: their memories, schedules and step."""
    common = {"step": "as coded", **settings}
    return {LABELS[name]: partial(as_published, **(PUBLISHED[name] | common)) for name in names}


def equal_settings(*names):
    """Return methods by label, all with this library's step and tolerance, and SHINE's memory."""
    known = METHODS | SEARCHES
    return {LABELS[name]: partial(known[name], memory=30) for name in names if name in known}


def searches(*names):
    return {LABELS[name]: SEARCHES[name] for name in names}


def arguments(description):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("figures"), metavar="FOLDER")
    parser.add_argument("--pdf", action="store_true", help="beside the PNG")
    parser.add_argument(
        "--draw", action="store_true", help="draw the CSV that is there, run nothing"
    )
    parser.add_argument("--quick", action="store_true", help="a small set and about a minute")
    return parser


def compare(name, description, panels, *, data=("text:20news",), estimator=None, convex=True):
    """Run an experiment from the command line: searches side by side in a few panels.

    Parameters
    ----------
    name : str
        Of the files.
    panels : dict of str to dict
        By title, methods by label.
    data : sequence of str
        Names of the sets by default.
    estimator : estimator, optional
        Logistic regression without an intercept, as in the papers, by default.
    convex : bool
        Whether each penalty has one solution, at which the searches can be judged.
    """
    parser = arguments(description)
    parser.add_argument("--data", nargs="+", default=list(data), help="names as of settle.py")
    parser.add_argument("--seeds", type=int, default=10, help="number of random splits")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="cap of one search")
    parser.add_argument("--only", nargs="+", metavar="LABEL", help="renew these curves in the CSV")
    parser.add_argument("--threads", type=int, default=1, help="of BLAS and OpenMP")
    parser.add_argument("--scan-cache", type=Path, default=default_cache(), metavar="FOLDER")
    args = parser.parse_args()
    if args.quick:
        args.data, args.seeds, args.max_seconds = ["sklearn:digits=8"], 2, 2.0
    args.output.mkdir(parents=True, exist_ok=True)
    for data in args.data:
        stem = args.output / f"{name}_{data.partition(':')[2].partition('=')[0]}"
        rows = read(f"{stem}.csv") if args.draw or args.only else []
        if not args.draw:
            kept = [row for row in rows if row["method"] not in (args.only or ())]
            try:
                with threadpool_limits(args.threads):
                    rows = kept + measure(data, panels, args, estimator, convex=convex)
            except OSError as error:
                print(f"{data} is left out: {error}", file=sys.stderr)
                continue
            write(f"{stem}.csv", rows)
        for loss in ("test", "validation", *(["excess"] if convex else [])):
            save(draw(rows, panels, loss), f"{stem}_{loss}", args)


def measure(data, panels, args, estimator, *, convex):
    """Return a row for each iteration of each method on each split."""
    estimator = estimator or LogisticRegression(fit_intercept=False)
    rows = []
    for seed in range(args.seeds):
        splits = holdout(data, seed), untouched(data, seed)
        found = []
        for panel, methods in panels.items():
            for label, method in methods.items():
                if args.only and label not in args.only:
                    continue
                print(f"{data}, seed {seed}, {panel}: {label}", file=sys.stderr)
                same = {"data": data, "seed": seed, "panel": panel, "method": label}
                curve = follow(method, estimator, *splits, args.max_seconds)
                found += [same | {"iteration": i} | point for i, point in enumerate(curve)]
        if convex:
            print(f"{data}, seed {seed}: converged solutions", file=sys.stderr)
            judge(found, estimator, splits[0], args.scan_cache)
        rows += found
    return rows


def follow(method, estimator, known, untouched, max_seconds):
    """Return what a search had spent after each iteration, and the losses of its solution."""
    problems = fold_problems(estimator, known["X"], known["y"], cv=known["cv"])
    (_, held_out), classes = known["cv"][0], np.unique(known["y"])
    loss = getattr(estimator, "loss", None) or LogisticLoss()

    def mean_loss(X, y, w):
        z = X @ w[: X.shape[1]] + (w[-1] if w.size > X.shape[1] else 0.0)
        return float(loss.value((y == classes[1]).astype(np.float64), z).mean())

    curve, watching, start = [], 0.0, time.perf_counter()

    def watch(theta, ws):
        nonlocal watching
        now = time.perf_counter()
        curve.append(
            {
                "theta": theta,
                "passes": problems.n_passes,
                "seconds": now - start - watching,
                "validation": mean_loss(known["X"][held_out], known["y"][held_out], ws[0]),
                "test": mean_loss(untouched["X"], untouched["y"], ws[0]),
            }
        )
        watching += time.perf_counter() - now
        if curve[-1]["seconds"] > max_seconds:
            raise Enough  # without the accurate solves that end a search of this library

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with suppress(Enough):
            method(problems, watch)
    if method in SEARCHES.values():
        curve = best_so_far(curve)
    return curve


def judge(rows, estimator, known, cache):
    """Add to each row how far the converged criterion at its penalty is above the optimum.

    A spline through the logarithms of tight solutions; beyond its ends, their values.
    """
    problems = fold_problems(estimator, known["X"], known["y"], cv=known["cv"])
    criterion = KeptCriterion(problems, [known, repr(estimator)], cache)
    for theta in sorted(LANDSCAPE, key=abs):
        criterion(theta)
    spline = CubicSpline(LANDSCAPE, [np.log(criterion(theta)) for theta in LANDSCAPE])
    ends = LANDSCAPE[0], LANDSCAPE[-1]
    lowest = spline(np.linspace(*ends, 10_000)).min()
    for row in rows:
        row["excess"] = float(np.expm1(spline(np.clip(row["theta"], *ends)) - lowest))


def best_so_far(curve):
    """Let each point of a search by values have the losses of the best candidate until then."""
    best, kept = curve[0], []
    for point in curve:
        best = min(best, point, key=lambda each: each["validation"])
        kept.append(point | {loss: best[loss] for loss in ("validation", "test")})
    return kept


def write(path, rows):
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def read(path):
    """Return the rows of a CSV file, with what looks like a number as one."""
    with Path(path).open(newline="") as file:
        return [{key: number(text) for key, text in row.items()} for row in csv.DictReader(file)]


def number(text):
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def draw(rows, panels, loss):
    """Return a figure: a column for each panel, above against passes, below against time."""
    if loss == "excess":
        rows = [row | {"drawn": row[loss]} for row in rows]
    else:
        rows = suboptimal(rows, loss)
    n_seeds = len({row["seed"] for row in rows})
    with mpl.rc_context(MATPLOTLIB):
        figure = Figure(figsize=(1.2 + 2.9 * len(panels), 4.8), layout="constrained")
        axes = figure.subplots(2, len(panels), sharex="row", sharey=True, squeeze=False)
        for column, panel in zip(axes.T, panels, strict=True):
            shown = [row for row in rows if row["panel"] == panel]
            for ax, spent in zip(column, ("passes", "seconds"), strict=True):
                last = max(row[spent] for row in rows)
                for label in dict.fromkeys(row["method"] for row in shown):
                    curves = by_seed([row for row in shown if row["method"] == label])
                    add_band(ax, label, curves, spent, last)
                ax.set(xscale="log", yscale="log", xlabel=X_LABELS[spent])
            column[0].set_title(panel)
        for ax in axes[:, 0]:
            ax.set_ylabel(Y_LABELS[loss])
        handles = {}
        for ax in axes[0]:
            handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
        title = rows[0]["data"].partition(":")[2]
        figure.suptitle(f"{title}, {n_seeds} splits: median, {BAND[0]:.0%} to {BAND[-1]:.0%}")
    return figure


X_LABELS = {"passes": "passes over the data", "seconds": "time (s)"}
Y_LABELS = {
    "test": "test loss, above the lowest seen",
    "validation": "validation loss, above the lowest seen",
    "excess": "converged validation loss,\nabove the optimum",
}


def suboptimal(rows, loss):
    """Return the rows with how far each loss is above the lowest that any method saw."""
    lowest = {}
    for row in rows:
        lowest[row["seed"]] = min(row[loss], lowest.get(row["seed"], np.inf))
    return [row | {"drawn": row[loss] / lowest[row["seed"]] - 1.0} for row in rows]


def by_seed(rows):
    curves = {}
    for row in rows:
        curves.setdefault(row["seed"], []).append(row)
    return curves


def add_band(ax, label, curves, spent, last):
    """Draw the median over the seeds and a band of quantiles, from where every seed has a value."""
    first = max(curve[0][spent] for curve in curves.values())
    grid = np.geomspace(first, last, 300)
    values = np.array(
        [
            in_force(grid, [row[spent] for row in curve], [row["drawn"] for row in curve])
            for curve in curves.values()
        ]
    )
    low, middle, high = np.maximum(np.quantile(values, BAND, axis=0), FLOOR)
    (line,) = ax.plot(grid, middle, drawstyle="steps-post", label=label, **STYLES.get(label, {}))
    ax.fill_between(grid, low, high, color=line.get_color(), alpha=0.2, linewidth=0, step="post")


def in_force(grid, spent, values):
    """Return, for each point of the grid, the value of the last iteration until then."""
    return np.asarray(values)[np.searchsorted(spent, grid * (1 + 1e-12), side="right") - 1]


def save(figure, stem, args):
    image = BytesIO()
    with mpl.rc_context(MATPLOTLIB):
        figure.savefig(image, format="png")
        if args.pdf:
            figure.savefig(f"{stem}.pdf")
    Image.open(image).convert("RGB").quantize(128).save(f"{stem}.png", optimize=True)
    print(f"{stem}.png")
