"""
How a search ends
=================

The criterion of ridge regression on polynomials is not convex: the columns' variances differ by
orders of magnitude, and so do the penalties that suit them. A search first goes down from where it
starts, then looks at the rest of the range, and goes down wherever that is lower.
"""

# %%
# Polynomials of degree four in three columns, a target that needs few of them, and noise.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_score
from sklearn.preprocessing import PolynomialFeatures

from hoag_shine import ShineCV

rng = np.random.default_rng(6)
X = 2.0 * rng.standard_normal((100, 3))
y = np.sin(2.0 * X[:, 0]) + 0.3 * X[:, 1] + 0.5 * rng.standard_normal(100)
X = PolynomialFeatures(4, include_bias=False).fit_transform(X)
cv = KFold(5, shuffle=True, random_state=0)

search = ShineCV(Ridge(), cv=cv).fit(X, y)
certificate = search.certificate_
print(f"alpha = {search.best_params_['alpha']:.4g}, mean squared error {-search.best_score_:.4f}")
print(f"at most {certificate.gain:.1g} can still be gained")

# %%
# The picture shows what the search has seen, and a fine grid for comparison. The certified interval
# holds a minimum; the looks say that no other part of the range has a lower one.

grid = np.logspace(-8, 8, 120)
curve = [
    -cross_val_score(
        Ridge(alpha, solver="svd"), X, y, cv=cv, scoring="neg_mean_squared_error"
    ).mean()
    for alpha in grid
]
looks = [record for record in search.history_ if record["look"]]
steps = [record for record in search.history_ if not record["look"]]


def places(records):
    """Return penalties and criteria of records."""
    return [r["params"]["alpha"] for r in records], [r["criterion"] for r in records]


fig, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
ax.axvspan(*np.exp([end[0] for end in certificate.interval]), color="C2", alpha=0.25)
ax.loglog(grid, curve, color="0.6", lw=1.2, label="a grid of 120 values")
ax.plot(*places(looks), "s", color="C0", ms=5, mfc="white", label="looks")
ax.plot(*places(steps), "o", color="C1", ms=5, label="local searches")
ax.plot(
    search.best_params_["alpha"], -search.best_score_, "*", color="C3", ms=13, label="the result"
)
ax.set(xlabel="alpha", ylabel="mean squared error")
ax.set_title("The shaded interval is certified to hold a minimum", fontsize=10)
ax.legend(fontsize=8)
plt.show()
