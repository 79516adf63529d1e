"""A certified bound of a hypergradient's error is never exceeded.

The bound is of the linear system at the inner solutions that were reached. Its exact answer comes
from the dense Hessians there, solved by a QR of their scaled columns and refined in extended
precision.
"""

import warnings

import numpy as np
import pytest
from scipy.linalg import lu_factor, lu_solve
from truth import LONG, TooSlow, draw, limit, seeds

from hoag_shine import fold_problems, hoag
from hoag_shine.inner.requests import HessianProduct

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
RECORDS = 1000


def exact_hypergradient(problems, theta, ws):
    """Return the hypergradient at inner solutions ``ws``, and what its own error may be."""
    columns = {k: HessianProduct(w, np.eye(w.size)) for k, w in enumerate(ws)}
    products = problems.answer(columns, theta)
    outer = problems.outer_values_and_grads(ws)
    total, doubt, rng = 0.0, 0.0, np.random.default_rng(0)
    for k, w in enumerate(ws):
        # What a change of the size of rounding changes of the answer says what rounding may have.
        H = products[k]
        size = np.sqrt(np.outer(np.abs(np.diag(H)), np.abs(np.diag(H))))
        noise = np.finfo(float).eps * size * rng.choice([-1.0, 1.0], H.shape)
        each = [
            -problems[k].cross_vjp(w, theta, solved(A, outer[k][1]))
            for A in (H, H + noise + noise.T)
        ]
        total = total + each[0] / len(ws)
        doubt += float(np.linalg.norm(each[0] - each[1])) / len(ws)
    return total, 10.0 * doubt


def solved(H, b):
    """Return H^-1 b, without variables that have no curvature."""
    q, used = np.zeros(b.size), np.diag(H) > 0.0
    d = np.sqrt(np.diag(H)[used])
    S = (H[np.ix_(used, used)] / d[:, None]) / d
    factor, right = lu_factor(S), (b[used] / d).astype(LONG)
    x = np.zeros(right.size, dtype=LONG)
    for _ in range(4):
        x += lu_solve(factor, (right - S.astype(LONG) @ x).astype(float))
    q[used] = (x / d).astype(float)
    return q


def violations(seed, records):
    """Return the records of one search whose error exceeds the bound, and how many were sure."""
    drawn = draw(seed)
    found, checked = [], 0

    def look(record, solutions):
        nonlocal checked
        bound = record["hypergradient_bound"]
        assert not np.isnan(bound), f"{drawn}: a bound is NaN"
        if not np.isfinite(bound):
            return False
        with np.errstate(all="ignore"):
            exact, doubt = exact_hypergradient(problems, record["theta"], [s.w for s in solutions])
        off = float(np.linalg.norm(exact - record["hypergradient"]))
        if doubt <= 0.1 * bound:  # else the reference is no judge
            checked += 1
            if off > bound + doubt:
                found.append(
                    f"{drawn}\n    record {record['iteration']}: off {off:.3g}, bound {bound:.3g}"
                )
        return False

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
                hoag(problems, start, max_iter=records, callback=look)
        except (TooSlow, ValueError):  # other tests are of those
            pass
    return found, checked


@pytest.mark.parametrize("kind", CONVEX)
def test_no_bound_is_exceeded(kind):
    found, checked = [], 0
    for seed in seeds(400, 100_000, kind):
        more, sure = violations(seed, 12)
        found, checked = found + more, checked + sure
        if checked >= RECORDS:
            break
    assert not found, f"{len(found)} of {checked} bounds are exceeded\n" + "\n".join(found)
    assert checked >= RECORDS
