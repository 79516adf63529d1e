from benchmark_utils.criterion import ConvergedCriterion
from benchopt import BaseObjective
from sklearn.linear_model import LogisticRegression

from hoag_shine import fold_problems


class Objective(BaseObjective):
    """Held-out log-loss of logistic regression, minimised over its penalty.

    A result is judged at the converged inner solutions of the penalty it names, never at the
    solutions it was found with.
    """

    name = "Converged held-out loss"
    min_benchopt_version = "1.6"
    test_dataset_name = "breast_cancer"

    def skip(self, X, y, cv, absent=None):
        return absent is not None, absent

    def set_data(self, X, y, cv):
        self.X, self.y, self.splits = X, y, cv
        self.estimator = LogisticRegression()
        self.criterion = ConvergedCriterion(fold_problems(self.estimator, X, y, cv=cv))

    def get_objective(self):
        return {"X": self.X, "y": self.y, "cv": self.splits, "estimator": self.estimator}

    def evaluate_result(self, theta, n_passes=float("nan")):
        return {"value": self.criterion(theta), "log_alpha": theta, "data_passes": n_passes}

    def get_one_result(self):
        return {"theta": 0.0}
