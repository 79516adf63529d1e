"""The unit of time, the largest memory, and what a run was measured on."""

import os
import platform
import resource
import sys
import time
from pathlib import Path

import numba
import numpy as np
import scipy
import sklearn
from threadpoolctl import threadpool_info

import hoag_shine


def unit_of(X, repeats=20):
    """Return the seconds of X @ v and X.T @ u, the best of ``repeats``."""
    v, u = np.ones(X.shape[1]), np.ones(X.shape[0])

    def once():
        begin = time.perf_counter()
        X @ v
        X.T @ u
        return time.perf_counter() - begin

    return min(once() for _ in range(repeats))


def forget_largest():
    """Have the largest resident set counted anew, where that can be done (proc(5), clear_refs)."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists():
        switch.write_text("5")


def resident():
    """Return the largest resident set so far, in MiB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)


def environment(**settings):
    """Return processor, versions, BLAS and OpenMP with their threads, and these settings."""
    packages = hoag_shine, sklearn, scipy, np, numba
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package.__name__: package.__version__ for package in packages},
        "threads": {name_of(pool): pool["num_threads"] for pool in threadpool_info()},
        **settings,
    }


def name_of(pool):
    kernel = pool.get("architecture")
    return f"{pool['user_api']} ({pool['internal_api']}{', ' + kernel if kernel else ''})"


def processor():
    """Return its name, with family and model where the name alone says little."""
    described = Path("/proc/cpuinfo")
    if not described.exists():
        return platform.processor() or platform.machine()
    lines = [line.partition(":") for line in described.read_text().splitlines()]
    of = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    if "model name" not in of:
        return platform.machine()
    return f"{of['model name']}, family {of.get('cpu family')}, model {of.get('model')}"
