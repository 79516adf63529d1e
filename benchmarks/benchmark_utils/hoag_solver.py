"""The base of the solvers that call `hoag_shine.hoag`."""

import numpy as np
from benchopt import BaseSolver
from benchopt.stopping_criterion import NoCriterion

from hoag_shine import Outcome, fold_problems, hoag


class HoagSolver(BaseSolver):
    """A curve of the converged criterion along the outer iterations of one search."""

    sampling_strategy = "callback"
    stopping_criterion = NoCriterion()  # the search has one of its own

    def options(self):
        """Return the keyword arguments of `hoag`."""
        raise NotImplementedError

    def set_objective(self, X, y, cv, estimator):
        self.X, self.y, self.cv, self.estimator = X, y, cv, estimator

    def warm_up(self):
        self.run_once()  # compiles the kernels

    def run(self, callback):
        problems = fold_problems(self.estimator, self.X, self.y, cv=self.cv)

        def watch(record, solutions):
            self.theta, self.n_passes = record["theta"], problems.n_passes
            return not callback()

        result = hoag(problems, np.zeros(1), callback=watch, **self.options())
        self.theta, self.n_passes = result.theta, problems.n_passes
        if result.outcome is not Outcome.CALLBACK:
            callback()  # the result may lie before the last iterate

    def get_result(self):
        return {"theta": float(self.theta[0]), "n_passes": self.n_passes}
