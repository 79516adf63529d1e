"""A bilevel problem as a layer: its gradient is the hypergradient of the rest of the library."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit
from torch.nn import functional

from hoag_shine import ShineCV
from hoag_shine.deq import fixed_point
from hoag_shine.deq.backward import auto, implicit


def data():
    """Return standardised columns, labels of 0 and 1, and which rows are held out."""
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    return X[:200], y[:200], np.arange(200) % 4 == 0


def by_the_layer(X, y, held_out, log_alpha, **options):
    """f is a step that lowers the training loss; the held-out loss is differentiated."""
    X, y = torch.tensor(X), torch.tensor(y, dtype=torch.float64)
    train, labels = X[~held_out], y[~held_out]
    log_alpha = torch.tensor(log_alpha, dtype=torch.float64, requires_grad=True)
    curvature = train.T @ train / 4 + log_alpha.exp().detach() * torch.eye(X.shape[1])
    inverse = torch.linalg.inv(curvature)  # of a bound on the Hessian: every step descends

    def f(w):
        error = torch.sigmoid(w @ train.T) - labels
        return w - (error @ train + log_alpha.exp() * w) @ inverse

    w0 = torch.zeros(1, X.shape[1], dtype=torch.float64)
    w, info = fixed_point(f, w0, max_iter=200, tol=1e-11, **options)
    loss = functional.binary_cross_entropy_with_logits(w[0] @ X[held_out].T, y[held_out])
    loss.backward()
    return loss.item(), log_alpha.grad.item(), info


@pytest.mark.parametrize("solver", ["broyden", "anderson"])
@pytest.mark.parametrize(
    "options",
    [
        {"backward": partial(implicit, tol=1e-12, max_iter=60)},
        {"backward": partial(auto, tol=1e-12, max_iter=60)},
    ],
)
def test_the_hypergradient_of_logistic_regression(solver, options):
    X, y, held_out = data()
    search = ShineCV(
        LogisticRegression(fit_intercept=False), cv=PredefinedSplit(np.where(held_out, 0, -1))
    ).fit(X, y)
    record = search.history_[0]
    loss, gradient, info = by_the_layer(
        X, y, held_out, float(record["theta"][0]), solver=solver, **options
    )
    assert info.converged.all()
    assert loss == pytest.approx(record["criterion"], rel=1e-8)
    assert gradient == pytest.approx(record["hypergradient"][0], rel=1e-6)
