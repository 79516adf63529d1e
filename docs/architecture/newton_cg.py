import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import scale

from hoag_shine import ShineCV, Solution, Status, fold_problems
from hoag_shine.problems.requests import Evaluate, HessianProduct
from hoag_shine.testing import check_inner_solver


def newton_cg(start, *, tol, max_iter, **hints):
    w, value, grad, n_iter = start.w, start.value, start.grad, 0
    while np.linalg.norm(grad) > tol and n_iter < max_iter:
        step, residual = np.zeros_like(w), -grad
        direction = residual
        for _ in range(w.size):
            if np.linalg.norm(residual) <= min(0.1, np.linalg.norm(grad)) * np.linalg.norm(grad):
                break
            product = yield HessianProduct(w, direction)
            energy = residual @ residual
            length = energy / (direction @ product)
            step, residual = step + length * direction, residual - length * product
            direction = residual + (residual @ residual) / energy * direction
        before, last, value = value, grad, np.inf
        while not value <= before + 1e-12 * abs(before):  # a sum is known to its rounding
            value, grad = yield Evaluate(w + step)
            moved, step = step, step / 2.0
        start.inverse_hessian.append(moved, grad - last)
        w, n_iter = w + moved, n_iter + 1
    status = Status.CONVERGED if np.linalg.norm(grad) <= tol else Status.MAX_ITER
    return Solution(w, value, grad, start.inverse_hessian, n_iter, 0, status)


X, y = load_breast_cancer(return_X_y=True)
check_inner_solver(newton_cg, fold_problems(LogisticRegression(), scale(X), y)[0])
search = ShineCV(LogisticRegression(), inner_solver=newton_cg).fit(scale(X), y)
