"""Searches on a local cluster of two workers, against the same ones in memory.

    python benchmarks/clusters.py                       # all sets
    python benchmarks/clusters.py a9a 20news --tol 1e-3
    python benchmarks/clusters.py "mnist pass" --rows 30000
    python benchmarks/clusters.py --dask-ml --rows 5000 # its GridSearchCV, on the same cluster

The workers are processes with one thread each, and each has four chunks of rows.
For each set, it prints

- the criterion of the search on the cluster relative to that in memory, rounds of messages, bytes
  that were sent, and seconds of both searches, refit included;
- seconds of a pass: losses and gradients of five folds at coefficients of their own, in memory and
  on the cluster in turn, and the median of their ratios; a pass over a hundredth of the rows, which
  is what messages take; and the processor time of an entry.

Both searches take ``hypergradient="cg"``: in memory, "auto" would solve small problems directly. It
reads the sets in the folder that HOAG_SHINE_DATA names.
"""

import argparse
import logging
import signal
import time
import warnings
from contextlib import contextmanager

import dask
import dask.array as da
import distributed
import numpy as np
from llvmlite import binding
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.preprocessing import scale
from threadpoolctl import threadpool_limits

from hoag_shine import ShineCV, fold_problems, load_dataset
from hoag_shine.linalg import row_blocks
from hoag_shine.linalg.clusters import ClusterMatrix
from hoag_shine.problems.requests import Evaluate

N_WORKERS = 2
CHUNKS_OF_A_WORKER = 4
N_FOLDS = 5
N_CANDIDATES = 3
MAX_SECONDS_FOR_DASK_ML = 1200


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}")
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--repeats", type=int, default=15, help="passes to time")
    parser.add_argument(
        "--rows",
        type=int,
        default=10_000,
        help="of mnist, and for dask-ml; a million columns have four times as many",
    )
    parser.add_argument("--dask-ml", action="store_true", help="compare with it, too")
    args = parser.parse_args()
    row_blocks.READ_BYTES = 1  # or small collections would be computed
    warnings.simplefilter("ignore")
    print(f"numba compiles for {binding.get_host_cpu_name()}")
    cluster = distributed.LocalCluster(
        n_workers=N_WORKERS,
        threads_per_worker=1,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    )
    client = distributed.Client(cluster, direct_to_workers=True)
    with threadpool_limits(1), cluster, client:
        for name in args.sets or ([] if args.dask_ml else SETS):
            print(f"\n{name}", flush=True)
            model, X, y, weight = SETS[name](args)
            if name not in PASSES_ALONE:
                compare_searches(model, X, y, weight, args.tol)
            if not isinstance(model, Ridge):  # whose rows are read once
                compare_passes(model, X, y, weight, args.repeats)
        if args.dask_ml:
            compare_with_dask_ml(args.rows, client)


# --- the data -----------------------------------------------------------------------------------


def logistic(name, *, weighted=False):
    def load(args):
        X, y = load_dataset(name)
        weight = 1.0 + np.arange(len(y)) % 3 if weighted else None
        return LogisticRegression(), sparse.csr_array(X), y, weight

    return load


def multinomial(args):
    X, y = load_dataset("images:mnist")
    return LogisticRegression(), X[: args.rows], y[: args.rows], None


def ridge(args):
    X, y = load_dataset("tabular:cal_housing")
    return Ridge(), scale(X), y, None


def million_columns(args):
    """Return rows of 50 words each, drawn by Zipf's law."""
    rng, n, p = np.random.default_rng(0), 4 * args.rows, 1_000_000
    columns = (p ** rng.random(50 * n)).astype(np.int64) - 1
    X = sparse.csr_array((rng.random(50 * n), columns, np.arange(0, 50 * n + 1, 50)), shape=(n, p))
    X.sum_duplicates()
    return LogisticRegression(), X, rng.integers(2, size=n), None


SETS = {
    "a9a": logistic("libsvm:a9a"),
    "a9a with weights": logistic("libsvm:a9a", weighted=True),
    "20news": logistic("text:20news"),
    "cal_housing": ridge,
    "mnist": multinomial,
    "mnist pass": multinomial,
    "million columns": million_columns,
}


PASSES_ALONE = "mnist pass", "million columns"


def chunked(X):
    """Return rows as a Dask array, whose chunks are made by the workers."""
    n = -(-X.shape[0] // (N_WORKERS * CHUNKS_OF_A_WORKER))
    parts = [X[first : first + n] for first in range(0, X.shape[0], n)]
    meta = X[:0]
    return da.concatenate(
        [da.from_delayed(dask.delayed(part), part.shape, X.dtype, meta=meta) for part in parts]
    )


def folds(model):
    kind = KFold if isinstance(model, Ridge) else StratifiedKFold
    return kind(N_FOLDS, shuffle=True, random_state=0)


# --- searches -----------------------------------------------------------------------------------


def compare_searches(model, X, y, weight, tol):
    found = {}
    for place, rows in (("memory", X), ("cluster", chunked(X))):
        search = ShineCV(model, cv=folds(model), hypergradient="cg", tol=tol)
        with counted_rounds() as rounds:
            begin = time.perf_counter()
            search.fit(rows, y, sample_weight=weight)
        found[place] = search, time.perf_counter() - begin, len(rounds)
    (memory, memory_seconds, _), (cluster, seconds, n_rounds) = found.values()
    difference = abs(cluster.best_score_ / memory.best_score_ - 1.0)
    sent = sum(record["bytes_sent"] for record in cluster.history_)
    passes = sum(record["data_passes"] for record in cluster.history_)
    ((name, value),) = cluster.best_params_.items()
    print(
        f"  search: criterion differs by {difference:.1e}, {name} {value:.5g} against "
        f"{memory.best_params_[name]:.5g}; {n_rounds} rounds, {passes:.0f} passes, "
        f"{sent / 1e6:.3g} MB; {seconds:.1f} s against {memory_seconds:.1f} s in memory",
        flush=True,
    )


@contextmanager
def counted_rounds():
    """Count how often all workers are asked."""
    ask_all, asked = ClusterMatrix._ask_all, []

    def ask(matrix, *args):
        asked.append(1)
        return ask_all(matrix, *args)

    ClusterMatrix._ask_all = ask
    try:
        yield asked
    finally:
        ClusterMatrix._ask_all = ask_all


# --- passes -------------------------------------------------------------------------------------


def compare_passes(model, X, y, weight, repeats):
    options = {"cv": folds(model), "sample_weight": weight}
    n_few = max(X.shape[0] // 100, 20 * N_FOLDS)
    few = np.random.default_rng(0).permutation(X.shape[0])[:n_few]
    own = {"cv": folds(model), "sample_weight": None if weight is None else weight[few]}
    ways = {
        "memory": fold_problems(model, X, y, **options),
        "cluster": fold_problems(model, chunked(X), y, **options),
        "few": fold_problems(model, chunked(X[few]), y[few], **own),
    }
    sent = ways["cluster"].n_bytes_sent
    times, spent = {name: [] for name in ways}, []
    for i in range(repeats + 1):
        for name, problems in ways.items():
            ws = np.random.default_rng(i).normal(size=(N_FOLDS, problems[0].n_params)) * 0.01
            begin, own = time.perf_counter(), time.process_time()
            problems.answer({k: Evaluate(w) for k, w in enumerate(ws)}, np.zeros(1))
            times[name].append(time.perf_counter() - begin)
            if name == "memory":
                spent.append(time.process_time() - own)
    sent = (ways["cluster"].n_bytes_sent - sent) / (repeats + 1)
    memory, cluster, message = (np.array(times[name][1:]) for name in ways)
    n_entries = X.nnz if sparse.issparse(X) else X.size
    ratio = N_WORKERS * cluster / memory
    low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
    print(
        f"  pass: {np.median(memory):.4f} s in memory, {np.median(cluster):.4f} s on the cluster; "
        f"{N_WORKERS} * cluster / memory {middle:.2f} (quartiles {low:.2f}, {high:.2f}); "
        f"messages {1e3 * np.median(message):.1f} ms; {sent / 1e6:.3g} MB; an entry takes "
        f"{1e9 * np.median(spent[1:]) / (n_entries * N_FOLDS):.1f} ns of processor time for a fold",
        flush=True,
    )


# --- another library ----------------------------------------------------------------------------


def compare_with_dask_ml(n_rows, client):
    """Time dask-ml's search over a few values of C on a9a, and score its choice when converged.

    By default, its models are fitted to columns of variance 1, which penalises other coefficients,
    and raises where a column is constant in the training rows of a fold, as rare words are. Its
    search would try again without end what raises, unless there is a score for it.
    """
    print("\ndask-ml's GridSearchCV of its LogisticRegression, a9a as ndarrays")
    try:
        from dask_ml.linear_model import LogisticRegression as TheirModel
        from dask_ml.model_selection import GridSearchCV
    except ImportError as error:
        print(f"  is absent: {error}")
        return
    X, y = (array[:n_rows] for array in load_dataset("libsvm:a9a"))
    X, y = np.asarray(X.toarray()), (y > 0).astype(np.int64)
    cv = folds(LogisticRegression())
    model = TheirModel(solver="lbfgs", solver_kwargs={"normalize": False})
    theirs = GridSearchCV(
        model,
        {"C": np.logspace(-1, 1, N_CANDIDATES)},
        cv=cv,
        scoring="neg_log_loss",
        refit=False,
        error_score=np.nan,
    )
    target = da.from_array(y, X.shape[0] // (N_WORKERS * CHUNKS_OF_A_WORKER))
    own = ShineCV(LogisticRegression(), cv=cv, hypergradient="cg")
    for name, search, data in (
        ("ShineCV", own, (chunked(X), target)),
        (f"{N_CANDIDATES} values", theirs, (X, y)),
    ):
        begin, spent = time.perf_counter(), processor_seconds(client)
        try:
            with at_most(MAX_SECONDS_FOR_DASK_ML):
                search.fit(*data)
        except TimeoutError as error:
            print(f"  {name}: {error}", flush=True)
            continue
        seconds, spent = time.perf_counter() - begin, processor_seconds(client) - spent
        scores = search.cv_results_["mean_test_score"]
        C = search.cv_results_["params"][np.nanargmax(scores)]["C"]
        print(
            f"  {name}: {seconds:.1f} s, {spent:.1f} s of processor time in all processes; "
            f"C = {C:.4g}, log-loss {-np.nanmax(scores):.6f}, and {converged(X, y, cv, C):.6f} "
            "when converged",
            flush=True,
        )


def processor_seconds(client):
    """Return the processor time so far of this process and the workers."""
    return time.process_time() + sum(client.run(time.process_time).values())


@contextmanager
def at_most(seconds):
    """Raise TimeoutError after some seconds."""

    def stop(*_):
        raise TimeoutError(f"did not end within {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def converged(X, y, cv, C):
    model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
    return -cross_val_score(model, X, y, cv=cv, scoring="neg_log_loss").mean()


if __name__ == "__main__":
    main()
