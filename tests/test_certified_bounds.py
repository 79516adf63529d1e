"""A certified bound of a hypergradient's error is never exceeded.

The bound is of the linear system at the inner solutions that were reached. Its exact answer comes
from ``truth.py``, whose formulas are its own, refined in extended precision.
"""

import warnings

import numpy as np
import pytest
from draws import draw
from truth import TooSlow, Truth, limit, seeds, variables

from hoag_shine import fold_problems, hoag

# Every loss that promises to be convex: hypergradients to check, and how a kind's name begins.
CONVEX = [
    "logistic",
    "multinomial",
    "svc",
    "ridge",
    "huber",
    "poisson",
    "gamma",
    "tweedie",
    "own-loss",
]
FEW, RECORDS = 15, 1000


def violations(seed, records):
    """Return the records of one search whose error exceeds the bound, and how many were sure."""
    drawn = draw(seed)
    found, checked = [], 0
    if drawn.notes["cv"] in ("one out", "repeated"):
        return found, checked

    def look(record, solutions):
        nonlocal checked
        bound = record["hypergradient_bound"]
        assert not np.isnan(bound), f"{drawn}: a bound is NaN"
        if not np.isfinite(bound):
            return False
        with np.errstate(all="ignore"):
            ws = [variables(drawn, s.w) for s in solutions]
            exact, doubt = truth.hypergradient(record["theta"], ws)
        off = float(np.linalg.norm(exact - record["hypergradient"]))
        if doubt <= 0.1 * max(bound, off):  # else the reference is no judge
            checked += 1
            if off > bound + doubt:
                found.append(
                    f"{drawn}\n    record {record['iteration']}: off {off:.3g}, bound {bound:.3g}"
                )
        return False

    truth = Truth(drawn)
    problems = fold_problems(
        drawn.estimator,
        drawn.X,
        drawn.y,
        cv=drawn.cv,
        penalty=drawn.penalty,
        sample_weight=drawn.sample_weight,
    )
    start = np.full(problems.n_hyperparameters, np.random.default_rng(seed).uniform(-4.0, 4.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with limit(5.0):
                hoag(problems, start, max_iter=records, tol=1e-6, callback=look)
        except (TooSlow, ValueError):  # other tests are of those
            pass
    return found, checked


@pytest.mark.parametrize("records", [FEW, pytest.param(RECORDS, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kind", CONVEX)
def test_no_bound_is_exceeded(kind, records):
    found, checked = [], 0
    for seed in seeds(1000, 100_000, kind):
        more, sure = violations(seed, 20)
        found, checked = found + more, checked + sure
        if checked >= records:
            break
    assert not found, f"{len(found)} of {checked} bounds are exceeded\n" + "\n".join(found)
    assert checked >= records
