from typing import ClassVar

import numpy as np
from benchopt import BaseSolver
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV


class Solver(BaseSolver):
    """Scikit-learn's GridSearchCV over values of C from 1e-4 to 1e4."""

    name = "GridSearchCV"
    sampling_strategy = "run_once"
    parameters: ClassVar = {"n_values": [20]}

    def set_objective(self, X, y, cv, estimator):
        self.X, self.y = X, y
        self.search = GridSearchCV(
            clone(estimator).set_params(max_iter=1000),
            {"C": np.logspace(-4, 4, self.n_values)},
            scoring="neg_log_loss",
            cv=cv,
            refit=False,
        )

    def run(self, _):
        self.search.fit(self.X, self.y)

    def get_result(self):
        return {"theta": -float(np.log(self.search.best_params_["C"]))}
