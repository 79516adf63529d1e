from typing import ClassVar

from benchmark_utils.hoag_solver import HoagSolver
from benchmark_utils.methods import EXACT_LIMIT, METHODS


class Solver(HoagSolver):
    """This library with its default step and tolerance, by method of the hypergradient."""

    name = "hoag_shine"
    parameters: ClassVar = {"hypergradient": ["shine", "cg", "jacobian-free", "exact"]}

    def skip(self, X, y, cv, estimator):
        too_large = self.hypergradient == "exact" and X.shape[1] > EXACT_LIMIT
        return too_large, f"more than {EXACT_LIMIT} features for a dense factorisation"

    def options(self):
        return METHODS[self.hypergradient]
