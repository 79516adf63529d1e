"""Searches over Dask's collections, with workers and without, against the same ones in memory."""

import gc
import logging
import os
import re
import signal
import threading
import time

import numpy as np
import pytest
from helpers import breast_cancer, diabetes, needs_data
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler, normalize

from hoag_shine import Outcome, ShineCV, fold_problems, load_dataset
from hoag_shine.linalg import clusters, row_blocks
from hoag_shine.problems.requests import Evaluate, HessianProduct

dask = pytest.importorskip("dask", reason="needs the extra `distributed`")
distributed = pytest.importorskip("distributed", reason="needs the extra `distributed`")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
get_mp_context = pytest.importorskip("distributed.utils").get_mp_context

# Dask and its event loop leave sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Count as large what has more than 2 KiB."""
    monkeypatch.setattr(row_blocks, "READ_BYTES", 512)


@pytest.fixture(scope="module", autouse=True)
def workers_by_forks():
    """Have workers be forks of a process that has imported what they need: that takes seconds.

    A local cluster gives up a worker that is being started 15 seconds after it was lost before.
    """
    options = {
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.deploy.lost-worker-timeout": "1h",
    }
    with dask.config.set(options):
        modules = ["distributed", "dask.array", "dask.dataframe", "hoag_shine.problems.clusters"]
        get_mp_context().set_forkserver_preload(modules)  # beside those that Dask names
        yield


def local_cluster(n_workers, **options):
    return distributed.LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
        **options,
    )


@pytest.fixture(scope="module")
def cluster(workers_by_forks):
    with local_cluster(2) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as client:
        yield client


@pytest.fixture(params=["no client", "client"])
def either(request):
    """With workers, and without."""
    return request.getfixturevalue("client") if request.param == "client" else None


def chunked(X, size, kind=np.asarray):
    """Return a Dask array of known chunks of rows, each made by a function when it is wanted."""
    meta = kind(X[:0]) if kind in (sparse.csr_array, sparse.csr_matrix) else X[:0]
    parts = [X[first : first + size] for first in range(0, X.shape[0], size)]
    return da.concatenate(
        [
            da.from_delayed(dask.delayed(kind)(part), part.shape, X.dtype, meta=meta)
            for part in parts
        ]
    )


def frame(X):
    pandas = pytest.importorskip("pandas")
    names = [f"x{j}" for j in range(X.shape[1])]
    return dd.from_pandas(pandas.DataFrame(X, columns=names), npartitions=4)


FORMS = {
    "rows": lambda X: da.from_array(X, (100, 30)),
    "one chunk": lambda X: da.from_array(X, X.shape),
    "columns": lambda X: da.from_array(X, (150, 7)),
    "csr": lambda X: chunked(X, 100, sparse.csr_array),
    "csr columns": lambda X: da.concatenate(
        [chunked(X[:, :9], 100, sparse.csr_matrix), chunked(X[:, 9:], 100, sparse.csr_matrix)], 1
    ),
    "unknown sizes": lambda X: frame(X).values,
    "empty chunks": lambda X: da.concatenate(
        [da.zeros((0, 30)), da.from_array(X[:300], (100, 30)), da.from_array(X[300:], (300, 30))]
    ),
    "single precision": lambda X: da.from_array(X.astype(np.float32), (100, 30)),
    "frame": frame,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_sums_are_those_in_memory(form, either):
    X, y = breast_cancer()
    weight = 1.0 + (np.arange(569) % 3)
    stored, y_stored = FORMS[form](X), da.from_array(y, 200)
    X = X.astype(np.float32) if form == "single precision" else X
    options = {"penalty": "shared", "cv": 3}
    memory = fold_problems(LogisticRegression(), X, y, sample_weight=weight, **options)
    weight_stored = da.from_array(weight, 300)
    dist = fold_problems(
        LogisticRegression(), stored, y_stored, sample_weight=weight_stored, **options
    )
    assert_same_sums(memory, dist)
    assert (dist.n_bytes_sent > 0) == (either is not None)
    assert (dist.n_bytes_read > 0) == (either is None)


def assert_same_sums(memory, dist):
    """Assert that all that solvers ask for is the same, but for rounding."""
    rng, theta = np.random.default_rng(0), np.zeros(memory.n_hyperparameters)
    ws = rng.normal(size=(len(memory), memory[0].n_params)) * 0.1
    asked = [
        lambda p: p.answer({k: Evaluate(w) for k, w in enumerate(ws)}, theta),
        lambda p: p.answer({1: HessianProduct(ws[1], ws[:2]), 0: Evaluate(ws[1])}, theta),
        lambda p: dict(enumerate(p.outer_values_and_grads(list(ws)))),
        lambda p: dict(enumerate(p.data_diagonals(list(ws)))),
        lambda p: {k: f and f(ws[0]) for k, f in enumerate(p.preconditioners(list(ws), theta))},
    ]
    for ask in asked:
        expected, found = ask(memory), ask(dist)
        assert expected.keys() == found.keys()
        for k, answer in expected.items():
            for one, other in zip(as_tuple(answer), as_tuple(found[k]), strict=True):
                if one is not None:
                    np.testing.assert_allclose(
                        other, one, rtol=1e-10, atol=1e-12 * np.abs(one).max()
                    )


def as_tuple(answer):
    return answer if isinstance(answer, tuple) else (answer,)


OTHERS = {
    "multinomial": (LogisticRegression(), np.asarray, {}),
    "ridge of two targets": (Ridge(), sparse.csr_array, {}),
    "factors of ridge": (Ridge(), np.asarray, {}),
    "an output by itself": (Ridge(), sparse.csr_array, {"penalty": "output"}),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.usefixtures("client")
def test_other_losses(name):
    model, kind, options = OTHERS[name]
    if name == "multinomial":
        X, y = (array[:200] for array in load_digits(return_X_y=True))
    else:
        X, y = diabetes()
        y = np.stack([y, X[:, 2]], axis=1)
    memory = fold_problems(model, kind(X), y, cv=3, **options)
    dist = fold_problems(model, chunked(X, 60, kind), y, cv=3, **options)
    if name == "an output by itself":
        for one, other in zip(memory.separate(), dist.separate(), strict=True):
            assert_same_sums(one, other)
    else:
        assert_same_sums(memory, dist)


@needs_data
def test_a_search_with_weights(client):
    X, y = (array[:600] for array in load_dataset("libsvm:a9a"))
    weight = 1.0 + (np.arange(600) % 3)
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    # In memory, "auto" would solve directly: both are to take the same way.
    search = ShineCV(LogisticRegression(), cv=cv, hypergradient="cg", tol=1e-4)
    memory = clone(search).fit(X, y, sample_weight=weight)
    dist = clone(search).fit(chunked(X, 90, sparse.csr_array), y, sample_weight=weight)
    assert dist.outcome_ is Outcome.CONVERGED
    # Sums are rounded differently; each result is known to half of tol**2.
    np.testing.assert_allclose(dist.best_score_, memory.best_score_, rtol=search.tol**2)
    np.testing.assert_allclose(dist.coef_, memory.coef_, atol=1e-3 * np.abs(memory.coef_).max())
    np.testing.assert_array_equal(dist.predict(X[:50]), memory.predict(X[:50]))
    sent = sum(record["bytes_sent"] for record in dist.history_)
    # Coefficients and gradients of the folds, for both workers; nothing of the size of X.
    passes = sum(record["data_passes"] for record in dist.history_)
    assert 0 < sent < 2 * passes * 2 * 5 * 8 * 3 * (X.shape[1] + 1)
    assert all(record["bytes_sent"] == 0 for record in memory.history_)


def test_progress_tells_passes_and_bytes(either, capsys):
    X, y = breast_cancer()
    told = "sent" if either else "read"
    search = ShineCV(LogisticRegression(), verbose=1).fit(chunked(X, 100), y)
    lines = capsys.readouterr().out.splitlines()
    assert all(re.search(rf"[\d.]+ data passes, [\d.]+ [kM]B {told}, [\d.]+ s$", s) for s in lines)
    moved = sum(record[f"bytes_{told}"] for record in search.history_)
    ((number, unit),) = re.findall(rf", ([\d.]+) ([kM]B) {told}, ", str(search.summary()))
    np.testing.assert_allclose(float(number) * {"kB": 1e3, "MB": 1e6}[unit], moved, rtol=5e-3)


@pytest.mark.parametrize("with_client", [False, True])
def test_a_search_over_a_frame(with_client, request):
    if with_client:
        request.getfixturevalue("client")
    X, y = diabetes()
    memory = ShineCV(Ridge()).fit(X, y)
    dist = ShineCV(Ridge()).fit(frame(X), da.from_array(y, 100))
    np.testing.assert_allclose(dist.best_score_, memory.best_score_, rtol=1e-10)
    assert list(dist.feature_names_in_) == [f"x{j}" for j in range(10)]


def test_small_collections_and_those_for_pipelines_go_to_memory(client, monkeypatch):
    X, y = breast_cancer()
    monkeypatch.setattr(row_blocks, "READ_BYTES", X.nbytes)
    for form in ("csr", "columns"):
        search = ShineCV(LogisticRegression()).fit(FORMS[form](X), y)
        memory = ShineCV(LogisticRegression()).fit(
            X if form == "columns" else sparse.csr_array(X), y
        )
        np.testing.assert_array_equal(search.coef_, memory.coef_)


def test_pipelines_over_large_collections_are_refused():
    X, y = breast_cancer()
    search = ShineCV(make_pipeline(StandardScaler(), LogisticRegression()))
    with pytest.raises(ValueError, match="transform X block by block before"):
        search.fit(da.from_array(X, (100, 30)), y)


@pytest.mark.parametrize("form", ["rows", "csr", "frame"])
def test_steps_that_learn_nothing_go_to_the_blocks(form, either):
    X, y = breast_cancer()
    pipeline = make_pipeline(Normalizer(), LogisticRegression())
    dist = fold_problems(pipeline, FORMS[form](X), y, cv=3)
    assert_same_sums(fold_problems(LogisticRegression(), normalize(X), y, cv=3), dist)
    assert (dist.n_bytes_sent > 0) == (either is not None)


def test_steps_get_the_names_of_columns():
    X, y = diabetes()
    search = ShineCV(make_pipeline(Normalizer(), Ridge()))
    dist = clone(search).fit(frame(X), y)
    X = frame(X).compute()
    memory = search.fit(X, y)
    np.testing.assert_allclose(dist.best_score_, memory.best_score_, rtol=search.tol**2)
    np.testing.assert_allclose(dist.predict(X), memory.predict(X), atol=0.1 * y.std())
    assert list(dist.feature_names_in_) == list(X.columns)


def n_tasks(dask_scheduler):
    return len(dask_scheduler.tasks)


@pytest.fixture
def no_collector():
    """Without what frees objects that refer to each other."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_workers_let_go_of_their_rows(client, no_collector, monkeypatch):
    """At once, however often the driver has looked up while it waited for them."""
    monkeypatch.setattr(clusters, "SECONDS_BETWEEN_LOOKS", 1e-3)
    X, y = breast_cancer()
    stored = chunked(X, 100).persist()
    distributed.wait(stored)
    before = client.run_on_scheduler(n_tasks)
    ShineCV(LogisticRegression(), hypergradient="cg", tol=0.1).fit(stored, y)
    end = time.monotonic() + 30.0
    while client.run_on_scheduler(n_tasks) > before and time.monotonic() < end:
        time.sleep(0.05)
    assert client.run_on_scheduler(n_tasks) == before


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
def test_a_number_in_the_last_block_that_is_none(kind, either):
    X, y = breast_cancer()
    X = X.copy()
    X[-1, 3] = np.nan
    messages = []
    for data in (kind(X), chunked(X, 100, kind)):
        with pytest.raises(ValueError, match="X contains NaN") as error:
            ShineCV(LogisticRegression()).fit(data, y)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_a_chunk_that_raises(either):
    X, y = breast_cancer()

    def fail(part):
        raise OSError("the disk is on fire")

    parts = [dask.delayed(X[:300]), dask.delayed(fail)(X[300:])]
    stored = da.concatenate(
        [da.from_delayed(part, (n, 30), X.dtype) for part, n in zip(parts, (300, 269), strict=True)]
    )
    with pytest.raises(RuntimeError, match=r"X could not be .*the disk is on fire"):
        ShineCV(LogisticRegression()).fit(stored, y)


def test_chunks_of_other_shapes_than_promised(either):
    X, y = breast_cancer()
    stored = da.concatenate(
        [
            da.from_delayed(dask.delayed(X[:300]), (300, 30), X.dtype),
            da.from_delayed(dask.delayed(X[300:400]), (269, 30), X.dtype),
        ]
    )
    with pytest.raises(RuntimeError, match=r"X (has|ended)"):
        ShineCV(LogisticRegression()).fit(stored, y)


def test_a_scheduler_that_goes_away():
    X, y = breast_cancer()
    with local_cluster(1, processes=False) as cluster, distributed.Client(cluster):
        search = ShineCV(LogisticRegression(), callback=lambda _: cluster.close())
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="the scheduler of the Dask cluster is gone"):
            search.fit(da.from_array(X, (100, 30)), y)
        assert time.monotonic() - began < 60.0


@pytest.mark.skipif(os.name != "posix", reason="a signal to oneself is POSIX")
def test_ctrl_c_within_a_pass_keeps_the_best(client):
    X, y = breast_cancer()

    def interrupt(record):
        if record["iteration"] == 2:
            threading.Timer(0.02, os.kill, [os.getpid(), signal.SIGINT]).start()

    search = ShineCV(LogisticRegression(), hypergradient="cg", tol=1e-6, callback=interrupt)
    with pytest.warns(ConvergenceWarning, match="interrupt"):
        search.fit(da.from_array(X, (100, 30)), y)
    assert search.outcome_ is Outcome.INTERRUPTED
    assert search.best_params_ == search.history_[search.best_index_]["params"]
    assert search.coef_.shape == (1, 30)


def kill_a_worker(client):
    """End the process of a worker."""
    pids = client.run(os.getpid, on_error="ignore")  # of one that is being started
    os.kill(pids[min(pids)], signal.SIGKILL)


@pytest.mark.skipif(os.name != "posix", reason="a signal to a process is POSIX")
def test_workers_that_are_killed(client, monkeypatch, tmp_path):
    monkeypatch.setattr(clusters, "SECONDS_FOR_NEW_WORKER", 0.5)
    X, y = breast_cancer()
    first = tmp_path / "first"

    def block(part):
        if not first.exists():  # ends the first worker that gets here
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return part

    def kill(record):
        if record["iteration"] == 2:  # within a pass
            timer.start()

    timer = threading.Timer(0.02, kill_a_worker, [client])
    search = ShineCV(LogisticRegression(), hypergradient="cg", tol=1e-4)
    memory = clone(search).fit(X, y)
    dist = clone(search).set_params(callback=kill).fit(chunked(X, 80, block), y)
    timer.join()
    assert first.exists()
    assert dist.n_iter_ > 3
    assert dist.outcome_ is Outcome.CONVERGED
    np.testing.assert_allclose(dist.best_score_, memory.best_score_, rtol=search.tol**2)


@pytest.mark.exhaustive
@pytest.mark.skipif(os.name != "posix", reason="a signal to a process is POSIX")
def test_workers_that_are_killed_at_any_moment(client, monkeypatch):
    """Be it while rows are computed, in a pass, or in the final fit."""
    monkeypatch.setattr(clusters, "SECONDS_FOR_NEW_WORKER", 0.5)
    X, y = breast_cancer()
    search, n_killed = ShineCV(LogisticRegression(), hypergradient="cg", tol=1e-2), 0
    undisturbed = clone(search).fit(chunked(X, 80), y)
    began = time.monotonic()  # of a search for which all has been imported
    clone(search).fit(chunked(X, 80), y)
    seconds = time.monotonic() - began
    for share in np.random.default_rng(0).random(20):
        timer = threading.Timer(share * seconds, kill_a_worker, [client])
        timer.start()
        found = clone(search).fit(chunked(X, 80), y)
        n_killed += timer.finished.is_set()
        timer.join()
        # But for rounding: linear predictors are computed anew where they were updated before.
        assert found.outcome_ is Outcome.CONVERGED
        np.testing.assert_allclose(found.best_score_, undisturbed.best_score_, rtol=1e-10)
        coef = undisturbed.coef_
        np.testing.assert_allclose(found.coef_, coef, atol=1e-6 * np.abs(coef).max())
        client.wait_for_workers(2, timeout=60.0)
    assert n_killed > 10


@pytest.mark.skipif(os.name != "posix", reason="a signal to a process is POSIX")
def test_a_worker_that_does_not_answer(client, monkeypatch):
    X, y = breast_cancer()
    stopped = min(client.run(os.getpid).values())

    def stop(record):
        monkeypatch.setattr(clusters, "MAX_SECONDS_FOR_ANSWER", 0.5)
        os.kill(stopped, signal.SIGSTOP)

    search = ShineCV(LogisticRegression(), hypergradient="cg", callback=stop)
    try:
        with pytest.raises(TimeoutError, match=r"worker tcp://.* did not answer for 0 s"):
            search.fit(chunked(X, 80), y)
    finally:
        os.kill(stopped, signal.SIGCONT)
