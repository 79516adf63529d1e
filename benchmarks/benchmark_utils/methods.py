"""The searches that are compared, by name.

Each is a function ``method(problems, watch) -> theta`` of one hyperparameter theta = log alpha. It
starts at 0 and calls ``watch(theta, ws)`` whenever it has learnt something: theta is what was in
force since the last call, and would have been returned; ws are the inner solutions at hand. A true
answer ends the search.
"""

from contextlib import suppress
from functools import partial

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from benchmark_utils.settling import BOUNDS
from hoag_shine import hoag
from hoag_shine.hypergradients import METHODS as HYPERGRADIENTS
from hoag_shine.hypergradients import ShineOPA

# A dense factorisation of the Hessian is out of the question beyond this number of variables.
EXACT_LIMIT = 2000


def by_hypergradient(problems, watch, **settings):
    """Run `hoag_shine.hoag` with these settings."""

    def callback(record, solutions):
        return watch(float(record["theta"][0]), [solution.w for solution in solutions])

    return float(hoag(problems, np.zeros(1), bounds=BOUNDS, callback=callback, **settings).theta[0])


def brent(problems, watch, *, memory=30, inner_tol=1e-4, xatol=1e-3):
    """Run scipy's bounded scalar minimiser over fits by scipy's L-BFGS-B, each from the last.

    A fit ends where no component of its gradient exceeds ``inner_tol`` of the largest at w = 0.
    """
    fits = [WarmFit(problem, memory, inner_tol) for problem in problems]
    best = np.inf, 0.0

    def criterion(theta):
        nonlocal best
        value = float(np.mean([fit(theta) for fit in fits]))
        if watch(best[1], [fit.w for fit in fits]):
            raise Enough
        best = min(best, (value, float(theta)))
        return value

    with suppress(Enough):
        minimize_scalar(criterion, bounds=BOUNDS, method="bounded", options={"xatol": xatol})
    return best[1]


class Enough(Exception):
    """The one who watches has seen enough."""


class WarmFit:
    """The held-out loss of one inner problem by theta."""

    def __init__(self, problem, memory, tol):
        self.problem = problem
        self.w = np.zeros(problem.n_params)
        largest = np.abs(problem.value_and_grad(self.w, np.zeros(1))[1]).max()
        self.options = {"maxcor": memory, "gtol": tol * largest, "ftol": 0.0}
        self.options |= {"maxiter": 10_000, "maxfun": 20_000}

    def __call__(self, theta):
        theta = np.array([theta])
        self.w = minimize(
            lambda w: self.problem.value_and_grad(w, theta),
            self.w,
            jac=True,
            method="L-BFGS-B",
            options=self.options,
        ).x
        return self.problem.outer_value_and_grad(self.w)[0]


def as_published(problems, watch, *, decay=0.78, memory=30, max_iter=1000, **settings):
    """Run `hoag_shine.hoag` with the papers' step, schedule and criterion; return where it ends.

    Their criterion is a sum over the held-out rows. The step rule compares it with tolerances, so
    that a mean, smaller by a factor of their number, would pass as progress whatever it does.
    """
    problems.test_weight = problems.test_weight / problems.test_weight.max(axis=0)
    last = 0.0

    def follow(theta, ws):
        nonlocal last
        last = theta
        return watch(theta, ws)

    by_hypergradient(
        problems,
        follow,
        step="adaptive",
        tolerance=lambda k: 0.1 * decay**k,
        tol=1e-5,
        memory=memory,
        max_iter=max_iter,
        **settings,
    )
    return last


METHODS = {
    # Every hypergradient, with the default step rule and tolerance ...
    **{name: partial(by_hypergradient, hypergradient=name) for name in HYPERGRADIENTS},
    # ... what the papers compare, at their settings ...
    "hoag-published": partial(as_published, hypergradient="cg", memory=10, decay=0.9),
    "cg-limited-published": partial(as_published, hypergradient="cg-limited", memory=10, decay=0.9),
    "shine-published": partial(as_published, hypergradient="shine"),
    "shine-refine-published": partial(as_published, hypergradient="shine-refine"),
    "shine-opa-published": partial(as_published, hypergradient=ShineOPA(every=5), memory=60),
    "jacobian-free-published": partial(as_published, hypergradient="jacobian-free"),
    # ... and the rival without derivatives.
    "brent": brent,
}
