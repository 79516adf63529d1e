"""Data sets by name."""

import bz2
import gzip
import subprocess
import sys
import warnings
from itertools import islice

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import dump_svmlight_file, load_breast_cancer

from hoag_shine.cli import main
from hoag_shine.datasets import data_home, holdout_split, load_dataset, load_svmlight

needs_data = pytest.mark.skipif(
    data_home() is None or not data_home().is_dir(),
    reason="no data folder (set HOAG_SHINE_DATA)",
)

SMALL = b"1 1:0.5 3:2\n-1 2:1\n"
SMALL_X, SMALL_Y = [[0.5, 0.0, 2.0], [0.0, 1.0, 0.0]], [1.0, -1.0]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOAG_SHINE_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".svm", bytes), (".svm.gz", gzip.compress), (".svm.bz2", bz2.compress)],
)
def test_svmlight_files_plain_and_compressed(tmp_path, suffix, compress):
    path = tmp_path / f"small{suffix}"
    path.write_bytes(compress(SMALL))
    for name in (path, str(path)):
        X, y = load_dataset(name)
        assert X.format == "csr"
        np.testing.assert_array_equal(X.toarray(), SMALL_X)
        np.testing.assert_array_equal(y, SMALL_Y)


@pytest.mark.parametrize("zero_based", [True, False])
def test_columns_are_counted_from_0_or_1_as_the_file_does(tmp_path, zero_based):
    X, y = load_breast_cancer(return_X_y=True)
    path = tmp_path / "breast_cancer.svm"
    dump_svmlight_file(X, y, str(path), zero_based=zero_based)
    loaded, target, found = load_svmlight(path)
    assert found is zero_based
    np.testing.assert_allclose(loaded.toarray(), X, rtol=1e-12)
    np.testing.assert_array_equal(target, y)


def test_a_file_without_its_first_column_is_read_as_it_is_told_to(tmp_path):
    path = tmp_path / "second_column.svm"
    path.write_bytes(b"1 2:5\n")
    np.testing.assert_array_equal(load_svmlight(path, zero_based=True)[0].toarray(), [[0, 0, 5]])
    np.testing.assert_array_equal(load_svmlight(path, zero_based=False)[0].toarray(), [[0, 5]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"1 a:2\n", "not an svmlight file"),
        (b"x,y\n1,2\n", "not an svmlight file"),
        (b"\x00\xff\xfe", "not an svmlight file"),
    ],
)
def test_bad_svmlight_files(tmp_path, content, message):
    path = tmp_path / "bad.svm"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.svm.*{message}"):
        load_dataset(path)


def test_a_column_0_against_the_caller(tmp_path):
    path = tmp_path / "zero.svm"
    path.write_bytes(b"1 0:2\n")
    with pytest.raises(ValueError, match="column 0"):
        load_svmlight(path, zero_based=False)


def test_truncated_gzip(tmp_path):
    path = tmp_path / "truncated.gz"
    path.write_bytes(gzip.compress(SMALL * 1000)[:-20])
    with pytest.raises(ValueError, match="not an svmlight file"):
        load_dataset(path)


def flipped(content):
    """Yield the content with one bit of each byte changed in turn."""
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << (position * 7919 % 8)
        yield bytes(changed)


def raw(X):
    X = sparse.csr_matrix(X)
    return X.shape, X.data.tobytes(), X.indices.tolist(), X.indptr.tolist()


def test_no_damage_to_a_compressed_file_goes_unseen(tmp_path):
    """Both formats have checksums; what they leave out, as the time of writing, does not matter."""
    lines = "".join(f"{i % 2} 1:{i / 7} {i + 2}:{i * 1e-3}\n" for i in range(60)).encode()
    for suffix, content in ((".gz", gzip.compress(lines, mtime=0)), (".bz2", bz2.compress(lines))):
        path = tmp_path / f"data{suffix}"
        path.write_bytes(content)
        X, y = load_dataset(path)
        assert X.shape == (60, 61)
        n_found = 0
        damaged = [*flipped(content), *(content[:length] for length in range(1, len(content), 7))]
        for changed in damaged:
            path.write_bytes(changed)
            try:
                found, target = load_dataset(path)
            except ValueError:
                n_found += 1
            else:
                assert raw(found) == raw(X)
                np.testing.assert_array_equal(target, y)
        assert n_found > 0.9 * len(damaged)


def test_damage_to_a_plain_file_ends_in_a_matrix_or_in_a_sentence(tmp_path):
    path = tmp_path / "small.svm"
    for changed in flipped(SMALL * 20):
        path.write_bytes(changed)
        try:
            X, y = load_dataset(path)
        except ValueError as error:
            assert "small.svm" in str(error)  # noqa: PT017
        else:
            X.check_format(full_check=True)
            assert X.shape[0] == y.size


@pytest.mark.parametrize(
    "column", [1 << 28, 300_000_000, 2_000_000_000, 2_147_483_647, 4_000_000_000, 10**11, 10**30]
)
def test_columns_that_no_memory_has_room_for(tmp_path, column, capsys):
    path = tmp_path / "wide.svm"
    path.write_text(f"1 1:1 {column}:1\n-1 1:2\n")
    with pytest.raises(ValueError, match=r"wide\.svm' is not an svmlight file: .*(column|large)"):
        load_dataset(path)
    assert main(["tune", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_last_column_there_may_be(tmp_path):
    path = tmp_path / "wide.svm"
    path.write_text(f"1 1:1 {(1 << 28) - 1}:1\n")
    assert load_svmlight(path, zero_based=True)[0].shape == (1, 1 << 28)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a bound on memory")
def test_a_line_without_an_end_is_refused_in_little_memory(tmp_path):
    with (tmp_path / "endless.svm").open("wb") as file:
        file.truncate(8 << 30)  # zeros that take no room on the disk
    code = f"""
import resource
from hoag_shine.cli import main
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(main(["tune", {str(tmp_path / "endless.svm")!r}]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) >> 10)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    code, megabytes = map(int, answer.stdout.split())
    assert code == 2
    assert "a line has more than 67,108,864 bytes" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert megabytes < 500


@pytest.mark.parametrize("kind", ["csr", "csc", "csr_entries"])
def test_matrices_whose_indices_point_outside(home, kind):
    (home / "libsvm").mkdir()
    path = home / "libsvm" / "own_X.npz"
    np.save(home / "libsvm" / "own_y.npy", SMALL_Y)
    content = {"data": [1.0, 2.0], "indices": [0, 10**6], "indptr": [0, 1, 2], "shape": [2, 2]}
    if kind == "csr_entries":
        content |= {"indices": [0, 1], "indptr": [0, 1, 10**6]}
    np.savez(path, format=kind[:3].encode(), **content)
    with pytest.raises(ValueError, match=r"own_X\.npz' is not a sparse matrix of SciPy: .*ind"):
        load_dataset("libsvm:own")


@pytest.mark.parametrize("name", ["tabular/own.npz", "libsvm/own_X.npz", "libsvm/own_y.npy"])
def test_no_damage_to_archives_goes_unseen(home, name):
    """Plain arrays have no checksum, so only their headers are damaged."""
    for folder in ("tabular", "libsvm"):
        (home / folder).mkdir()
    np.savez(home / "tabular" / "own.npz", X=SMALL_X, y=SMALL_Y)
    sparse.save_npz(home / "libsvm" / "own_X.npz", sparse.csr_matrix(SMALL_X))
    np.save(home / "libsvm" / "own_y.npy", SMALL_Y)
    source = name.replace("/", ":").partition(".")[0].partition("_")[0]
    X, y = load_dataset(source)
    path = home / name
    content = path.read_bytes()
    header = len(content) - 16 if name.endswith("npy") else len(content)
    for changed in islice(flipped(content[:header]), None, None, 3):
        path.write_bytes(changed + content[header:])
        try:
            with warnings.catch_warnings(action="ignore"):  # NumPy's, of headers
                found, target = load_dataset(source)
        except ValueError as error:
            assert path.name in str(error)  # noqa: PT017
        else:
            assert raw(found) == raw(X)
            assert (target == y).all()


def test_an_array_that_claims_to_be_huge(home):
    (home / "libsvm").mkdir()
    np.save(home / "libsvm" / "own_X.npy", SMALL_X)
    with (home / "libsvm" / "own_y.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ValueError, match=r"own_y\.npy' "):
        load_dataset("libsvm:own")


@pytest.mark.parametrize("zero_based", [2, "yes", None])
def test_zero_based_is_checked(tmp_path, zero_based):
    with pytest.raises(ValueError, match="zero_based must be True, False"):
        load_svmlight(tmp_path, zero_based=zero_based)


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"no file 'nowhere\.svm'"):
        load_dataset("nowhere.svm")


def test_unknown_names_are_answered_with_known_ones(home):
    with pytest.raises(ValueError, match="'libsvm:NAME', 'sklearn:NAME'"):
        load_dataset("kaggle:titanic")
    with pytest.raises(ValueError, match="did you mean breast_cancer"):
        load_dataset("sklearn:breast-cancer")
    with pytest.raises(ValueError, match=r"did you mean .*a9a"):
        load_dataset("libsvm:a9")
    with pytest.raises(ValueError, match="there is 20news, imdb, imdb_test"):
        load_dataset("text:xyz")
    with pytest.raises(ValueError, match=r"did you mean .*usps"):
        load_dataset("images:usp")


def test_missing_local_set_names_the_variable(home):
    with pytest.raises(FileNotFoundError, match="HOAG_SHINE_DATA"):
        load_dataset("tabular:cal_housing")
    with pytest.raises(FileNotFoundError, match="HOAG_SHINE_DATA"):
        load_dataset("text:20news")


def test_no_data_folder_at_all(monkeypatch):
    monkeypatch.setattr("hoag_shine.datasets.data_home", lambda: None)
    with pytest.raises(FileNotFoundError, match="HOAG_SHINE_DATA"):
        load_dataset("tabular:cal_housing")


def test_data_home_follows_the_variable_and_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOAG_SHINE_DATA", str(tmp_path / "named"))
    assert data_home() == tmp_path / "named"
    monkeypatch.delenv("HOAG_SHINE_DATA")
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "project" / "hoag_shine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    installed = tmp_path / "lib" / "site-packages" / "hoag_shine" / "datasets.py"
    monkeypatch.setattr("hoag_shine.datasets.__file__", str(installed))
    assert data_home() == tmp_path / "shared" / "data"
    monkeypatch.chdir(tmp_path)
    assert data_home() is None


@pytest.mark.parametrize("stored", [sparse.csc_matrix, sparse.csr_array, np.asarray])
def test_sets_in_the_layout_of_libsvmdata_need_neither_it_nor_a_network(home, stored):
    (home / "libsvm").mkdir()
    X = stored(SMALL_X)
    if sparse.issparse(X):
        sparse.save_npz(home / "libsvm" / "own_X.npz", X)
    else:
        np.save(home / "libsvm" / "own_X.npy", X)
    np.save(home / "libsvm" / "own_y.npy", SMALL_Y)
    loaded, y = load_dataset("libsvm:own")
    if sparse.issparse(X):
        assert loaded.format == "csr"
        loaded = loaded.toarray()
    np.testing.assert_array_equal(loaded, SMALL_X)
    np.testing.assert_array_equal(y, SMALL_Y)


def test_a_libsvm_set_without_its_target(home):
    (home / "libsvm").mkdir()
    np.save(home / "libsvm" / "own_X.npy", SMALL_X)
    with pytest.raises(FileNotFoundError, match=r"own_y\.npy"):
        load_dataset("libsvm:own")


def test_libsvmdata_is_asked_for_what_is_not_in_the_folder(home):
    """Its cache is put where it looks, so that no network is needed; it reads its variable once."""
    X, y = sparse.csc_matrix(SMALL_X), np.array(SMALL_Y)
    (home / "cache" / "libsvm").mkdir(parents=True)
    sparse.save_npz(home / "cache" / "libsvm" / "a1a_X.npz", X)
    np.save(home / "cache" / "libsvm" / "a1a_y.npy", y)
    code = (
        f"import os; os.environ['LIBSVMDATA_HOME'] = {str(home / 'cache')!r}\n"
        "from hoag_shine.datasets import load_dataset\n"
        "X, y = load_dataset('libsvm:a1a')\n"
        "print(X.format, X.toarray().tolist(), y.tolist())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert answer.strip() == f"csr {SMALL_X} {SMALL_Y}"


def test_failed_download_says_what_to_do(home, monkeypatch):
    def fail(name):
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr("libsvmdata.core.fetch_dataset", fail)
    with pytest.raises(OSError, match=r"HOAG_SHINE_DATA .*LIBSVMDATA_HOME .*no route to host"):
        load_dataset("libsvm:a9a")


def test_several_labels_a_row_are_refused(home, monkeypatch):
    labels = sparse.csr_matrix([[1, 1], [0, 1]])
    monkeypatch.setattr("libsvmdata.core.fetch_dataset", lambda name: (np.eye(2), labels))
    with pytest.raises(ValueError, match="several labels"):
        load_dataset("libsvm:yeast")


def test_pickled_arrays_are_not_loaded(home):
    (home / "tabular").mkdir()
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(home / "tabular" / "pickled.npz", X=objects, y=objects)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_dataset("tabular:pickled")


def test_a_table_without_target(home):
    (home / "tabular").mkdir()
    np.savez(home / "tabular" / "half.npz", X=np.eye(2))
    with pytest.raises(ValueError, match=r"half\.npz.*no array named y"):
        load_dataset("tabular:half")


@pytest.mark.parametrize(
    ("name", "shape", "n_classes"),
    [("breast_cancer", (569, 30), 2), ("digits", (1797, 64), 10), ("iris", (150, 4), 3)],
)
def test_bundled_sets(name, shape, n_classes):
    X, y = load_dataset(f"sklearn:{name}")
    assert X.shape == shape
    assert np.unique(y).size == n_classes


def test_holdout_split_has_the_sizes_of_the_papers_and_no_row_twice():
    development, test, cv = holdout_split(18_846, random_state=0)
    np.testing.assert_array_equal(np.sort(np.r_[development, test]), np.arange(18_846))
    ((train, held_out),) = cv.split()
    assert (len(train), len(held_out), len(test)) == (16_961, 942, 943)
    assert not set(train) & set(held_out)
    assert not np.array_equal(development, np.sort(development))
    again, _, _ = holdout_split(18_846, random_state=0)
    np.testing.assert_array_equal(development, again)
    other, _, _ = holdout_split(18_846, random_state=1)
    assert not np.array_equal(development, other)


def test_holdout_split_of_too_few_rows():
    with pytest.raises(ValueError, match="n_samples must be at least 20"):
        holdout_split(19)


@needs_data
def test_a9a():
    X, y = load_dataset("libsvm:a9a")
    assert (X.shape, X.format, X.nnz) == ((32_561, 123), "csr", 451_592)
    np.testing.assert_array_equal(np.unique(y), [-1, 1])


@needs_data
def test_a_set_that_libsvmdata_does_not_list():
    X, y = load_dataset("libsvm:svmguide3")
    assert X.shape[0] == y.size == 1243


@needs_data
def test_20news_is_the_papers_binary_task():
    X, y = load_dataset("text:20news")
    assert (X.shape, X.format, X.dtype) == ((18_846, 130_107), "csr", np.float64)
    np.testing.assert_allclose(np.sqrt(X.multiply(X).sum(axis=1)), 1.0, rtol=1e-12)
    # Documents of the last ten groups, hockey to religion, as published.
    sizes = [999, 991, 984, 990, 987, 997, 910, 940, 775, 628]
    assert y.sum() == sum(sizes)


@needs_data
def test_imdb_halves_share_the_document_frequencies_of_the_train_half():
    X, y = load_dataset("text:imdb")
    X_test, y_test = load_dataset("text:imdb_test")
    assert X.shape == X_test.shape == (25_000, 74_849)
    assert y.sum() == y_test.sum() == 12_500
    # In a unit row the entries of words that occur once are proportional to their idf, which
    # shows in the ratio of two such entries, whichever half the row is from.
    for half in (X, X_test):
        np.testing.assert_allclose(np.sqrt(half.multiply(half).sum(axis=1)), 1.0, rtol=1e-12)
    documents = np.bincount(X.indices, minlength=X.shape[1])
    idf = np.log((1 + 25_000) / (1 + documents)) + 1
    counts = sparse.load_npz(data_home() / "text" / "imdb_counts.npz").tocsr()[25_000]
    once = counts.indices[counts.data == 1]
    entries = X_test[0, once].toarray().ravel()
    np.testing.assert_allclose(entries / entries[0], idf[once] / idf[once[0]], rtol=1e-12)


@needs_data
@pytest.mark.parametrize(
    ("name", "shape"), [("cal_housing", (20_640, 8)), ("cpu_small", (8192, 12))]
)
def test_tables(name, shape):
    X, y = load_dataset(f"tabular:{name}")
    assert X.shape == shape
    assert y.shape == shape[:1]


def test_images_become_rows_of_pixels_between_0_and_1(home):
    (home / "images").mkdir()
    images = np.array([[[0, 255], [51, 102]], [[255, 0], [0, 0]]], dtype=np.uint8)
    np.savez(
        home / "images" / "usps.npz",
        X_train=images,
        y_train=np.array([7, 3], dtype=np.uint8),
        X_test=images[:1],
        y_test=np.array([7], dtype=np.uint8),
    )
    X, y = load_dataset("images:usps")
    np.testing.assert_allclose(X, [[0.0, 1.0, 0.2, 0.4], [1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(y, [7, 3])
    assert load_dataset("images:usps_test")[0].shape == (1, 4)


@needs_data
@pytest.mark.parametrize(
    ("name", "n_pixels", "n_train", "n_test", "sizes"),
    [
        ("usps", 256, 7291, 2007, [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]),
        (
            "mnist",
            784,
            60_000,
            10_000,
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        ),
    ],
)
def test_digits_are_those_that_were_published(name, n_pixels, n_train, n_test, sizes):
    X, y = load_dataset(f"images:{name}")
    assert X.shape == (n_train, n_pixels)
    assert (X.min(), X.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(np.bincount(y), sizes)
    assert load_dataset(f"images:{name}_test")[0].shape == (n_test, n_pixels)
