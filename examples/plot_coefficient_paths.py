"""
Coefficients along the search
=============================

How the final model would look at each penalty that the search has visited, and where it settled.
A callback of scikit-learn's kind or a plain function hears of every iteration; here it keeps how
the fits were solved.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hoag_shine import ShineCV, ShinePathDisplay

X, y = load_wine(return_X_y=True)
methods = []
search = ShineCV(
    make_pipeline(StandardScaler(), LogisticRegression(C=1e-3)),
    callback=lambda record: methods.append(record["method"]),
)
search.fit(X, y)
panels = ("criterion", "folds", "penalty", "coefficients")
ShinePathDisplay.from_estimator(search, X, y, panels=panels)
plt.show()

# %%
# Data as small as these are solved by Newton's method. Where that would take too long, this says
# what each hypergradient has cost: SHINE's estimate alone where that was good enough, otherwise a
# number of steps of conjugate gradient as well.

print("\n".join(methods))
