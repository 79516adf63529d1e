"""``hoag-shine tune --memory``: data that stay in their files."""

import bz2
import gzip
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import breast_cancer, diabetes, in_a_process
from scipy import sparse
from sklearn.datasets import dump_svmlight_file

from hoag_shine import ShineCV
from hoag_shine.cli import commands, main, stored
from hoag_shine.datasets import load_svmlight
from hoag_shine.linalg import row_blocks
from hoag_shine.persistence import load_model

MEMORY = ("--memory", "1TB")  # no limit is met


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Count as large what has more than 2 KiB, and read some rows at a time."""
    monkeypatch.setattr(row_blocks, "READ_BYTES", 512)
    monkeypatch.setattr(stored, "READ_BYTES", 20_000)


@pytest.fixture
def model(tmp_path):
    return tmp_path / "model.safetensors"


def sparse_rows():
    """Rows of breast cancer data of which the first half has no entries in the last columns."""
    X, y = breast_cancer()
    X = np.where(np.median(X, axis=0) < X, X, 0.0)
    X[:300, 20:] = 0.0
    return X, y


def svmlight(folder, name="train.svm", *, zero_based=False):
    path = folder / name
    X, y = sparse_rows()
    opened = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix, open)(path, "wb")
    with opened as file:
        dump_svmlight_file(X, y, file, zero_based=zero_based)
    return path


def tune(*arguments):
    """Tune to where the way does not matter; return the model that was saved and its notes."""
    options = ("--quiet", "--tol", "1e-3", "--hypergradient", "cg")
    assert main(["tune", *map(str, arguments), *options]) == 0
    return load_model(arguments[arguments.index("--save") + 1])


def assert_same(folder, *arguments):
    """Assert that a search is the same with and without --memory; return the models."""
    paths = [folder / "in_files", folder / "in_memory"]
    models = [tune(*arguments, *MEMORY, "--save", paths[0]), tune(*arguments, "--save", paths[1])]
    (files, notes), (memory, expected) = models
    np.testing.assert_allclose(notes.pop("best_score"), expected.pop("best_score"), rtol=1e-6)
    found = [note.pop("best_params") for note in (notes, expected)]
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], rtol=1e-3)
    assert notes == expected
    coef = memory.coef_
    np.testing.assert_allclose(files.coef_, coef, atol=1e-3 * np.abs(coef).max())
    return files, memory


def conversions(folder):
    return [path.name for path in folder.iterdir() if ".csr" in path.name]


# --- the same results ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.svm", "train.svm.gz", "train.svm.bz2"])
def test_svmlight_is_converted_once(name, tmp_path, model, capsys):
    path = svmlight(tmp_path, name)
    assert_same(tmp_path, path)
    (folder,) = conversions(tmp_path)
    inode = (tmp_path / folder).stat().st_ino
    capsys.readouterr()
    assert main(["tune", str(path), *MEMORY, "--save", str(model)]) == 0
    out, err = capsys.readouterr()
    assert "converting" not in err
    assert re.search(r"passes over the data, [\d.]+ [MG]B read, ", out)
    assert "(sparse)" in out
    assert (tmp_path / folder).stat().st_ino == inode


@pytest.mark.parametrize("zero_based", [False, True])
def test_the_conversion_is_the_file(zero_based, tmp_path):
    path = svmlight(tmp_path, zero_based=zero_based)
    X, y, _ = load_svmlight(path)
    X, told = X.toarray(), []
    blocks, labels, found = stored.stored_svmlight(path, told.append)
    assert found is zero_based
    rows = list(blocks.row_blocks())
    np.testing.assert_array_equal(sparse.vstack(rows).toarray(), X)
    np.testing.assert_array_equal(labels, y)
    assert "converting" in told[0]
    (folder,) = tmp_path.glob("*.csr")
    arrays = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("data", "indices"))
    indptr = np.load(folder / "indptr.npy")
    np.testing.assert_array_equal(sparse.csr_array((*arrays, indptr), X.shape).toarray(), X)


def test_standardized_columns_of_svmlight(tmp_path):
    assert_same(tmp_path, svmlight(tmp_path), "--standardize")


@pytest.mark.parametrize("options", [(), ("--standardize",)])
def test_arrays(options, tmp_path):
    X, y = diabetes()
    np.save(tmp_path / "X.npy", X * np.arange(1, 11))
    np.save(tmp_path / "y.npy", y)
    arguments = (tmp_path / "X.npy", "--target", tmp_path / "y.npy", *options)
    files, _ = assert_same(tmp_path, *arguments)
    assert main(["predict", str(tmp_path / "in_files"), str(tmp_path / "X.npy")]) == 0
    assert files.n_features_in_ == 10


def test_arrays_with_text_labels(tmp_path):
    X, y = breast_cancer()
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", np.array(["no", "yes"])[y])
    files, _ = assert_same(tmp_path, tmp_path / "X.npy", "--target", tmp_path / "y.npy")
    assert files.classes_.tolist() == ["no", "yes"]


def table(X, y):
    """Return a data frame with numbers, truth values and text, each with values missing."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    n = len(y)
    frame = pandas.DataFrame(X[:, :4], columns=list("abcd"))
    frame.loc[::7, "b"] = np.nan
    frame["town"] = np.array(["Ulm", "Bonn", None, "Aue"], dtype=object)[np.arange(n) % 4]
    truth = np.array([True, False, True], dtype=object)[np.arange(n) % 3]
    truth[n - 20 :] = None  # missing in the last batch alone
    frame["old"] = truth
    frame["count"] = pandas.array(np.arange(n) % 5, dtype="Int64")
    frame.loc[frame.index[-3:], "count"] = None
    frame["price"] = y
    frame["group"] = np.arange(n) % 50
    return frame


@pytest.mark.parametrize("options", [(), ("--groups", "group"), ("--standardize",)])
def test_parquet(options, tmp_path):
    frame = table(*diabetes())
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=100)
    files, _ = assert_same(tmp_path, tmp_path / "t.parquet", "--target", "price", *options)
    assert main(["predict", str(tmp_path / "in_files"), str(tmp_path / "t.parquet")]) == 0
    # a to d, count, old, and three towns and their absence
    assert files.n_features_in_ == 10 + ("--groups" not in options)


def test_parquet_with_an_index_of_pandas(tmp_path):
    frame = table(*diabetes()).drop(columns="town")
    frame.index = np.arange(len(frame)) + 7.5
    frame.to_parquet(tmp_path / "t.parquet")
    files, _ = assert_same(tmp_path, tmp_path / "t.parquet", "--target", "price")
    assert files.n_features_in_ == 7


# --- the limit ----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="Linux keeps limits")
def test_a_limit_that_the_program_does_not_fit_into(tmp_path, capsys):
    path = svmlight(tmp_path)
    assert main(["tune", str(path), "--memory", "10MB"]) == 2
    assert "--memory must be at least" in capsys.readouterr().err
    assert conversions(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="Linux keeps limits")
def test_what_needs_more_memory_than_allowed_ends_in_a_sentence(tmp_path):
    import resource

    words = Path("/proc/self/status").read_text(encoding="ascii").split()
    used = 1024 * int(words[words.index("VmData:") + 1])  # by the tests before this one, too
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with stored.limited(used + 2_000_000_000), pytest.raises(MemoryError):
        np.ones(300_000_000)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize("text", ["2", "GB", "-1GB", "2 apples", "1e3GB"])
def test_sizes_that_are_none(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["tune", "x", f"--memory={text}"])
    assert "such as 500MB, 2GB or 1.5GiB" in capsys.readouterr().err


def test_sizes():
    assert stored.memory_size("2GB") == 2_000_000_000
    assert stored.memory_size("1.5 gib") == 3 << 29


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("-", "'-' is none"),
        ("sklearn:wine", "'sklearn:wine' is none"),
        ("t.csv", "'t.csv' is none"),
        ("nowhere.svm", "'nowhere.svm' is none"),
    ],
)
def test_data_that_cannot_stay_in_a_file(data, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    assert main(["tune", data, *MEMORY]) == 2
    assert message in capsys.readouterr().err


# --- faults -------------------------------------------------------------------------------------


def said(capsys, *arguments, code=2):
    """Run tune, and return its last line on standard error."""
    assert main(["tune", *map(str, arguments)]) == code
    return capsys.readouterr().err.splitlines()[-1]


def test_a_source_that_has_changed_is_converted_again(tmp_path, capsys):
    path = svmlight(tmp_path)
    first, _, _ = stored.stored_svmlight(path, print)
    (before,) = conversions(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[100:]))
    told = []
    second, _, _ = stored.stored_svmlight(path, told.append)
    assert (first.shape[0], second.shape[0]) == (569, 469)
    (after,) = conversions(tmp_path)  # the old one is gone
    assert before != after
    assert len(told) == 1
    # As many bytes, and another time.
    os.utime(path, ns=(1, 1))
    stored.stored_svmlight(path, told.append)
    assert len(told) == 2


def test_an_old_conversion_that_is_still_read_ends_the_search(tmp_path, capsys, monkeypatch):
    path = svmlight(tmp_path)

    def replace(self, record):
        os.utime(path, ns=(1, 1))
        stored.stored_svmlight(path, lambda _: None)

    monkeypatch.setattr(commands._Progress, "__call__", replace)
    assert "X could not be read beyond row 0" in said(capsys, path, *MEMORY)


@pytest.mark.parametrize("part", ["data.npy", "y.npy", "facts.json"])
def test_a_conversion_that_has_been_cut_is_made_again(part, tmp_path):
    path = svmlight(tmp_path)
    stored.stored_svmlight(path, print)
    (folder,) = tmp_path.glob("*.csr")
    os.truncate(folder / part, (folder / part).stat().st_size // 2)
    told = []
    X, y, _ = stored.stored_svmlight(path, told.append)
    assert len(told) == 1
    expected, labels, _ = load_svmlight(path)
    rows = sparse.vstack(list(X.row_blocks()))
    np.testing.assert_array_equal(rows.toarray(), expected.toarray())
    np.testing.assert_array_equal(y, labels)


def test_a_conversion_that_is_cut_while_it_is_read(tmp_path, capsys, monkeypatch):
    path = svmlight(tmp_path)

    def cut(self, record):
        (folder,) = tmp_path.glob("*.csr")
        os.truncate(folder / "data.npy", 1000)

    monkeypatch.setattr(commands._Progress, "__call__", cut)
    assert "it has been cut" in said(capsys, path, *MEMORY)


def test_an_array_that_has_been_cut(tmp_path, capsys):
    X, y = diabetes()
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    os.truncate(tmp_path / "X.npy", 10_000)
    message = said(capsys, tmp_path / "X.npy", "--target", tmp_path / "y.npy", *MEMORY)
    assert "is not an array of NumPy" in message


def test_parquet_that_has_been_cut(tmp_path, capsys, monkeypatch):
    path = tmp_path / "t.parquet"
    table(*diabetes()).to_parquet(path, row_group_size=50)

    def cut(self, record):
        os.truncate(path, path.stat().st_size // 2)

    monkeypatch.setattr(commands._Progress, "__call__", cut)
    arguments = (path, "--target", "price", *MEMORY, "--estimator", "huber")
    assert "X could not be read beyond row 0" in said(capsys, *arguments)
    assert "is not a Parquet file" in said(capsys, *arguments)


@pytest.mark.parametrize("damage", ["line", "gzip", "empty", "labels"])
def test_a_source_that_is_damaged_leaves_nothing(damage, tmp_path, capsys):
    path = svmlight(tmp_path, "train.svm.gz" if damage == "gzip" else "train.svm")
    if damage == "line":
        path.write_bytes(path.read_bytes() + b"1 what:ever\n")
    elif damage == "gzip":
        os.truncate(path, path.stat().st_size - 1000)
    else:
        path.write_text("" if damage == "empty" else "1\n0\n")
    message = said(capsys, path, *MEMORY)
    whole = damage in ("empty", "labels")
    assert ("has no rows, or no columns" if whole else "is not an svmlight file") in message
    assert conversions(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="limits on files are POSIX")
def test_a_disk_that_is_full_leaves_nothing(tmp_path, capsys):
    """A limit on the size of files stands for it: the system refuses to write more."""
    import resource

    path = svmlight(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        message = said(capsys, path, *MEMORY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "could not be converted in the folder" in message
    assert "12 bytes for each number: File too large" in message
    assert conversions(tmp_path) == []


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="the superuser writes everywhere"
)
def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    path = svmlight(tmp_path)
    tmp_path.chmod(0o500)
    try:
        assert "could not be converted in the folder" in said(capsys, path, *MEMORY)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="a signal to oneself is POSIX")
def test_an_interrupt_in_the_middle_of_a_conversion_leaves_nothing(tmp_path, capsys, monkeypatch):
    path, seen = svmlight(tmp_path), []

    def blocks(*arguments):
        for i, block in enumerate(stored_blocks(*arguments)):
            if i == 2:
                seen.extend(conversions(tmp_path))
                os.kill(os.getpid(), signal.SIGINT)
            yield block

    stored_blocks = stored.svmlight_blocks
    monkeypatch.setattr(stored, "svmlight_blocks", blocks)
    assert said(capsys, path, *MEMORY, code=130) == "hoag-shine: interrupted"
    assert ".partial-" in seen[0]
    assert conversions(tmp_path) == []


def test_a_source_that_changes_while_it_is_converted(tmp_path, capsys, monkeypatch):
    path = svmlight(tmp_path)

    def blocks(*arguments):
        yield from stored_blocks(*arguments)
        with path.open("a") as file:
            file.write("1 1:1\n")

    stored_blocks = stored.svmlight_blocks
    monkeypatch.setattr(stored, "svmlight_blocks", blocks)
    assert "has changed while it was converted" in said(capsys, path, *MEMORY)
    assert conversions(tmp_path) == []


@pytest.mark.parametrize("age", [0.0, 7200.0])
def test_what_a_killed_conversion_left_is_removed_later(age, tmp_path):
    path = svmlight(tmp_path)
    left = tmp_path / "train.svm.1f-2e.csr.partial-1"
    left.mkdir()
    (left / "data.npy").write_bytes(b"1")
    for one in (left / "data.npy", left):
        os.utime(one, (time.time() - age,) * 2)
    others = tmp_path / "train.svm.my.csr"
    others.mkdir()
    stored.stored_svmlight(path, print)
    assert left.exists() == (age == 0.0)  # another process may be writing it
    assert others.exists()


def test_two_conversions_at_once(tmp_path):
    path, found = svmlight(tmp_path), []
    threads = [
        threading.Thread(target=lambda: found.append(stored.stored_svmlight(path, print)))
        for _ in range(2)
    ]
    real = os.getpid
    pids = iter([real(), real() + 1])
    stored.os.getpid = lambda: next(pids, real())
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stored.os.getpid = real
    assert len(found) == 2
    assert len(conversions(tmp_path)) == 1


def test_a_search_is_that_of_shine_cv(tmp_path, model):
    X, y = sparse_rows()
    cv = commands.StratifiedKFold(5, shuffle=True, random_state=0)
    search = ShineCV(commands.LogisticRegression(), cv=cv, tol=1e-3).fit(X, y)
    _, notes = tune(svmlight(tmp_path), *MEMORY, "--save", model)
    np.testing.assert_allclose(notes["best_score"], search.best_score_, rtol=1e-6)


# --- in little memory ---------------------------------------------------------------------------

USED = """
import pathlib, sys

def used():  # KiB; getrusage would count what the parent had
    words = pathlib.Path("/proc/self/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1])
"""
CONVERT = """
from hoag_shine.cli import stored
from hoag_shine.linalg import row_blocks

stored.READ_BYTES = row_blocks.READ_BYTES = 1 << 20
few, all = map(pathlib.Path, sys.argv[1:])
stored.stored_svmlight(few, print)
before = used()
X, _, _ = stored.stored_svmlight(all, lambda _: None)
print(used() - before, X.shape[0])
"""
TUNE = """
from hoag_shine.cli import main

X, y = sys.argv[1:]
code = main(["tune", X, "--target", y, "--memory", "650MB", "--quiet", "--max-iter", "1"])
print(code, used())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is that of Linux")
def test_a_conversion_takes_the_memory_of_some_blocks(tmp_path):
    lines = svmlight(tmp_path).read_bytes()
    (tmp_path / "few.svm").write_bytes(lines * 20)
    (tmp_path / "all.svm").write_bytes(lines * 200)
    names = (str(tmp_path / f"{name}.svm") for name in ("few", "all"))
    grown, n_rows = in_a_process(USED + CONVERT, *names)[-2:]
    assert int(n_rows) == 569 * 200
    assert int(grown) < 8192 < (tmp_path / "all.svm").stat().st_size / 1024 / 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is that of Linux")
def test_more_than_fits_is_tuned(tmp_path):
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float64, (500_000, 80))
    rng = np.random.default_rng(0)
    for first in range(0, len(X), 50_000):
        X[first : first + 50_000] = rng.random((50_000, 80))
    np.save(tmp_path / "y.npy", X[:, 0] + rng.random(len(X)) > 1.0)
    X.flush()
    code, peak = in_a_process(USED + TUNE, str(tmp_path / "X.npy"), str(tmp_path / "y.npy"))[-2:]
    assert int(code) == 0
    assert int(peak) * 1024 < 650_000_000 < X.nbytes * 2.1
