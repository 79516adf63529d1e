"""Searches on sets of the zoo, by names, as the process that runs them is told."""

import time
import warnings
from functools import lru_cache

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from .measuring import forget_largest, resident, unit_of
from .rivals import RIDGE_ZOO, ZOO, ridge_shine_cv, shine_cv
from .zoo_sets import BY_NAME

OURS, FIT = "ShineCV", "fit"
# A first run that takes fewer seconds is made again: it may be imports that took them.
BRIEF = 0.5
_ran = set()


@lru_cache(maxsize=1)
def _data(name, seed):
    return BY_NAME[name].data(seed)


def data_of(name, seed):
    """Have the data at hand."""
    _data(name, seed)


def unit_seconds(name, seed):
    with threadpool_limits(1):
        return unit_of(_data(name, seed)["X"])


def timed(name, seed, jobs, search, C=None):
    """Run a search; a first time that is not counted if it is ours, or brief.

    Returns
    -------
    seconds, theta, memory : float
    """
    seconds, theta, memory = once(name, seed, jobs, search, C)
    if (name, search) not in _ran and (search == OURS or seconds < BRIEF):
        before = memory  # what is allocated now is at hand for the next run
        seconds, theta, memory = once(name, seed, jobs, search, C)
        memory = max(memory, before)
    _ran.add((name, search))
    return seconds, theta, memory


def once(name, seed, jobs, search, C):
    each, data = BY_NAME[name], _data(name, seed)
    run = fit_of(each, C) if search == FIT else searches_of(each, ours=True)[search]
    with threadpool_limits(threads_of(search, jobs, len(data["cv"]))), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those that do not converge are judged by their result
        forget_largest()
        before, begin = resident(), time.perf_counter()
        theta = -float(np.log(run(**data, jobs=jobs)))
        seconds = time.perf_counter() - begin
        return seconds, theta, resident() - before


def searches_of(each, ours=False):
    """Return the searches for a set by name."""
    if each.kind == "ridge":
        return RIDGE_ZOO | ({OURS: ridge_shine_cv} if ours else {})
    return ZOO | ({OURS: shine_cv} if ours else {})


def fit_of(each, C):
    """Return a fit of scikit-learn's, in the form of a search."""
    ridge = each.kind == "ridge"
    model = Ridge(alpha=1.0 / C) if ridge else LogisticRegression(C=C, max_iter=1000)

    def fit(X, y, cv, jobs):
        model.fit(X, y)
        return C

    return fit


def threads_of(search, jobs, folds):
    """Return the threads of BLAS and OpenMP: those that the jobs of a search leave to each."""
    spreads = search.startswith(("LogisticRegressionCV", "Brent"))
    return max(1, jobs // folds) if spreads else jobs
