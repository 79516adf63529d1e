from typing import ClassVar

import numpy as np
from benchmark_utils.rivals import RIVALS, absent
from benchopt import BaseSolver


class Solver(BaseSolver):
    """Searches by their users' interfaces, ours and those of others, from start to end."""

    name = "rival"
    sampling_strategy = "run_once"
    parameters: ClassVar = {"search": list(RIVALS)}

    def skip(self, X, y, cv, estimator):
        reason = absent(self.search, X.shape[1])
        return reason is not None, reason

    def set_objective(self, X, y, cv, estimator):
        self.data = X, y, cv

    def run(self, _):
        self.C = RIVALS[self.search](*self.data)

    def get_result(self):
        return {"theta": -float(np.log(self.C))}
