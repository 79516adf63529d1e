"""
The simplest model that is as good as the best
==============================================

The lowest point of a cross-validated curve is as uncertain as the curve. The one-standard-error
rule takes the strongest penalty whose loss cannot be told from the lowest. With
``selection="one-se"`` the search solves for the point where the curve crosses that line, which on a
grid would be the next coarse value.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from hoag_shine import ShineCV

X, y = load_diabetes(return_X_y=True)
model = make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler(), Ridge())
folds = KFold(10, shuffle=True, random_state=0)
lowest = ShineCV(model, cv=folds).fit(X, y)
simpler = ShineCV(model, cv=folds, selection="one-se").fit(X, y)


def errors(alpha):
    """Return the squared error of each fold."""
    model.set_params(ridge__alpha=alpha)
    return -cross_val_score(model, X, y, cv=folds, scoring="neg_mean_squared_error")


values = np.logspace(0, 4, 15)
curve = np.array([errors(alpha) for alpha in values])
mean, error = curve.mean(axis=1), curve.std(axis=1, ddof=1) / np.sqrt(10)
best = errors(lowest.best_params_["ridge__alpha"])
line = best.mean() + best.std(ddof=1) / np.sqrt(10)

figure, ax = plt.subplots(layout="constrained")
ax.semilogx(values, mean, color="#0072B2")
ax.fill_between(values, mean - error, mean + error, color="#0072B2", alpha=0.15)
ax.axhline(line, color="0.5", linestyle="--", label="lowest + one standard error")
for search, marker, label in ((lowest, "o", "lowest"), (simpler, "*", "one-se")):
    alpha = search.best_params_["ridge__alpha"]
    ax.plot(alpha, -search.best_score_, marker, markersize=12, label=f"{label}: {alpha:.3g}")
ax.set(xlabel="alpha", ylabel="held-out squared error")
ax.legend()
plt.show()

# %%
# The coefficients are smaller, and so is what they depend on.

for name, search in (("lowest", lowest), ("one-se", simpler)):
    print(f"{name}: |coef| = {np.linalg.norm(search.best_estimator_[-1].coef_):.1f}")
