"""
An optimisation problem as a layer
==================================

A step of an optimiser is a function whose fixed point is the solution. As a layer, the solution can
be differentiated, here with respect to the penalty of a logistic regression: this derivative is the
hypergradient that :class:`~hoag_shine.ShineCV` descends.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit
from torch.nn import functional

from hoag_shine import ShineCV
from hoag_shine.deq import fixed_point

X, y = load_breast_cancer(return_X_y=True)
X = (X - X.mean(0)) / X.std(0)
held_out = np.arange(len(X)) % 4 == 0
train, labels = torch.tensor(X[~held_out]), torch.tensor(y[~held_out], dtype=torch.float64)
test, test_labels = torch.tensor(X[held_out]), torch.tensor(y[held_out], dtype=torch.float64)
bound = train.T @ train / 4  # on the Hessian of the loss


def fitted(log_alpha):
    """Return the coefficients at a penalty exp(log_alpha), with their derivative."""
    penalty = log_alpha.exp()
    inverse = torch.linalg.inv(bound + penalty.detach() * torch.eye(X.shape[1]))

    def step(w):
        error = torch.sigmoid(w @ train.T) - labels
        return w - (error @ train + penalty * w) @ inverse

    start = torch.zeros(1, X.shape[1], dtype=torch.float64)
    return fixed_point(step, start, max_iter=200, tol=1e-10, backward="implicit")


def held_out_loss(w):
    return functional.binary_cross_entropy_with_logits(w[0] @ test.T, test_labels)


# %%
# The loss on held-out rows over the penalty, with the slope at every point.

grid = np.linspace(-4, 6, 11)
losses, slopes = [], []
for value in grid:
    log_alpha = torch.tensor(value, requires_grad=True)
    w, info = fitted(log_alpha)
    loss = held_out_loss(w)
    loss.backward()
    losses.append(loss.item())
    slopes.append(log_alpha.grad.item())

fig, ax = plt.subplots()
ax.plot(grid, losses, "o")
for value, loss, slope in zip(grid, losses, slopes, strict=True):
    ax.plot([value - 0.4, value + 0.4], [loss - 0.4 * slope, loss + 0.4 * slope], color="C1")
ax.set(xlabel="logarithm of the penalty", ylabel="loss on held-out rows")

# %%
# A search by the rest of the library computes the same number, at the first penalty that it tries.

split = PredefinedSplit(np.where(held_out, 0, -1))
search = ShineCV(LogisticRegression(fit_intercept=False), cv=split).fit(X, y)
record = search.history_[0]
log_alpha = torch.tensor(float(record["theta"][0]), dtype=torch.float64, requires_grad=True)
w, info = fitted(log_alpha)
held_out_loss(w).backward()
hypergradient = record["hypergradient"][0]
print(f"derivative of the layer: {log_alpha.grad:.8f}, hypergradient: {hypergradient:.8f}")
