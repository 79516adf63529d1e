"""The compiled loops where nothing can be written, where files are damaged, without a compiler."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hoag_shine

# Two loops, one of which calls another of the package's functions in the compiler's language.
CALL = """
import warnings
warnings.simplefilter("always")
import numpy as np
from hoag_shine.linalg import kernels
ones, sizes = np.ones((1, 4)), np.zeros(4)
kernels.dense_column_sizes(3.0 * ones, sizes)
print(kernels.weighted_dot(ones[0], ones[0], np.arange(4.0)), sizes)
"""
ANSWER = "6.0 [3. 3. 3. 3.]\n"

FIT = """
import warnings
import numpy as np
from scipy import sparse
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import scale
from hoag_shine import ShineCV
X, y = load_iris(return_X_y=True)
X, y = scale(X)[::4], y[::4]
few = sparse.csr_array(np.where(np.abs(X) > 0.5, X, 0.0))
options = {"bounds": (0.1, 1.0), "cv": 2}
warnings.simplefilter("ignore", ConvergenceWarning)  # some end on a bound
for estimator, A, b in (
    (Ridge(), X, X @ [1.0, 2.0, 3.0, 4.0] + y),
    (LogisticRegression(), few, y == 1),
    (LogisticRegression(), few.astype(np.float32), y),
):
    print(ShineCV(estimator, **options).fit(A, b).best_score_)
"""


def run(code, **environment):
    """Return what a process with these environment variables prints, and what it warns of."""
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout, answer.stderr


@pytest.fixture
def read_only(tmp_path):
    """An installation beside which nothing can be written, not even by root, and no home."""
    installed = Path(hoag_shine.__file__).parent
    shutil.copytree(installed, tmp_path / "hoag_shine", ignore=lambda *_: {"__pycache__"})
    (tmp_path / "hoag_shine" / "linalg" / "__pycache__").touch()
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), "/dev/null/nowhere")
    return {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": "", **nowhere}


def test_where_nothing_can_be_written_loops_are_compiled_with_one_warning(read_only):
    out, err = run(CALL, **read_only)
    assert out == ANSWER
    assert err.count("RuntimeWarning") == 1
    assert "set the environment variable NUMBA_CACHE_DIR" in err


def test_the_variable_that_the_warning_names_helps(read_only, tmp_path):
    out, err = run(CALL, **read_only | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")})
    assert (out, err) == (ANSWER, "")
    assert list((tmp_path / "cache").rglob("*.nbc"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder of the loops' compiled code."""
    folder = tmp_path_factory.mktemp("cache")
    assert run(CALL, NUMBA_CACHE_DIR=str(folder)) == (ANSWER, "")
    return folder


def flip_a_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def cut(content):
    return content[:-40]


def emptied(content):
    return b""


@pytest.mark.parametrize(
    ("kind", "damage", "is_told"),
    [
        ("nbi", flip_a_bit, True),
        ("nbi", cut, True),
        ("nbi", emptied, False),  # numba's version is gone: it could be another's
        ("nbc", flip_a_bit, True),
        ("nbc", cut, True),
        ("nbc", emptied, True),
    ],
)
def test_damaged_files_are_replaced(kept, tmp_path, kind, damage, is_told):
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    files = sorted(tmp_path.rglob(f"*.{kind}"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    out, err = run(CALL, NUMBA_CACHE_DIR=str(tmp_path))
    assert out == ANSWER
    assert err.count("is damaged") == is_told
    whole = {len(file.read_bytes()) for file in kept.rglob(f"*.{kind}")}
    assert {len(file.read_bytes()) for file in files} == whole


def test_code_of_other_sources_is_not_used(read_only, tmp_path):
    """A loop's own file may stay as it is while one changes that it takes functions from."""
    environment = read_only | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    run(CALL, **environment)
    before = {file: file.read_bytes() for file in (tmp_path / "cache").rglob("*.nbi")}
    with (tmp_path / "hoag_shine" / "linalg" / "half.py").open("a") as file:
        file.write("# changed\n")
    assert run(CALL, **environment) == (ANSWER, "")
    assert all(file.read_bytes() != content for file, content in before.items())


def test_without_a_compiler_searches_end_where_they_do_otherwise():
    expected, _ = run(FIT)
    found, err = run(FIT, NUMBA_DISABLE_JIT="1")
    assert err == ""
    assert [float(x) for x in found.split()] == pytest.approx(
        [float(x) for x in expected.split()], rel=1e-4
    )
