"""
Coefficients along the search
=============================

How the final model would look at each penalty that the search has visited, and where it settled.
The six largest coefficients have their names.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hoag_shine import ShineCV, ShinePathDisplay

X, y = load_diabetes(return_X_y=True, as_frame=True)
search = ShineCV(make_pipeline(StandardScaler(), Ridge(alpha=1e4)), cv=5)
search.fit(X, y)
panels = ("criterion", "folds", "penalty", "coefficients")
ShinePathDisplay.from_estimator(search, X, y, panels=panels)
plt.show()

# %%
# Iterations that only look at another part of the range are not drawn. ``history_`` has them all,
# and says of each how its hypergradient was computed: data as small as these are solved by Newton's
# method, and each derivative is exact up to rounding.

{record["method"] for record in search.history_}
