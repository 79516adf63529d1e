"""The searches that are compared, by name.

Each is a function ``method(problems, watch) -> theta`` of one hyperparameter theta = log alpha. It
starts at 0 and calls ``watch(theta, ws)`` whenever it has learnt something: theta is what was in
force since the last call, and would have been returned; ws are the inner solutions at hand. A true
answer ends the search.
"""

from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from benchmark_utils.settling import BOUNDS
from hoag_shine import Outcome, hoag
from hoag_shine.hypergradients import METHODS as HYPERGRADIENTS
from hoag_shine.hypergradients import ShineOPA, cg_limited
from hoag_shine.outer.steps import RULES, Ask

# A dense factorisation of the Hessian is out of the question beyond this number of variables.
EXACT_LIMIT = 2000


def by_hypergradient(problems, watch, **settings):
    """Run `hoag_shine.hoag` with these settings."""

    def callback(record, solutions):
        return watch(float(record["theta"][0]), [solution.w for solution in solutions])

    return float(hoag(problems, np.zeros(1), bounds=BOUNDS, callback=callback, **settings).theta[0])


def by_values(problems, watch, *, explore, memory=30, inner_tol=1e-4):
    """Search by held-out losses of fits, each from the last; ``explore`` is given their function.

    A fit is scipy's L-BFGS-B until its gradient's norm is ``inner_tol`` of that at w = 0.
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
        explore(criterion)
    return best[1]


class Enough(Exception):
    """The one who watches has seen enough."""


class WarmFit:
    """The held-out loss of one inner problem by theta."""

    def __init__(self, problem, memory, tol):
        self.problem = problem
        self.w = np.zeros(problem.n_params)
        self.options = {"maxcor": memory, "gtol": 0.0, "ftol": 0.0}
        self.options |= {"maxiter": 10_000, "maxfun": 20_000}
        self.target = tol * np.linalg.norm(problem.value_and_grad(self.w, np.zeros(1))[1])

    def __call__(self, theta):
        theta = np.array([theta])

        def value_and_grad(w):
            nonlocal norm
            value, grad = self.problem.value_and_grad(w, theta)
            norm = np.linalg.norm(grad)
            return value, grad

        def stop(intermediate_result):
            if norm <= self.target:
                raise StopIteration

        norm = np.inf
        self.w = minimize(
            value_and_grad,
            self.w,
            jac=True,
            method="L-BFGS-B",
            options=self.options,
            callback=stop,
        ).x
        return self.problem.outer_value_and_grad(self.w)[0]


def brent(criterion, xatol=1e-3):
    minimize_scalar(criterion, bounds=BOUNDS, method="bounded", options={"xatol": xatol})


def as_published(
    problems,
    watch,
    *,
    decay=0.78,
    tolerance=None,
    memory=30,
    step="adaptive",
    max_iter=1000,
    **settings,
):
    """Run `hoag_shine.hoag` at a paper's settings; return where it ends, not the best it has seen.

    The criterion is a sum over the held-out rows, as there; the step rule compares it with
    tolerances.
    """
    # A row that stands for several of the same has their weight.
    held_out, one = problems.held_out, np.full(len(problems), np.inf)
    np.minimum.at(one, held_out.folds, held_out.weight[:, 0])
    weight = held_out.weight / one[held_out.folds, None]
    problems.held_out = replace(held_out, weight=weight)
    last = 0.0

    def follow(theta, ws):
        nonlocal last
        last = theta
        if watch(theta, ws):
            raise Enough

    with suppress(Enough):
        by_hypergradient(
            problems,
            follow,
            step=step,
            tolerance=tolerance or (lambda k: 0.1 * decay**k),
            tol=1e-5,
            memory=memory,
            max_iter=max_iter,
            **settings,
        )
    return last


def step_as_coded(theta, lower, upper, tol):
    """HOAG's adaptive step as the papers' code takes it: halved only where a fifth is lost.

    The rule of the paper, "adaptive" in `hoag_shine`, halves it wherever the test of progress
    fails, which the errors of loose inner solves can cause until it stands still. Unlike in the
    code, each step is taken once, and what is returned to is the point before the bad one.
    """
    sample = yield Ask(theta)
    lipschitz = float(np.linalg.norm(sample.grad)) or 1.0
    while True:
        following = np.clip(sample.theta - sample.grad / lipschitz, lower, upper)
        length = float(np.linalg.norm(following - sample.theta))
        if length <= tol:
            return Outcome.CONVERGED
        previous, sample = sample, (yield Ask(following))
        allowed = (
            previous.value
            + 0.25 * sample.tolerance
            + 1.25 * previous.tolerance * length
            - lipschitz * length**2
        )
        if sample.value <= allowed:
            lipschitz *= 0.95
        elif sample.value >= 1.2 * previous.value:
            lipschitz *= 2.0
            sample = previous


RULES["as coded"] = step_as_coded

# Memories and decays as the papers' experiments have them.
PUBLISHED = {
    "hoag": {"hypergradient": "cg", "memory": 10, "decay": 0.9},
    "hoag-limited": {
        "hypergradient": partial(cg_limited, max_iter=5),
        "memory": 10,
        "decay": 0.9,
    },
    "shine": {"hypergradient": "shine"},
    "shine-refine": {"hypergradient": "shine-refine"},
    "shine-opa": {"hypergradient": ShineOPA(every=5), "memory": 60},
    "jacobian-free": {"hypergradient": "jacobian-free"},
}

METHODS = {
    # Every hypergradient, with the default step rule and the tolerance of ShineCV ...
    **{name: partial(by_hypergradient, hypergradient=name, tol=2e-2) for name in HYPERGRADIENTS},
    # ... the papers' settings, with the step as HOAG's paper and as the code has it ...
    **{f"{name}-published": partial(as_published, **each) for name, each in PUBLISHED.items()},
    **{
        f"{name}-coded": partial(as_published, step="as coded", **each)
        for name, each in PUBLISHED.items()
    },
    # ... and the rival without derivatives, scipy's bounded Brent.
    "brent": partial(by_values, explore=brent),
}
