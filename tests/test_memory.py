"""What a search takes of memory, and that freed memory is kept for the next vectors."""

import platform

import pytest
from helpers import in_a_process

FAULTS = """
import resource
import numpy as np
from hoag_shine.linalg.allocator import keep_freed_memory

def used():
    return resource.getrusage(resource.RUSAGE_SELF)

def new_pages():
    before = used().ru_minflt
    for _ in range(20):
        [np.ones(400_000) for _ in range(8)]
    return used().ru_minflt - before

anew = new_pages()
size = used().ru_maxrss
keep_freed_memory()
grown = used().ru_maxrss - size
new_pages()
print(anew, new_pages(), grown)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc is tuned")
@pytest.mark.parametrize("by_dask", [False, True])
def test_memory_of_vectors_is_not_fetched_anew(by_dask, monkeypatch):
    """Nor in a worker of Dask, which is told to give back what is freed."""
    if by_dask:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    anew, again, grown = map(int, in_a_process(FAULTS))
    assert again < 0.1 * anew
    assert grown < 1024  # KiB


CLASSES = """
import tracemalloc, warnings
import numpy as np
from sklearn.linear_model import LogisticRegression
from hoag_shine import ShineCV

warnings.simplefilter("ignore")
n, m = 24_000, 80
rng = np.random.default_rng(0)
y = np.arange(n) % m
X = rng.normal(size=(m, 12))[y] + rng.normal(size=(n, 12))
tracemalloc.start()
ShineCV(LogisticRegression(C=1e-5), max_iter=1).fit(X, y)
print(tracemalloc.get_traced_memory()[1], n * 5 * m * 8)
"""


@pytest.mark.slow
def test_many_classes_take_two_arrays_over_rows_folds_and_classes():
    """Linear predictors, and earlier ones or curvatures; all else takes less than these two."""
    peak, array = map(int, in_a_process(CLASSES))
    assert peak < 3.6 * array


ONE_OUT = """
import tracemalloc, warnings
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneOut
from hoag_shine import ShineCV

warnings.simplefilter("ignore")
n = 1_500
rng = np.random.default_rng(0)
X = rng.normal(size=(n, 3))
y = (X[:, 0] + rng.logistic(size=n) > 0).astype(int)
tracemalloc.start()
ShineCV(LogisticRegression(), cv=LeaveOneOut(), max_iter=1).fit(X, y)
print(tracemalloc.get_traced_memory()[1], n * n * 8)
"""


@pytest.mark.slow
def test_folds_that_leave_one_out_are_solved_in_small_portions():
    """All folds at once would take some forty arrays over rows and folds."""
    peak, array = map(int, in_a_process(ONE_OUT))
    assert peak < 12.0 * array
