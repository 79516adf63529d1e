"""
The loss against the penalty
============================

A picture of a tuning for a report: the held-out loss with its standard error, the choice, the
choice of the one-standard-error rule, and a grid for comparison.
"""

# %%
# Ridge regression on all products of up to three of the columns. The estimator's own ``alpha=1`` is
# far from the best.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from hoag_shine import ShineCurveDisplay, ShineCV

X, y = load_diabetes(return_X_y=True)
model = make_pipeline(PolynomialFeatures(3, include_bias=False), StandardScaler(), Ridge())
search = ShineCV(model, cv=5).fit(X, y)
print(search.summary())

# %%
# The line goes through the evaluations of the search (the dots) and follows their derivatives. The
# crosses are those of a grid, which the search does not need: they lie on the line.

values = {"ridge__alpha": np.logspace(-4, 8, 25)}
grid = GridSearchCV(model, values, cv=5, scoring="neg_mean_squared_error").fit(X, y)
ShineCurveDisplay.from_estimator(search, grid=grid)
plt.show()

# %%
# The minimum certainly lies in the narrow certified interval. How much it matters is another
# question: the band is one standard error of the mean over the folds, and within it a penalty that
# is more than twice as strong is as good. ``selection="one-se"`` would take that one.
