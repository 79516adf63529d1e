"""The converged criterion: held-out loss of inner problems that are solved as good as exactly."""

import json
import os
from pathlib import Path

import joblib
import numpy as np
from scipy.sparse import diags
from scipy.sparse.linalg import LinearOperator, cg

from hoag_shine import InverseHessian, fold_problems, minimize_lbfgs

# L-BFGS goes as far as values can guide it, relative to the gradient at w = 0; then comes Newton.
HANDOVER = 1e-5
TOLERANCE = 1e-9
NEWTON_STEPS = 50


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
    values : dict of float to float, optional
        Values that are known already, by theta.
    """

    def __init__(self, problems, *, tol=TOLERANCE, values=None):
        self.problems = problems
        self.values = dict(values or {})
        self._solutions = {}
        self.tol = tol
        zeros = [np.zeros(problem.n_params) for problem in problems]
        self._scales = [
            np.linalg.norm(problem.value_and_grad(zero, np.zeros(1))[1])
            for problem, zero in zip(problems, zeros, strict=True)
        ]
        self._estimates = [
            InverseHessian(zero.size, data_diagonal=problem.data_diagonal(zero))
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
        share = np.clip((theta - a) / (b - a), -1.0, 1.0)  # a line far out means nothing
        known = zip(self._solutions[a], self._solutions[b], strict=True)
        return [(1.0 - share) * w_a + share * w_b for w_a, w_b in known]

    def _solve(self, fold, theta, w):
        problem, scale, theta = self.problems[fold], self._scales[fold], np.array([theta])
        w = minimize_lbfgs(
            problem,
            theta,
            w,
            tol=HANDOVER * scale,
            max_iter=10_000,
            inverse_hessian=self._estimates[fold],
        ).w
        grad = problem.value_and_grad(w, theta)[1]
        for _ in range(NEWTON_STEPS):
            if np.linalg.norm(grad) <= self.tol * scale:
                return w
            w, grad = newton_step(problem, theta, w, grad)
        raise RuntimeError(
            f"The inner problem of fold {fold} at log alpha = {theta[0]:.6g} could not be solved "
            f"to a relative gradient of {self.tol:g}; it is {np.linalg.norm(grad) / scale:.1e}."
        )


class KeptCriterion(ConvergedCriterion):
    """A converged criterion that keeps its values in a file.

    Parameters
    ----------
    problems : ProblemSet
    key : object
        What the values depend on: the data with its split, the estimator.
    folder : Path
        Where the file lies, under a hash of the key.
    say : callable, optional
        Told what is being solved.
    """

    def __init__(self, problems, key, folder, say=lambda text: None):
        self.file = folder / f"{joblib.hash([key, TOLERANCE])}.json"
        self.say = say
        known = json.loads(self.file.read_text()) if self.file.exists() else {}
        values = {float(theta): value for theta, value in known.items()}
        super().__init__(problems, tol=TOLERANCE, values=values)

    def __call__(self, theta):
        if float(theta) not in self.values:
            self.say(f"solving tightly at log alpha = {theta:.4f}")
            super().__call__(theta)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self.values))
        return super().__call__(theta)


def default_cache():
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "hoag_shine" / "scans"


def kept_criterion(estimator, data):
    """Return the criterion of an estimator on data with folds, kept in the default folder."""
    problems = fold_problems(estimator, data["X"], data["y"], cv=data["cv"])
    return KeptCriterion(problems, [type(estimator).__name__, data], default_cache())


def newton_step(problem, theta, w, grad):
    """Return the w, and the gradient there, of a Newton step that makes the gradient smaller."""
    shape = w.size, w.size
    hessian = LinearOperator(shape, problem.hessp(w, theta), dtype=np.float64)
    diagonal = problem.data_diagonal(w) + problem.penalty_hessian(theta)
    target = 1e-3 * np.linalg.norm(grad)
    step = cg(hessian, grad, atol=target, maxiter=1000, M=diags(1.0 / diagonal))[0]
    for length in 0.5 ** np.arange(20):
        new = problem.value_and_grad(w - length * step, theta)[1]
        if np.linalg.norm(new) < np.linalg.norm(grad):
            return w - length * step, new
    return w, grad
