"""Searches over data that are not in memory, against the same searches in memory."""

import os
import signal
import sys
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from helpers import breast_cancer, diabetes, in_a_process, needs_data
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import HuberRegressor, LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import GroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    Normalizer,
    StandardScaler,
    scale,
)
from sklearn.svm import LinearSVC

from hoag_shine import (
    ArrayBlocks,
    CSRBlocks,
    Outcome,
    ParquetBlocks,
    RowBlocks,
    ShineCV,
    fold_problems,
    load_dataset,
)
from hoag_shine.linalg import row_blocks
from hoag_shine.utils import ahead


class Blocks:
    """The least that is asked for: a shape, a dtype and blocks of rows."""

    def __init__(self, X, size, dtype=np.float64):
        self.shape, self.dtype = X.shape, dtype
        self._X, self._edges = X, [*range(0, X.shape[0], size), X.shape[0]]

    def row_blocks(self):
        for first, stop in pairwise(self._edges):
            yield self._X[first:stop]


def mapped(folder, X, order="C", name="X"):
    """Return X, mapped from a file."""
    path = folder / name
    kind = np.memmap(path, X.dtype, "w+", shape=X.shape, order=order)
    kind[:] = X
    kind.flush()
    return np.memmap(path, X.dtype, "r", shape=X.shape, order=order)


def mapped_csr(folder, X):
    arrays = (mapped(folder, getattr(X, name), name=name) for name in ("data", "indices", "indptr"))
    return sparse.csr_array(tuple(arrays), shape=X.shape)


@pytest.fixture
def small_blocks(monkeypatch):
    """Count as large what has more than 2 KiB, and read a block of 512 bytes at a time."""
    monkeypatch.setattr(row_blocks, "READ_BYTES", 512)


def assert_same(one, other, rtol=1e-6):
    """Assert that two searches have found the same, the penalty as far as ``tol`` says."""
    for search in (one, other):
        assert search.outcome_ is Outcome.CONVERGED
    np.testing.assert_allclose(other.best_score_, one.best_score_, rtol=rtol)
    ((name, value),) = one.best_params_.items()
    np.testing.assert_allclose(other.best_params_[name], value, rtol=one.tol)
    coef = one.best_estimator_.coef_
    np.testing.assert_allclose(
        other.best_estimator_.coef_, coef, atol=0.1 * one.tol * np.abs(coef).max()
    )


# --- the same results ---------------------------------------------------------------------------


def both(search, X, blocks, y, **params):
    """Return the search in memory, and over blocks."""
    return [clone(search).fit(data, y, **params) for data in (X, blocks)]


@needs_data
def test_a_csr_matrix_in_files(tmp_path):
    X, y = (array[:6000] for array in load_dataset("libsvm:a9a"))
    stored = mapped_csr(tmp_path, X)
    blocks = CSRBlocks(stored.data, stored.indices, stored.indptr, X.shape, block_bytes=1 << 18)
    cv = StratifiedKFold(5, shuffle=True, random_state=0)
    # In memory, "auto" would solve directly: both are to take the same way.
    search = ShineCV(LogisticRegression(), cv=cv, hypergradient="cg", tol=1e-3)
    memory, files = both(search, X, blocks, y)
    assert_same(memory, files)
    assert all(record["bytes_read"] == 0 for record in memory.history_)
    for record in files.history_:
        # A pass, and half a pass, read the files once.
        passes = record["bytes_read"] / (X.data.nbytes + X.indices.nbytes)
        assert record["data_passes"] <= passes <= 2.1 * record["data_passes"]


@needs_data
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_in_a_file_with_ten_classes(tmp_path, order):
    X, y = (array[:200] for array in load_dataset("images:usps"))
    blocks = ArrayBlocks(mapped(tmp_path, X, order), block_bytes=1 << 18)
    memory, files = both(ShineCV(LogisticRegression(), cv=2, hypergradient="cg"), X, blocks, y)
    assert_same(memory, files)


@needs_data
def test_least_squares_are_read_twice(tmp_path):
    X, y = load_dataset("tabular:cal_housing")
    blocks = Counted(scale(X), 1000)
    memory, files = both(ShineCV(Ridge()), scale(X), blocks, y)
    assert_same(memory, files)
    assert blocks.times == 3  # to validate, for the folds, for the final fit


class Counted(Blocks):
    """Blocks that count how often they are asked for."""

    times = 0

    def row_blocks(self):
        self.times += 1
        return super().row_blocks()


ESTIMATORS = {
    "ridge of two targets": Ridge(),
    "squared hinge": LinearSVC(),
    "counts": PoissonRegressor(),
    "huber": HuberRegressor(),
    "target transformed": TransformedTargetRegressor(Ridge(), transformer=StandardScaler()),
}


@pytest.mark.parametrize("kind", ["dense", "csr"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator(name, kind):
    # Of counts, few rows, so that the best penalty is not on a bound.
    X, y = (array[: 100 if name == "counts" else None] for array in diabetes())
    y = {
        "ridge of two targets": np.stack([y, X[:, 2]], axis=1),
        "squared hinge": y > 0,
        "counts": np.round(np.exp(y)),
    }.get(name, y)
    X = X if kind == "dense" else sparse.csr_array(X)
    # To where the ways that lead there do not matter: in memory, kinks take other ones.
    tol = 1e-4 if name == "huber" else 1e-3
    memory, blocks = both(ShineCV(ESTIMATORS[name], tol=tol), X, Blocks(X, 60), y)
    assert memory.outcome_ is blocks.outcome_
    np.testing.assert_allclose(blocks.best_score_, memory.best_score_, rtol=1e-6)
    np.testing.assert_allclose(blocks.predict(X[:20]), memory.predict(X[:20]), rtol=1e-3)
    if name == "huber":
        np.testing.assert_array_equal(
            blocks.best_estimator_.outliers_, memory.best_estimator_.outliers_
        )


def test_weights_and_a_penalty_for_each_column():
    X, y = breast_cancer()
    X, weight = X * np.logspace(-1, 1, 30), 1.0 + (np.arange(569) % 3)
    search = ShineCV(LogisticRegression(), penalty="feature", max_iter=4, refit=False)
    with pytest.warns(ConvergenceWarning):
        memory, blocks = both(search, X, Blocks(X, 200), y, sample_weight=weight)
    # They start in proportion to the columns' variances.
    first = [s.history_[0]["params"]["C"] for s in (memory, blocks)]
    np.testing.assert_allclose(*first, rtol=1e-12)
    firsts = [s.history_[0]["criterion"] for s in (memory, blocks)]
    np.testing.assert_allclose(*firsts, rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.dtype(">f8")])
def test_numbers_of_other_types(tmp_path, dtype):
    X, y = (array[:400] for array in load_digits(return_X_y=True))
    X, y = X.astype(dtype), y % 2
    blocks = ArrayBlocks(mapped(tmp_path, X), block_bytes=1 << 14)
    memory, files = both(ShineCV(LogisticRegression(), cv=2, hypergradient="cg"), X, blocks, y)
    assert_same(memory, files)
    assert files.coef_.dtype == memory.coef_.dtype


def test_blocks_may_be_of_both_kinds_and_any_size():
    X, y = breast_cancer()

    class Mixed(Blocks):
        def row_blocks(self):
            unsorted = sparse.csr_array(X[100:101])
            unsorted.indices, unsorted.data = unsorted.indices[::-1], unsorted.data[::-1]
            yield from (X[:100], sparse.csr_array(unsorted), X[101:101], sparse.coo_array(X[101:]))

    assert isinstance(Mixed(X, 1), RowBlocks)
    search = ShineCV(LogisticRegression(), hypergradient="cg")
    assert_same(*both(search, X, Mixed(X, 1), y))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["C", "F", "csr", "part of a map"])
def test_what_is_mapped_and_large_stays_where_it_is(tmp_path, kind):
    X, y = breast_cancer()
    stored = {
        "csr": lambda: mapped_csr(tmp_path, sparse.csr_array(X)),
        "part of a map": lambda: mapped(tmp_path, np.hstack([X, X]))[:, 30:],
    }.get(kind, lambda: mapped(tmp_path, X, kind))()
    problems = fold_problems(LogisticRegression(), stored, y)
    in_memory, w = fold_problems(LogisticRegression(), X, y), np.random.default_rng(0).random(31)
    ways = [p.outer_values_and_grads([w] * 5) for p in (problems, in_memory)]
    for (value, grad), (expected, expected_grad) in zip(*ways, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-9)
    assert problems.n_bytes_read >= 2 * X.nbytes * (kind != "csr")
    assert in_memory.n_bytes_read == 0 < problems.n_bytes_read


def test_what_is_mapped_and_small_is_as_in_memory(tmp_path):
    X, y = breast_cancer()
    one, other = both(ShineCV(LogisticRegression()), X, mapped(tmp_path, X), y)
    np.testing.assert_array_equal(one.coef_, other.coef_)


# --- pipelines ----------------------------------------------------------------------------------


def cubes(X):
    """Return more columns than there are: each by itself, and its cube."""
    return np.hstack([X, X**3])


arctan = FunctionTransformer(np.arctan)
ROW_WISE = {
    "one": make_pipeline(Normalizer(), Ridge()),
    "several": make_pipeline(
        FunctionTransformer(cubes),
        make_pipeline(arctan, Normalizer()),
        Ridge(),
    ),
    "side by side": make_pipeline(make_union(Normalizer(), Binarizer()), "passthrough", Ridge()),
    "by columns": make_pipeline(
        ColumnTransformer(
            [("a", Binarizer(), [0, 3]), ("b", "drop", [1])], remainder="passthrough"
        ),
        Ridge(),
    ),
    "target transformed": make_pipeline(
        Normalizer(),
        TransformedTargetRegressor(
            make_pipeline(FunctionTransformer(cubes), Ridge()), transformer=StandardScaler()
        ),
    ),
}


@pytest.mark.parametrize("kind", ["dense", "csr"])
@pytest.mark.parametrize("name", ROW_WISE)
def test_steps_that_learn_nothing_go_to_the_blocks(name, kind):
    if kind == "csr" and name != "one":
        pytest.skip("its steps are for dense rows")
    X, y = diabetes()
    X = X if kind == "dense" else sparse.csr_array(X)
    memory, blocks = both(ShineCV(ROW_WISE[name], tol=1e-3), X, Blocks(X, 60), y)
    np.testing.assert_allclose(blocks.best_score_, memory.best_score_, rtol=1e-6)
    np.testing.assert_allclose(blocks.predict(X[:20]), memory.predict(X[:20]), rtol=1e-3)
    assert blocks.n_features_in_ == memory.n_features_in_ == 10
    assert type(blocks.best_estimator_) is type(memory.best_estimator_)


def test_steps_get_the_names_of_columns(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    X, y = diabetes()
    X = pandas.DataFrame(X, columns=[f"x{j}" for j in range(10)])
    X.to_parquet(tmp_path / "X.parquet")
    by_name = ColumnTransformer([("a", Binarizer(), ["x0", "x3"])], remainder="passthrough")
    search = ShineCV(make_pipeline(by_name, Ridge()), tol=1e-3)
    blocks = ParquetBlocks(tmp_path / "X.parquet", block_bytes=4000)
    memory, files = both(search, X, blocks, y)
    np.testing.assert_allclose(files.best_score_, memory.best_score_, rtol=1e-6)
    np.testing.assert_allclose(files.predict(X), memory.predict(X), rtol=1e-3)
    assert list(files.feature_names_in_) == list(X.columns)


def test_a_step_that_looks_at_other_rows_is_refused():
    X, y = diabetes()
    centred = FunctionTransformer(lambda X: X - X.mean(axis=0))
    with pytest.raises(ValueError, match="something else of a row where others are beside it"):
        ShineCV(make_pipeline(centred, Ridge())).fit(Blocks(X, 100), y)
    fewer = FunctionTransformer(lambda X: X[:-1])
    with pytest.raises(ValueError, match="something else of a row"):
        ShineCV(make_pipeline(fewer, Ridge())).fit(Blocks(X, 100), y)


def test_a_step_that_raises_in_the_last_block():
    X, y = diabetes()
    X = X.copy()
    X[-1, 3] = np.nan
    with pytest.raises(RuntimeError, match="beyond row 400 of 442: Input X contains NaN"):
        ShineCV(make_pipeline(Normalizer(), Ridge())).fit(Blocks(X, 100), y)
    filled = make_pipeline(FunctionTransformer(np.nan_to_num), Ridge())
    memory, blocks = both(ShineCV(filled, tol=1e-3), X, Blocks(X, 100), y)
    np.testing.assert_allclose(blocks.best_score_, memory.best_score_, rtol=1e-6)


@pytest.mark.parametrize("last_good", [0, 1])
def test_first_rows_that_do_not_come(last_good):
    X, y = diabetes()

    def fail():
        raise OSError("the disk is on fire")

    class Broken(Failing):
        def row_blocks(self):
            self.times += 1
            if self.times > last_good:
                self._error()
            return Blocks.row_blocks(self)

    with pytest.raises(RuntimeError, match=r"beyond row 0.*: the disk is on fire"):
        ShineCV(make_pipeline(Normalizer(), Ridge())).fit(Broken(X, 100, fail), y)


# --- other libraries ----------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
def test_h5py(tmp_path):
    h5py = pytest.importorskip("h5py")
    X, y = breast_cancer()
    with h5py.File(tmp_path / "data.h5", "w") as file:
        stored = file.create_dataset("X", data=X, chunks=(50, 30))
        memory, files = both(ShineCV(LogisticRegression(), hypergradient="cg"), X, stored, y)
    assert_same(memory, files)
    assert files.history_[0]["bytes_read"] > 0


@pytest.mark.usefixtures("small_blocks")
def test_zarr(tmp_path):
    zarr = pytest.importorskip("zarr")
    X, y = breast_cancer()
    stored = zarr.open(str(tmp_path / "X.zarr"), mode="w", shape=X.shape, chunks=(50, 30))
    stored[:] = X
    memory, files = both(ShineCV(LogisticRegression(), hypergradient="cg"), X, stored, y)
    assert_same(memory, files)
    assert files.history_[0]["bytes_read"] > 0


def test_parquet(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    X, y = diabetes()
    names = [f"x{j}" for j in range(10)]
    table = pa.table({"y": y, **dict(zip(names, X.T, strict=True)), "text": ["a"] * len(y)})
    for i, rows in enumerate((slice(0, 300), slice(300, None))):
        part = table.take(np.arange(len(y))[rows])
        parquet.write_table(part, tmp_path / f"{i}.parquet", row_group_size=70)
    blocks = ParquetBlocks(tmp_path, names, block_bytes=4000)
    memory, files = both(ShineCV(Ridge()), X, blocks, y)
    assert_same(memory, files)
    assert list(files.feature_names_in_) == names
    with pytest.raises(ValueError, match="column 'text' is of string, not of numbers"):
        ParquetBlocks(tmp_path)
    with pytest.raises(ValueError, match="columns has 'x10', which is no column"):
        ParquetBlocks([tmp_path / "0.parquet"], ["x10"])


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"hoag-shine\[pyarrow\]"):
        ParquetBlocks(tmp_path / "X.parquet")


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
def test_a_number_in_the_last_block_that_is_none(bad, kind):
    X, y = breast_cancer()
    X = X.copy()
    X[-1, 3] = bad
    messages = []
    for data in (kind(X), Blocks(kind(X), 100)):
        with pytest.raises(ValueError, match="X contains") as error:
            ShineCV(LogisticRegression()).fit(data, y)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_indices_that_point_elsewhere_in_any_pass():
    X, y = breast_cancer()

    class Changing(Counted):
        def row_blocks(self):
            for block in super().row_blocks():
                if self.times > 5:
                    block.indices[0] = 30
                yield block

    with pytest.raises(ValueError, match="indices from 0 to 30: they must be from 0 to 29"):
        ShineCV(LogisticRegression()).fit(Changing(sparse.csr_array(X), 300), y)


@pytest.mark.parametrize("kind", ["C", "F", "part of a map"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_file_that_is_cut(tmp_path, kind, when):
    X, y = breast_cancer()
    if kind == "part of a map":
        stored = mapped(tmp_path, np.hstack([X, X]))[:, 30:]
    else:
        stored = mapped(tmp_path, X, kind)

    def cut(*_):
        os.truncate(tmp_path / "X", X.nbytes // 3)

    if when == "before":
        cut()
    search = ShineCV(LogisticRegression(), callback=cut)
    with pytest.raises(RuntimeError, match=r"X could not be read beyond row .*it has been cut"):
        search.fit(ArrayBlocks(stored, block_bytes=10_000), y)
    assert not hasattr(search, "best_index_")


class Failing(Counted):
    """Blocks that raise, or do something else, in the middle of a pass."""

    def __init__(self, X, size, error, last_good=1):
        super().__init__(X, size)
        self._error, self._last_good = error, last_good

    def row_blocks(self):
        for i, block in enumerate(super().row_blocks()):
            if self.times > self._last_good and i == 3:
                self._error()
            yield block


@pytest.mark.parametrize("last_good", [0, 1, 10])
def test_blocks_that_raise(last_good):
    X, y = breast_cancer()

    def fail():
        raise OSError("the disk is on fire")

    n_threads = threading.active_count()
    match = "X could not be read beyond row 300 of 569: the disk is on fire"
    with pytest.raises(RuntimeError, match=match):
        ShineCV(LogisticRegression()).fit(Failing(X, 100, fail, last_good), y)
    assert threading.active_count() == n_threads


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((600, 30), "X ended after 569 of 600 rows"),
        ((500, 30), "X has 500 rows by its shape, but row_blocks\\(\\) gives more"),
        ((569, 31), "X has 31 columns by its shape, but the block that begins at row 0 is of"),
    ],
)
def test_blocks_that_are_not_what_they_promise(shape, match):
    X, _ = breast_cancer()
    blocks = Blocks(X, 100)
    blocks.shape = shape
    with pytest.raises(RuntimeError, match=match):
        ShineCV(LogisticRegression()).fit(blocks, np.arange(shape[0]) % 2)


@pytest.mark.skipif(os.name != "posix", reason="a signal to oneself is POSIX")
def test_ctrl_c_within_a_pass_keeps_the_best():
    X, y = breast_cancer()
    blocks = Failing(X, 100, lambda: os.kill(os.getpid(), signal.SIGINT), last_good=10**9)

    def interrupt_the_next_pass(record):
        if record["iteration"] == 2:
            blocks._last_good = blocks.times

    search = ShineCV(LogisticRegression(), callback=interrupt_the_next_pass, refit=False)
    with pytest.warns(ConvergenceWarning, match="interrupt"):
        search.fit(blocks, y)
    assert search.outcome_ is Outcome.INTERRUPTED
    assert search.n_iter_ == 3
    assert search.best_params_ == search.history_[search.best_index_]["params"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scoring": "accuracy"}, "scoring='accuracy' needs rows of X .* or 'neg_log_loss'"),
        ({"return_train_score": True}, "return_train_score=True would read X once more"),
        (
            {"estimator": make_pipeline(StandardScaler(), LogisticRegression())},
            "a pipeline's step StandardScaler would have to see all",
        ),
        (
            {"estimator": make_pipeline(make_union(StandardScaler()), LogisticRegression())},
            "a pipeline's step StandardScaler",
        ),
    ],
)
def test_what_needs_more_than_blocks_is_refused_before_anything_is_read(options, match):
    X, y = breast_cancer()
    blocks = Counted(X, 100)
    search = ShineCV(**({"estimator": LogisticRegression()} | options))
    with pytest.raises(ValueError, match=match):
        search.fit(blocks, y)
    assert blocks.times == 0


def test_the_criterion_by_its_name():
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), scoring="neg_log_loss", max_iter=1, refit=False)
    with pytest.warns(ConvergenceWarning):
        search.fit(Blocks(X, 300), y)
    assert search.best_score_ == -search.history_[0]["criterion"]


def test_splitters_cannot_look_at_rows():
    X, y = breast_cancer()

    class Curious(StratifiedKFold):
        def split(self, X, y, groups=None):
            return super().split(X[::1], y)

    with pytest.raises(TypeError, match="a splitter that looks at y or groups alone"):
        ShineCV(LogisticRegression(), cv=Curious()).fit(Blocks(X, 100), y)
    search = ShineCV(LogisticRegression(), cv=GroupKFold(3), max_iter=1, refit=False)
    with pytest.warns(ConvergenceWarning):
        search.fit(Blocks(X, 100), y, groups=np.arange(569) % 7)
    assert search.n_splits_ == 3


# --- memory -------------------------------------------------------------------------------------

GROWTH = """
import pathlib, sys
import numpy as np
from sklearn.linear_model import LogisticRegression
from hoag_shine import ArrayBlocks, ShineCV

def used():  # KiB; getrusage would count what the parent had
    words = pathlib.Path("/proc/self/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1])

search = ShineCV(LogisticRegression(), cv=2, max_iter=1, refit=False)
X = np.memmap(sys.argv[1], np.float64, "r", shape=(60_000, 100))
y = np.arange(len(X)) % 3 == 0
import warnings
warnings.simplefilter("ignore")
search.fit(ArrayBlocks(np.array(X[:5000]), block_bytes=1 << 21), y[:5000])
before = used()
search.fit(ArrayBlocks(X, block_bytes=1 << 21), y)
print(used() - before, sum(r["bytes_read"] for r in search.history_))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is that of Linux")
def test_memory_is_that_of_some_blocks_and_vectors(tmp_path):
    path = tmp_path / "X"
    np.random.default_rng(0).random((60_000, 100)).tofile(path)
    grown, n_bytes = map(int, in_a_process(GROWTH, str(path)))
    size = path.stat().st_size
    assert n_bytes > 5 * size
    # Four blocks of 2 MiB, and a dozen arrays over rows and folds.
    assert grown * 1024 < 4 * (1 << 21) + 12 * 8 * 60_000 * 2 < size / 2


# --- reading ahead ------------------------------------------------------------------------------


def test_the_next_item_is_made_while_the_last_is_used():
    made = []

    def make():
        for i in range(4):
            made.append(i)
            yield i

    for i in ahead.ahead(make):
        end = time.monotonic() + 10.0
        while len(made) < min(i + 2, 4) and time.monotonic() < end:
            time.sleep(0.001)
        assert len(made) >= min(i + 2, 4)
        assert len(made) <= i + 3  # this one, the next, and the one that the thread holds


def test_an_item_that_does_not_come(monkeypatch):
    monkeypatch.setattr(ahead, "MAX_SECONDS_FOR_ITEM", 0.2)
    monkeypatch.setattr(ahead, "SECONDS_FOR_LEAVING", 0.1)
    end = threading.Event()

    def make():
        yield 1
        end.wait(10.0)

    items = ahead.ahead(make)
    assert next(items) == 1
    with pytest.raises(TimeoutError, match="nothing came"):
        next(items)
    end.set()
