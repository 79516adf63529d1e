"""Data sets by name: svmlight files, LIBSVM's collection, scikit-learn's, and local real data."""

from __future__ import annotations

import bz2
import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn import datasets as sklearn_datasets
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.model_selection import PredefinedSplit
from sklearn.preprocessing import normalize
from sklearn.utils import check_random_state

from .utils.files import reading

Matrix: TypeAlias = "NDArray[Any] | sparse.csr_matrix[Any]"
Data: TypeAlias = tuple[Matrix, NDArray[Any]]

DATA_VARIABLE = "HOAG_SHINE_DATA"
BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
# Most bytes of a line of an svmlight file; a longer one is not a row but damage.
# Why: by judgement: 64 MiB hold some millions of entries.
MAX_LINE_BYTES = 1 << 26
# Most columns of an svmlight file; a larger number is not a column but damage.
# Why: a coefficient for each would take 2 GiB.
MAX_COLUMNS = 1 << 28
BOM = b"\xef\xbb\xbf"  # some editors write it at the start of a text
IMAGES = ("mnist", "mnist_test", "usps", "usps_test")


def load_dataset(name: str | os.PathLike[str]) -> Data:
    """Load a data set by its name or path.

    Parameters
    ----------
    name : str or path-like
        One of

        - the path of an svmlight/libsvm file, also compressed (``.gz``, ``.bz2``);
        - ``"libsvm:NAME"``: a set that libsvmdata knows, for instance ``"libsvm:a9a"``. It is read
          from ``libsvm/`` in :func:`data_home` if it is there, and otherwise downloaded to
          libsvmdata's own cache (environment variable ``LIBSVMDATA_HOME``). Sets that libsvmdata
          does not list are loaded if they lie in that folder in its layout, ``NAME_X.npz`` or
          ``NAME_X.npy`` beside ``NAME_y.npy``;
        - ``"sklearn:NAME"``: a set that comes with scikit-learn: ``breast_cancer``, ``diabetes``,
          ``digits``, ``iris`` or ``wine``;
        - ``"tabular:NAME"``: ``tabular/NAME.npz`` in :func:`data_home`, with ``X`` and ``y``;
        - ``"text:20news"``: the 20 newsgroups, all 18,846 documents, word counts normalised to
          unit rows; the target is 1 for the last ten classes. HOAG's and SHINE's *20news*;
        - ``"text:imdb"`` and ``"text:imdb_test"``: the train and the test half of the film reviews
          (25,000 each), TF-IDF with sublinear term frequencies and the document frequencies of
          the train half; the target is 1 for positive reviews;
        - ``"images:mnist"`` and ``"images:usps"``: handwritten digits, a row of pixels between 0
          and 1 for each image of the official train half; ``"images:mnist_test"`` and
          ``"images:usps_test"`` for the test half. The target is the digit.

    Returns
    -------
    X : ndarray or CSR matrix of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,)
        Labels or targets as the source has them.

    Raises
    ------
    ValueError
        If the name is not known, or a file is not what its name says.
    OSError
        If a file is missing or cannot be read, or a download fails.

    Examples
    --------
    >>> from hoag_shine.datasets import load_dataset
    >>> X, y = load_dataset("sklearn:breast_cancer")
    >>> X.shape
    (569, 30)
    """
    source, separator, rest = os.fspath(name).partition(":")
    if separator and source in _LOADERS:
        return _LOADERS[source](rest)
    if separator and not Path(name).exists():
        known = ", ".join(f"'{source}:NAME'" for source in _LOADERS)
        raise ValueError(
            f"Data set {os.fspath(name)!r} is not known: give the path of an svmlight file or one "
            f"of {known}."
        )
    X, y, _ = load_svmlight(name)
    return X, y


def data_home() -> Path | None:
    """Return the folder of the real data sets that are neither bundled nor downloaded.

    Returns
    -------
    folder : Path or None
        The folder named by the environment variable ``HOAG_SHINE_DATA``; if it is not set,
        ``../shared/data`` beside the source checkout or the current directory, and None where
        neither exists.
    """
    named = os.environ.get(DATA_VARIABLE)
    if named:
        return Path(named).expanduser()
    for neighbour in (Path(__file__).resolve().parents[1], Path.cwd()):
        folder = neighbour.parent / "shared" / "data"
        if folder.is_dir():
            return folder
    return None


def load_svmlight(
    path: str | os.PathLike[str] | IO[bytes], *, zero_based: bool | Literal["auto"] = "auto"
) -> tuple[sparse.csr_matrix[Any], NDArray[np.float64], bool]:
    """Load an svmlight/libsvm file and return the number of its first column, too.

    Another file of the same columns must be read with the same first number, even if its first
    column is empty.

    Parameters
    ----------
    path : str, path-like or file
        Plain, ``.gz`` or ``.bz2``; a file is one that is open for reading bytes.
    zero_based : bool or "auto", default="auto"
        Whether the first column is 0 rather than 1; ``"auto"``: if a column 0 occurs.

    Returns
    -------
    X : CSR matrix of shape (n_samples, n_features), float64
        It ends with the last column that occurs in the file.
    y : ndarray of shape (n_samples,), float64
    zero_based : bool

    Raises
    ------
    ValueError
        If the file has no rows, or rows that are not svmlight's, or a column 0 against
        ``zero_based=False``; if it is compressed and damaged; or if a line is longer than 64 MiB or
        a column's number not below 2 ** 28.
    OSError
        If the file cannot be opened.
    """
    if zero_based not in (True, False, "auto"):
        raise ValueError(f'zero_based must be True, False or "auto", got {zero_based!r}.')
    opened: Any = nullcontext(path)
    name = "standard input"
    if isinstance(path, str | os.PathLike):
        name = os.fspath(path)
        if not Path(name).exists():
            raise FileNotFoundError(f"There is no file {name!r}.")
        opened = _OPEN.get(Path(name).suffix, open)(name, "rb")
    with reading(name, "an svmlight file"), opened as file:
        X, y = sklearn_datasets.load_svmlight_file(_Lines(file), zero_based=True)
        _check_columns(X)
    if not len(y):
        raise ValueError(f"{name!r} has no rows.")
    column_0 = bool((X.indices == 0).any())
    if zero_based == "auto":
        zero_based = column_0
    if column_0 and not zero_based:
        raise ValueError(f"{name!r} has a column 0, but its columns must start at 1.")
    return (X if zero_based else X[:, 1:]), y, zero_based


def svmlight_blocks(
    path: str | os.PathLike[str], n_bytes: int
) -> Iterator[tuple[sparse.csr_matrix[Any], NDArray[np.float64]]]:
    """Read an svmlight/libsvm file in blocks of rows.

    Parameters
    ----------
    path : str or path-like
        Plain, ``.gz`` or ``.bz2``.
    n_bytes : int
        Bytes of the text to read for a block, or a line.

    Yields
    ------
    X : CSR matrix of shape (n, n_features), float64
        Its columns have the numbers that they have in the file, even if these begin with 1, and it
        ends with the last column of the block.
    y : ndarray of shape (n,), float64

    Raises
    ------
    ValueError, OSError
        As :func:`load_svmlight`.
    """
    name = os.fspath(path)
    opened = _OPEN.get(Path(name).suffix, open)(name, "rb")
    with reading(name, "an svmlight file"), opened as file:
        lines = iter(_Lines(file))
        while block := _Block(_taken(lines, n_bytes)):
            X, y = sklearn_datasets.load_svmlight_file(block, zero_based=True)
            _check_columns(X)
            yield X, y


def _taken(lines: Iterator[bytes], n_bytes: int) -> Iterator[bytes]:
    """Yield lines until they have as many bytes."""
    for line in lines:
        yield line
        n_bytes -= len(line)
        if n_bytes <= 0:
            return


class _Block(list[bytes]):
    """Lines that scikit-learn takes for a file."""

    def read(self) -> bytes:
        return b"".join(self)


_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}


class _Lines:
    """The lines of a file, as scikit-learn reads them, of limited length."""

    def __init__(self, file: Any) -> None:
        self.read = file.read
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        first = True
        while line := self._file.readline(MAX_LINE_BYTES):
            if first:
                line, first = line.removeprefix(BOM), False
                if line.count(b",") > line.count(b":"):
                    raise ValueError("it has commas, as CSV has: name such a table .csv")
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                raise ValueError(f"a line has more than {MAX_LINE_BYTES:,} bytes")
            yield line


def _check_columns(X: sparse.csr_matrix[Any]) -> None:
    if X.shape[1] > MAX_COLUMNS:
        raise ValueError(
            f"there is a column {X.shape[1] - 1}, and columns must be numbered below "
            f"{MAX_COLUMNS:,}"
        )


def holdout_split(
    n_samples: int, *, random_state: int | np.random.RandomState | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp], PredefinedSplit]:
    """Split rows at random into 90 % to train on, 5 % held out for tuning and 5 % to test.

    The proportions of SHINE's experiments on logistic regression [1]_.

    Parameters
    ----------
    n_samples : int
        At least 20, so that no part is empty.
    random_state : int, RandomState or None, default=None
        Seed of the shuffling.

    Returns
    -------
    development : ndarray of int
        Rows to train on, followed by the held-out ones.
    test : ndarray of int
        The other rows.
    cv : PredefinedSplit
        The one split of the ``development`` rows, to be passed as ``cv``.

    Raises
    ------
    ValueError
        If there are fewer than 20 rows.

    References
    ----------
    .. [1] Z. Ramzi et al., "SHINE: SHaring the INverse Estimate from the forward pass for bi-level
       optimization and implicit models", ICLR 2022.

    Examples
    --------
    >>> from hoag_shine.datasets import holdout_split
    >>> development, test, cv = holdout_split(18_846, random_state=0)
    >>> [(len(train), len(held_out)) for train, held_out in cv.split()], len(test)
    ([(16961, 942)], 943)
    """
    if n_samples < 20:
        raise ValueError(f"n_samples must be at least 20 for a 90/5/5 split, got {n_samples}.")
    rows = check_random_state(random_state).permutation(n_samples)
    n_train = n_samples * 9 // 10
    n_held_out = (n_samples - n_train) // 2
    development, test = np.split(rows, [n_train + n_held_out])
    return development, test, PredefinedSplit(np.repeat([-1, 0], [n_train, n_held_out]))


def _load_libsvm(name: str) -> Data:
    home = data_home()
    if home is not None:
        for matrix in (home / "libsvm" / f"{name}_X.npz", home / "libsvm" / f"{name}_X.npy"):
            if matrix.is_file():
                target = _existing(matrix.with_name(f"{name}_y.npy"))
                return _load_matrix(matrix), _load_array(target)
    return _fetch_libsvm(name)


def _fetch_libsvm(name: str) -> Data:
    # Imported only here, because it reads LIBSVMDATA_HOME when it is imported.
    from libsvmdata.core import ALL_DATASETS, fetch_dataset

    if name not in ALL_DATASETS:
        raise _unknown("libsvm", name, ALL_DATASETS)
    try:
        X, y = fetch_dataset(name)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"Data set 'libsvm:{name}' could not be downloaded. Set {DATA_VARIABLE} to a folder "
            f"with libsvm/{name}_X.npz (or .npy) and libsvm/{name}_y.npy, or LIBSVMDATA_HOME to a "
            f"cache of libsvmdata. ({' '.join(str(error).split())})"
        ) from error
    except (ValueError, LookupError, EOFError, BadZipFile, zlib.error) as error:
        raise ValueError(
            f"Data set 'libsvm:{name}' is damaged in libsvmdata's cache, which LIBSVMDATA_HOME "
            f"names: delete it there. ({' '.join(str(error).split())})"
        ) from error
    if sparse.issparse(y):
        raise ValueError(f"Data set 'libsvm:{name}' has several labels a row; one is needed.")
    return (X if isinstance(X, np.ndarray) else sparse.csr_matrix(X)), y


def _load_sklearn(name: str) -> Data:
    if name not in BUNDLED:
        raise _unknown("sklearn", name, BUNDLED)
    X, y = getattr(sklearn_datasets, f"load_{name}")(return_X_y=True)
    return X, y


def _load_tabular(name: str) -> Data:
    X, y = _load_arrays(_local("tabular", f"{name}.npz"), "X", "y")
    return X, y


def _load_text(name: str) -> Data:
    if name not in _TEXTS:
        raise _unknown("text", name, _TEXTS)
    return _TEXTS[name]()


def _load_20news() -> Data:
    counts, y, _ = _load_counts("20newsgroups")
    return normalize(counts.astype(np.float64), copy=False), (y >= 10).astype(np.int64)


def _load_imdb(*, test: bool) -> Data:
    counts, y, n_train = _load_counts("imdb")
    rows = slice(n_train, None) if test else slice(n_train)
    tfidf = TfidfTransformer(sublinear_tf=True).fit(counts[:n_train])
    return tfidf.transform(counts[rows]), y[rows].astype(np.int64)


def _load_images(name: str) -> Data:
    if name not in IMAGES:
        raise _unknown("images", name, IMAGES)
    file, _, half = name.partition("_")
    half = half or "train"
    pixels, y = _load_arrays(_local("images", f"{file}.npz"), f"X_{half}", f"y_{half}")
    return pixels.reshape(len(pixels), -1) / 255.0, y.astype(np.int64)


_TEXTS: dict[str, Callable[[], Data]] = {
    "20news": _load_20news,
    "imdb": partial(_load_imdb, test=False),
    "imdb_test": partial(_load_imdb, test=True),
}

_LOADERS: dict[str, Callable[[str], Data]] = {
    "images": _load_images,
    "libsvm": _load_libsvm,
    "sklearn": _load_sklearn,
    "tabular": _load_tabular,
    "text": _load_text,
}


def _load_counts(name: str) -> tuple[sparse.csr_matrix[Any], NDArray[np.int8], int]:
    """Return word counts, classes and the number of rows that are meant for training."""
    counts = _load_matrix(_local("text", f"{name}_counts.npz"))
    y, n_train = _load_arrays(_local("text", f"{name}_target.npz"), "y", "n_train")
    return cast("sparse.csr_matrix[Any]", counts), y, int(n_train)


# Files are opened here, because NumPy does not close those that are damaged.


def _load_matrix(path: Path) -> Matrix:
    if path.suffix == ".npy":
        return _load_array(path)
    with reading(path, "a sparse matrix of SciPy"), path.open("rb") as file:
        matrix = sparse.load_npz(file)
        if hasattr(matrix, "check_format"):
            # Conversions, and our own loops, take it that no index points outside of the matrix.
            matrix.check_format(full_check=True)
        return sparse.csr_matrix(matrix)


def _load_array(path: Path) -> NDArray[Any]:
    with reading(path, "an array of NumPy"), path.open("rb") as file:
        return cast("NDArray[Any]", np.load(file, allow_pickle=False))


def _load_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    with (
        reading(path, "an archive of NumPy"),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        missing = set(names) - set(arrays)
        if missing:
            raise ValueError(f"it has no array named {', '.join(sorted(missing))}")
        return [arrays[name] for name in names]


def _local(*parts: str) -> Path:
    """Return the path of a file in the data folder, if it is there."""
    home = data_home()
    if home is None:
        raise FileNotFoundError(
            f"The file {'/'.join(parts)} is needed: set the environment variable {DATA_VARIABLE} "
            "to the folder where it lies."
        )
    return _existing(home.joinpath(*parts))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {str(path)!r}. The environment variable {DATA_VARIABLE} names the "
            "folder where data is looked for."
        )
    return path


def _unknown(source: str, name: str, known: Iterable[str]) -> ValueError:
    names = sorted(known)
    near = get_close_matches(name, names, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there is {', '.join(names)}."
    return ValueError(f"Data set '{source}:{name}' is not known; {hint}")
