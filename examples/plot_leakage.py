"""
What a pipeline is for
======================

Columns of pure noise, and labels that have nothing to do with them. Whoever selects the best ten
columns with *all* rows and then cross-validates finds a model that predicts: the held-out rows have
had their say in the selection. Within a pipeline, the columns are selected for each fold on its
training rows.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from hoag_shine import ShineCV

rng = np.random.default_rng(0)
X = rng.normal(size=(80, 2000))
y = rng.permutation(np.repeat([0, 1], 40))

selected = SelectKBest(k=10).fit_transform(X, y)
leaking = ShineCV(LogisticRegression(), scoring="accuracy").fit(selected, y)
honest = ShineCV(make_pipeline(SelectKBest(k=10), LogisticRegression()), scoring="accuracy")
honest.fit(X, y)

# %%
# The accuracy of a coin is one half.

names = ["selected with all rows", "selected within each fold"]
searches = [leaking, honest]
figure, ax = plt.subplots(layout="constrained", figsize=(6.4, 3.0))
for place, search in enumerate(searches):
    i = search.best_index_
    folds = [search.cv_results_[f"split{k}_test_score"][i] for k in range(search.n_splits_)]
    ax.barh(place, search.best_score_, color="#0072B2", alpha=0.4)
    ax.plot(folds, np.full(len(folds), place), "o", color="#0072B2")
ax.axvline(0.5, color="0.3", linestyle="--")
ax.set_yticks([0, 1], names)
ax.set(xlabel="held-out accuracy of each fold", xlim=(0, 1))
plt.show()

# %%
# The search tells by its penalty, too: the honest one wants a model that says next to nothing.

print(leaking.best_params_, honest.best_params_)
