"""The converged criterion: held-out loss of inner problems that are solved as good as exactly."""

import numpy as np

from hoag_shine import InverseHessian, minimize_lbfgs


class ConvergedCriterion:
    """The criterion at any theta = log alpha, as a function.

    A search may well see a lower value than the true one, because stopping an inner solver early
    regularises too. What it has found is therefore judged at tight solutions. They are kept: a line
    through the two nearest ones predicts the next.

    Parameters
    ----------
    problems : ProblemSet
        With one hyperparameter.
    tol : float, default=1e-9
        Norm of the inner gradient, relative to that at w = 0.
    memory : int, default=50
        Pairs of the L-BFGS solver.
    values : dict of float to float, optional
        Values that are known already, by theta.
    """

    def __init__(self, problems, *, tol=1e-9, memory=50, values=None):
        self.problems = problems
        self.values = dict(values or {})
        self._solutions = {}
        zeros = [np.zeros(problem.n_params) for problem in problems]
        self._limits = [
            tol * np.linalg.norm(problem.value_and_grad(zero, np.zeros(1))[1])
            for problem, zero in zip(problems, zeros, strict=True)
        ]
        self._estimates = [
            InverseHessian(zero.size, memory, data_diagonal=problem.data_diagonal(zero))
            for problem, zero in zip(problems, zeros, strict=True)
        ]
        self._zeros = zeros

    def __call__(self, theta):
        theta = float(theta)
        if theta not in self.values:
            ws = [self._solve(fold, theta, w) for fold, w in enumerate(self._predict(theta))]
            self._solutions[theta] = ws
            losses = [
                problem.outer_value_and_grad(w)[0]
                for problem, w in zip(self.problems, ws, strict=True)
            ]
            self.values[theta] = float(np.mean(losses))
        return self.values[theta]

    def _predict(self, theta):
        nearest = sorted(self._solutions, key=lambda known: abs(known - theta))[:2]
        if not nearest:
            return self._zeros
        if len(nearest) == 1:
            return self._solutions[nearest[0]]
        a, b = nearest
        share = (theta - a) / (b - a)
        known = zip(self._solutions[a], self._solutions[b], strict=True)
        return [(1.0 - share) * w_a + share * w_b for w_a, w_b in known]

    def _solve(self, fold, theta, w):
        solution = minimize_lbfgs(
            self.problems[fold],
            np.array([theta]),
            w,
            tol=self._limits[fold],
            max_iter=100_000,
            inverse_hessian=self._estimates[fold],
        )
        if not solution.converged:
            raise RuntimeError(
                f"The inner problem of fold {fold} at log alpha = {theta:.6g} could not be solved "
                f"tightly: {solution.status.value}."
            )
        return solution.w
