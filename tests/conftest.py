"""What every test needs before it is collected."""

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import matplotlib as mpl
import numba
import pytest
import sklearn.linear_model  # noqa: F401  loads all of BLAS that is then limited
from hypothesis import settings
from llvmlite import binding
from threadpoolctl import threadpool_info, threadpool_limits

import hoag_shine

mpl.use("Agg")  # no display on a build machine

# The first call of a numba kernel compiles it, so no example has a deadline. On a build machine
# the same examples are drawn in every run; `--hypothesis-profile=few` takes a tenth of them.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, database=None)
settings.register_profile("few", settings.get_profile("ci"), max_examples=10)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_configure(config: pytest.Config) -> None:
    """Leave out the doctests of hoag_shine.deq without PyTorch; let interrupts interrupt.

    A shell has its background jobs, and what these start, ignore SIGINT.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if find_spec("torch") is None:
        deq = Path(hoag_shine.__file__).parent / "deq"
        config.option.ignore = [*(config.option.ignore or ()), str(deq)]


def pytest_report_header() -> str:
    """Say what rounds: results differ in their last digits from one processor to another."""
    libraries = (lib for lib in threadpool_info() if lib["user_api"] == "blas")
    blas = {f"{lib['internal_api']} {lib.get('architecture', '')}".strip() for lib in libraries}
    processor = numba.config.CPU_NAME or binding.get_host_cpu_name()
    return f"BLAS: {', '.join(sorted(blas))}; numba compiles for {processor}"


@pytest.fixture(scope="session", autouse=True)
def _one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread: on busy cores, scikit-learn's small fits slow down tenfold."""
    with threadpool_limits(1):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what takes minutes, unless it is asked for."""
    if not os.environ.get("HOAG_SHINE_EXHAUSTIVE"):
        wanted = pytest.mark.skip(reason="takes minutes: set HOAG_SHINE_EXHAUSTIVE=1")
        for item in items:
            if item.get_closest_marker("exhaustive"):
                item.add_marker(wanted)
