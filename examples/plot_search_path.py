"""
Where a search goes
===================

A grid evaluates the cross-validated loss at given values. A search by hypergradients reads off
every evaluation in which direction the loss falls, and how steeply: it goes there, and stops where
it falls no more. Here is what it visits, on the curve that a grid of 25 values draws.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, validation_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hoag_shine import ShineCV, ShinePathDisplay

X, y = load_breast_cancer(return_X_y=True)
model = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, solver="newton-cholesky"))
folds = StratifiedKFold(5, shuffle=True, random_state=0)
search = ShineCV(model, cv=folds).fit(X, y)
search.best_params_

# %%
# The search starts at the estimator's own C, here a poor one.

values = np.logspace(-2.5, 3.0, 25)
_, scores = validation_curve(
    model,
    X,
    y,
    param_name="logisticregression__C",
    param_range=values,
    cv=folds,
    scoring="neg_log_loss",
)
visited = [record["params"]["logisticregression__C"] for record in search.history_]
losses = [record["criterion"] for record in search.history_]

figure, ax = plt.subplots(layout="constrained")
ax.semilogx(values, -scores.mean(axis=1), color="0.6", label="grid of 25 values")
ax.plot(visited, losses, "o-", color="#0072B2", linewidth=0.8, label="visited by the search")
for record, C, loss in zip(search.history_, visited, losses, strict=True):
    ax.annotate(record["iteration"], (C, loss), xytext=(4, 5), textcoords="offset points")
ax.set(xlabel="C", ylabel="held-out log-loss (mean of 5 folds)")
ax.legend()
plt.show()

# %%
# The same by iteration, with the norm of the hypergradient. The shade reaches to what the norm
# certainly does not exceed: far from the optimum a rough derivative is good enough, near it the
# search asks for a better one.

panels = ("criterion", "penalty", "hypergradient")
ShinePathDisplay.from_estimator(search, panels=panels)
plt.show()
