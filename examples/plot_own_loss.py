"""
A loss of your own
==================

A tenth of the targets are wrong by a lot. Squared errors follow them; a loss that grows linearly
does not. Such a loss is a class with a value and two derivatives, and its penalty is tuned like any
other.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hoag_shine import GeneralizedLinear, Loss, ShineCV


class LogCosh(Loss):
    """The logarithm of the hyperbolic cosine of the residual."""

    convex = True

    def value(self, y, z):
        return np.logaddexp(z - y, y - z) - np.log(2.0)

    def gradient(self, y, z):
        return np.tanh(z - y)

    def hessian(self, y, z):
        return 1.0 - np.tanh(z - y) ** 2


X, y = load_diabetes(return_X_y=True)
y = (y - y.mean()) / y.std()
X, X_test, y, y_test = train_test_split(X, y, random_state=0)
rng = np.random.default_rng(0)
wrong = rng.random(y.size) < 0.1
y = np.where(wrong, y + 8.0 * rng.exponential(size=y.size), y)

searches = {
    "squared error": ShineCV(make_pipeline(StandardScaler(), Ridge())),
    "log cosh": ShineCV(make_pipeline(StandardScaler(), GeneralizedLinear(LogCosh()))),
}
for search in searches.values():
    search.fit(X, y)
    print(search.best_params_)

# %%
# On targets that are right, judged by the median:

figure, axes = plt.subplots(1, 2, sharey=True, layout="constrained", figsize=(6.4, 3.4))
for ax, (name, search) in zip(axes, searches.items(), strict=True):
    prediction = search.predict(X_test)
    error = np.median(np.abs(prediction - y_test))
    ax.plot(prediction, y_test, ".", color="#0072B2")
    ax.axline((0, 0), slope=1, color="0.5", linestyle="--")
    ax.set(title=f"{name}\nmedian error {error:.2f}", xlabel="predicted")
axes[0].set_ylabel("true, without errors")
plt.show()
