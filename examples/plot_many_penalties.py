"""
A penalty for each group of columns
===================================

Ten measurements of patients and all their products: 65 columns, most of which are noise. One
penalty for all must hold down the products and holds down the measurements with them. A grid over
several penalties is soon out of reach; a search by hypergradients takes a few times as long as for
one.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from hoag_shine import ShineCV

X, y = load_diabetes(return_X_y=True)
products = PolynomialFeatures(2, include_bias=False)
names = products.fit(X).get_feature_names_out(load_diabetes().feature_names)
kinds = np.array(["square" if "^" in n else "product" if " " in n else "linear" for n in names])

model = make_pipeline(products, StandardScaler(), Ridge())
folds = KFold(5, shuffle=True, random_state=0)
searches = {
    "one for all": ShineCV(model, cv=folds).fit(X, y),
    "one for each kind": ShineCV(model, cv=folds, penalty=kinds).fit(X, y),
    "one for each column": ShineCV(model, cv=folds, penalty="feature", shrinkage=1 / len(y)).fit(
        X, y
    ),
}
for name, search in searches.items():
    print(f"{name}: held-out squared error {-search.best_score_:.0f}")

# %%
# With as many penalties as columns, what is held out is fitted, too: the last number flatters.
# ``shrinkage`` keeps the penalties together. An outer cross-validation would tell the truth.

kinds_search = searches["one for each kind"]
order = kinds_search.penalty_names_
shared = searches["one for all"].best_params_["ridge__alpha"]
each = searches["one for each column"].best_params_["ridge__alpha"]

figure, ax = plt.subplots(layout="constrained")
ax.axhline(shared, color="0.5", linestyle="--", label="one for all")
for place, kind in enumerate(order):
    column = each[kinds == kind]
    jitter = place + 0.2 * np.linspace(-1, 1, column.size)
    ax.plot(jitter, column, ".", color="#0072B2", label=None if place else "one for each column")
ax.plot(
    range(len(order)),
    kinds_search.best_params_["ridge__alpha"],
    "*",
    markersize=14,
    color="#D55E00",
    label="one for each kind",
)
ax.set_xticks(range(len(order)), order)
ax.set(ylabel="alpha", yscale="log")
ax.legend()
plt.show()
