from benchmark_utils.hoag_solver import HoagSolver
from benchmark_utils.methods import METHODS


class Solver(HoagSolver):
    """HOAG with its adaptive step, an exponential tolerance and conjugate gradient."""

    name = "hoag-published"

    def options(self):
        return METHODS["hoag-published"]
