from typing import ClassVar

import numpy as np
from benchopt import BaseSolver
from benchopt.stopping_criterion import NoCriterion
from sklearn.linear_model import LogisticRegression

from hoag_shine import fold_problems, hoag


class Solver(BaseSolver):
    """Hypergradients that are as accurate as the step needs, by hoag_shine.

    It takes the rows of the data, ``f_inner.rows`` and ``f_outer.rows``: the problem must be
    logistic regression without an intercept, with a penalty for each feature.
    """

    name = "hoag_shine"
    sampling_strategy = "callback"
    stopping_criterion = NoCriterion()  # the search has one of its own
    # ``random_state`` numbers the runs, as elsewhere in the board; nothing here is random.
    parameters: ClassVar = {"tol": [1e-3], "random_state": [1]}

    @staticmethod
    def get_next(stop_val):
        return stop_val + 1  # every iterate is a point of the curve

    def skip(self, f_inner, f_outer, **_):
        known = hasattr(f_inner, "rows") and hasattr(f_outer, "rows")
        return not known, "needs the rows of the data, as the data set ijcnn1_split gives them"

    def set_objective(
        self, f_inner, f_outer, n_inner_samples, n_outer_samples, inner_var0, outer_var0
    ):
        (X_train, y_train), (X_test, y_test) = f_inner.rows, f_outer.rows
        self.X, self.y = np.concatenate([X_train, X_test]), np.concatenate([y_train, y_test])
        rows = np.arange(n_inner_samples + n_outer_samples)
        self.cv = [(rows[:n_inner_samples], rows[n_inner_samples:])]
        # The board's inner loss is a mean over the rows, that of LogisticRegression a sum.
        self.shift = np.log(n_inner_samples)
        self.start = np.asarray(inner_var0, np.float64), np.asarray(outer_var0, np.float64)
        self.run(lambda: True)  # loads modules and compiled loops, here as in the board's solvers

    def run(self, callback):
        self.inner_var, self.outer_var = self.start
        lowest, stopped = np.inf, not callback()
        if stopped:
            return

        def move(theta, solutions):
            self.inner_var, self.outer_var = solutions[0].w, theta - self.shift

        def watch(record, solutions):
            nonlocal lowest, stopped
            if record["criterion"] < lowest:  # what the search would return
                lowest = record["criterion"]
                move(record["theta"], solutions)
            stopped = not callback()
            return stopped

        estimator = LogisticRegression(fit_intercept=False)
        problems = fold_problems(estimator, self.X, self.y, cv=self.cv, penalty="feature")
        theta = self.start[1] + self.shift
        result = hoag(problems, theta, tol=self.tol, callback=watch)
        move(result.theta, result.solutions)
        if not stopped:
            callback()  # what is returned is solved more accurately, and may be an earlier iterate

    def get_result(self):
        return {"inner_var": self.inner_var, "outer_var": self.outer_var}
