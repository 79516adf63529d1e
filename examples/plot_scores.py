"""
Scores beside the criterion
===========================

The search minimises the held-out log-loss. Accuracy and AUC are reported for every penalty that it
visits, and ``refit`` may choose among these by any of them.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hoag_shine import ShineCV

X, y = load_breast_cancer(return_X_y=True)
search = ShineCV(
    make_pipeline(StandardScaler(), LogisticRegression(C=1000.0)),
    scoring={"accuracy": "accuracy", "AUC": "roc_auc"},
    refit="AUC",
    return_train_score=True,
)
search.fit(X, y)
print(search.best_params_, round(search.best_score_, 4))

# %%
# The log-loss tells penalties apart that accuracy cannot.

results = search.cv_results_
C = np.array([params["logisticregression__C"] for params in results["params"]])
order = C.argsort()
panels = {"neg_criterion": "negative log-loss", "accuracy": "accuracy", "AUC": "AUC"}

figure, axes = plt.subplots(len(panels), 1, sharex=True, layout="constrained", figsize=(6.4, 6.4))
for ax, (name, label) in zip(axes, panels.items(), strict=True):
    mean, spread = results[f"mean_test_{name}"][order], results[f"std_test_{name}"][order]
    ax.semilogx(C[order], mean, "o-", color="#0072B2", label="held out")
    ax.fill_between(C[order], mean - spread, mean + spread, color="#0072B2", alpha=0.15)
    if f"mean_train_{name}" in results:
        train = results[f"mean_train_{name}"][order]
        ax.semilogx(C[order], train, "--", color="0.5", label="training rows")
    best = results[f"rank_test_{name}"].argmin()
    ax.axvline(C[best], color="#D55E00", linewidth=1.0, label=f"best: {C[best]:.2g}")
    ax.set_ylabel(label)
    ax.legend(loc="lower left")
axes[-1].set_xlabel("C")
plt.show()
