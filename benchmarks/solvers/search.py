from typing import ClassVar

from benchmark_utils.methods import EXACT_LIMIT, METHODS
from benchopt import BaseSolver
from benchopt.stopping_criterion import NoCriterion

from hoag_shine import fold_problems


class Solver(BaseSolver):
    """A curve of the converged criterion along one search."""

    name = "search"
    sampling_strategy = "callback"
    stopping_criterion = NoCriterion()  # the search has one of its own
    parameters: ClassVar = {
        "method": ["auto", "shine", "cg", "jacobian-free", "exact", "hoag-published", "brent"]
    }

    def skip(self, X, y, cv, estimator):
        too_large = self.method == "exact" and X.shape[1] > EXACT_LIMIT
        return too_large, f"more than {EXACT_LIMIT} features for a dense factorisation"

    def set_objective(self, X, y, cv, estimator):
        self.X, self.y, self.cv, self.estimator = X, y, cv, estimator

    def warm_up(self):
        self.run_once()  # compiles the kernels

    def run(self, callback):
        problems = fold_problems(self.estimator, self.X, self.y, cv=self.cv)
        stopped = False

        def watch(theta, ws):
            nonlocal stopped
            self.theta, self.n_passes = theta, problems.n_passes
            stopped = not callback()
            return stopped

        self.theta, self.n_passes = METHODS[self.method](problems, watch), problems.n_passes
        if not stopped:
            callback()  # the result may lie before the last iterate

    def get_result(self):
        return {"theta": self.theta, "n_passes": self.n_passes}
