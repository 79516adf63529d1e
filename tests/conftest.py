"""What every test needs before it is collected."""

import os
from collections.abc import Iterator

import matplotlib as mpl
import pytest
import sklearn.linear_model  # noqa: F401  loads all of BLAS that is then limited
from hypothesis import settings
from threadpoolctl import threadpool_limits

mpl.use("Agg")  # no display on a build machine

# The first call of a numba kernel compiles it, so no example has a deadline. On a build machine
# the same examples are drawn in every run.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session", autouse=True)
def _one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread: on busy cores, scikit-learn's small fits slow down tenfold."""
    with threadpool_limits(1):
        yield
