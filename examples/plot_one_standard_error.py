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
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from hoag_shine import ShineCurveDisplay, ShineCV

X, y = load_diabetes(return_X_y=True)
model = make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler(), Ridge())
folds = KFold(10, shuffle=True, random_state=0)
lowest = ShineCV(model, cv=folds).fit(X, y)
simpler = ShineCV(model, cv=folds, selection="one-se").fit(X, y)

ShineCurveDisplay.from_estimator(simpler)
plt.show()

# %%
# The coefficients are smaller, and so is what they depend on.

for name, search in (("lowest", lowest), ("one-se", simpler)):
    print(f"{name}: |coef| = {np.linalg.norm(search.best_estimator_[-1].coef_):.1f}")
