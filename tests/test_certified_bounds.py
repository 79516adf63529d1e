"""A certified bound of a hypergradient's error is never exceeded.

The bound is of the linear system at the inner solutions that were reached. Its exact answer comes
from the dense Hessians there, solved by a QR of their scaled columns and refined in extended
precision.
"""

import warnings

import numpy as np
import pytest
from draws import draw
from exact import LONG
from truth import TooSlow, limit, seeds

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
# Columns of the largest problem that is solved densely here.
LARGEST = 40


def exact_hypergradient(problems, theta, ws):
    """Return the hypergradient at inner solutions ``ws``, and what its own error may be."""
    columns = {k: HessianProduct(w, np.eye(w.size)) for k, w in enumerate(ws)}
    answers = problems.answer(columns, theta)
    H = np.stack([answers[k] for k in range(len(ws))])
    sides = np.stack([grad for _, grad in problems.outer_values_and_grads(ws)])
    # What a change of the size of rounding changes of the answer says what rounding may have.
    size = np.sqrt(np.abs(np.einsum("kii->ki", H)))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], H.shape)
    noise = np.finfo(float).eps * size[:, :, None] * size[:, None, :] * signs
    exact, other = (
        np.mean([-problems[k].cross_vjp(w, theta, q[k]) for k, w in enumerate(ws)], axis=0)
        for q in (solved(H, sides), solved(H + noise + noise.transpose(0, 2, 1), sides))
    )
    return exact, 10.0 * float(np.linalg.norm(exact - other))


def solved(H, b):
    """Return H^-1 b for each of several, zero for variables that have no curvature."""
    diagonal = np.einsum("kii->ki", H)
    used = diagonal > 0.0
    d = np.sqrt(np.where(used, diagonal, 1.0))
    S = H / d[:, :, None] / d[:, None, :]
    S = np.where(used[:, :, None] & used[:, None, :], S, np.eye(b.shape[1]))
    right = np.where(used, b / d, 0.0).astype(LONG)
    x = np.zeros_like(right)
    for _ in range(3):
        residual = right - np.einsum("kij,kj->ki", S.astype(LONG), x)
        x += np.linalg.solve(S, residual.astype(float)[..., None])[..., 0]
    return (x / d).astype(float)


def violations(seed, records):
    """Return the records of one search whose error exceeds the bound, and how many were sure."""
    drawn = draw(seed)
    found, checked = [], 0
    if drawn.X.shape[1] > LARGEST or drawn.notes["cv"] in ("one out", "repeated"):
        return found, checked

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
                hoag(problems, start, max_iter=records, tol=1e-6, callback=look)
        except (TooSlow, ValueError):  # other tests are of those
            pass
    return found, checked


@pytest.mark.parametrize("kind", CONVEX)
def test_no_bound_is_exceeded(kind):
    found, checked = [], 0
    for seed in seeds(1000, 100_000, kind):
        more, sure = violations(seed, 20)
        found, checked = found + more, checked + sure
        if checked >= RECORDS:
            break
    assert not found, f"{len(found)} of {checked} bounds are exceeded\n" + "\n".join(found)
    assert checked >= RECORDS
