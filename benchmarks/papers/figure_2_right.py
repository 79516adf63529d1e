"""SHINE, figure 2 right: how good the inverse-Hessian estimate is, and in which directions.

    python benchmarks/papers/figure_2_right.py --runs 100
    python benchmarks/papers/figure_2_right.py --quick

Logistic regression on a fifth of breast_cancer, alpha = 1, from random starting points, by L-BFGS
with outer-problem awareness: every few iterations a pair in the direction e = B d for a prescribed
random d. At the solution, a = H^-1 v is compared with b = B v for v the prescribed direction, one
that the solver has explored (Krylov), and a random one: cosine of a and b, and |b| / |a|.
"""

import numpy as np
from _common import MATPLOTLIB, arguments, mpl, read, save, write
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from hoag_shine import fold_problems, minimize_lbfgs

THETA = np.zeros(1)
STYLES = {
    "prescribed": {"color": "C2", "marker": "o"},
    "Krylov": {"color": "C1", "marker": "*"},
    "random": {"color": "C0", "marker": "^", "alpha": 0.5},
}


def main():
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=100, help="number of random starts")
    parser.add_argument(
        "--every", type=int, nargs="+", default=[5, 1], help="inner iterations between two pairs"
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    stem = args.output / "figure_2_right"
    if not args.draw:
        runs = 20 if args.quick else args.runs
        write(f"{stem}.csv", [row for every in args.every for row in inversions(runs, every)])
    rows = read(f"{stem}.csv")
    for every in dict.fromkeys(row["every"] for row in rows):
        summarise([row for row in rows if row["every"] == every])
    save(draw(rows), stem, args)


def inversions(n_runs, every, *, memory=60, tol=1e-6, seed=42):
    """Return, for each run and direction, the cosine and the norm ratio of B v and H^-1 v."""
    problem, rng = training_problem(), np.random.default_rng(seed)
    rows = []
    for run in range(n_runs):
        w, direction = rng.normal(size=(2, problem.n_params))
        way = [w]

        def probe(n_iter, w, inverse_hessian, direction=direction, way=way):
            way.append(w)
            if n_iter % every == 0:
                yield inverse_hessian @ direction

        solution = minimize_lbfgs(problem, THETA, w, tol=tol, memory=memory, probe=probe)
        product = problem.hessp(solution.w, THETA)
        H = np.column_stack([product(e) for e in np.eye(w.size)])
        directions = {
            "prescribed": direction,
            "Krylov": H @ (way[-1] - way[-2]),
            "random": rng.normal(size=w.size),
        }
        for name, v in directions.items():
            exact, shared = np.linalg.solve(H, v), solution.inverse_hessian @ v
            ratio = np.linalg.norm(shared) / np.linalg.norm(exact)
            cosine = exact @ shared / np.linalg.norm(exact) / np.linalg.norm(shared)
            row = {"every": every, "run": run, "direction": name, "cosine": cosine, "ratio": ratio}
            rows.append(row | {"iterations": solution.n_iter, "passes": solution.n_passes})
    return rows


def training_problem():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler(with_mean=False).fit_transform(X)
    train, rest = train_test_split(np.arange(y.size), test_size=0.8, random_state=3)
    return fold_problems(LogisticRegression(fit_intercept=False), X, y, cv=[(train, rest)])[0]


def summarise(rows):
    print(f"A pair every {rows[0]['every']:g}, {np.median([r['passes'] for r in rows]):g} passes")
    for name in STYLES:
        same = [row for row in rows if row["direction"] == name]
        cosine, ratio = (np.median([row[key] for row in same]) for key in ("cosine", "ratio"))
        print(f"  {name}: median cosine {cosine:.6f}, median norm ratio {ratio:.4f}")


def draw(rows):
    settings = list(dict.fromkeys(row["every"] for row in rows))
    with mpl.rc_context(MATPLOTLIB):
        figure = Figure(figsize=(0.8 + 2.6 * len(settings), 2.8), layout="constrained")
        axes = figure.subplots(1, len(settings), sharex=True, sharey=True, squeeze=False)[0]
        for ax, every in zip(axes, settings, strict=True):
            for name, style in STYLES.items():
                same = [r for r in rows if r["every"] == every and r["direction"] == name]
                # 1 - cosine on a logarithmic scale, since most of the points are at 1.
                error = [max(1.0 - row["cosine"], 1e-12) for row in same]
                ax.scatter([row["ratio"] for row in same], error, s=6, label=name, **style)
            ax.set(
                xscale="log", yscale="log", xlabel="$|b| / |a|$", title=f"a pair every {every:g}"
            )
        axes[0].set_ylabel("$1 - \\cos(a, b)$")
        axes[0].invert_yaxis()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, title="direction")
    return figure


if __name__ == "__main__":
    main()
