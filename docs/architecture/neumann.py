import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import scale

from hoag_shine import Hypergradient, ShineCV, fold_problems
from hoag_shine.problems.requests import HessianProduct
from hoag_shine.testing import check_hypergradient


def neumann(adjoint, terms=20):
    estimate, target = adjoint.solution.inverse_hessian, adjoint.outer_grad
    q = estimate @ target
    for n in range(terms):
        residual = target - (yield HessianProduct(adjoint.solution.w, q))
        size = np.linalg.norm(residual) / np.linalg.norm(target)
        if size <= adjoint.tol or n == terms - 1:
            return Hypergradient(q, n_hvp=n + 1, residual=size)
        q = q + estimate @ residual


X, y = load_breast_cancer(return_X_y=True)
check_hypergradient(neumann, fold_problems(LogisticRegression(), scale(X), y)[0])
search = ShineCV(LogisticRegression(), hypergradient=neumann).fit(scale(X), y)
