"""
In the place of GridSearchCV
============================

Four pieces of code as they are written with
:class:`~sklearn.model_selection.GridSearchCV`: columns of mixed types, several scores, nested
cross-validation, and counts. Each takes the class of the search as an argument, so that nothing but
the name and the grid differ.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)

from hoag_shine import ShineCV

VALUES = np.logspace(-4, 4, 9)


def grid(estimator, parameter, **options):
    """Return a search over a grid; the options of the model's solver ask for accurate fits."""
    return GridSearchCV(estimator, {parameter: VALUES}, **options)


def shine(estimator, parameter, **options):
    """Return a search that needs neither the parameter's name nor values."""
    return ShineCV(estimator, **options)


# %%
# The sex is a category, the age is binned, everything else is scaled and multiplied.


def mixed_columns(search):
    X, y = load_diabetes(return_X_y=True, scaled=False)
    columns = make_column_transformer(
        (OneHotEncoder(), [1]),
        (KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf"), [0]),
        remainder=make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False)),
    )
    model = make_pipeline(columns, Ridge())
    return search(model, "ridge__alpha", scoring="neg_mean_squared_error").fit(X, y).best_score_


# %%
# The final fit takes the penalty of the best log-loss; AUC is reported beside it.


def several_scores(search):
    X, y = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000, tol=1e-6))
    found = search(
        model,
        "logisticregression__C",
        scoring={"loss": "neg_log_loss", "AUC": "roc_auc"},
        refit="loss",
    )
    found.fit(X, y)
    print(f"AUC {found.cv_results_['mean_test_AUC'][found.best_index_]:.4f}")
    return found.best_score_


# %%
# The search as one estimator of a cross-validation.


def nested(search):
    X, y = load_wine(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000, tol=1e-6))
    inner, outer = StratifiedKFold(4), StratifiedKFold(5, shuffle=True, random_state=0)
    found = search(model, "logisticregression__C", cv=inner, scoring="neg_log_loss")
    return cross_val_score(found, X, y, cv=outer).mean()


# %%
# Counts of a rare event.


def counts(search):
    X, _ = load_diabetes(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    y = np.random.default_rng(0).poisson(np.exp(-1.0 + 0.5 * X[:, 2] + 0.4 * X[:, 8]))
    model = PoissonRegressor(solver="newton-cholesky", tol=1e-6)
    return search(model, "alpha", scoring="neg_mean_poisson_deviance").fit(X, y).best_score_


# %%
# What they end with, and how long they took.

EXAMPLES = (mixed_columns, several_scores, nested, counts)
scores, seconds = np.zeros((2, len(EXAMPLES))), np.zeros((2, len(EXAMPLES)))
for j, example in enumerate(EXAMPLES):
    for i, search in enumerate((grid, shine)):
        begin = time.perf_counter()
        scores[i, j] = example(search)
        seconds[i, j] = time.perf_counter() - begin
    print(f"{example.__name__:>15}: {scores[0, j]:.6g} by a grid, {scores[1, j]:.6g} by ShineCV")

names = [example.__name__.replace("_", " ") for example in EXAMPLES]
places = np.arange(len(EXAMPLES))
figure, axes = plt.subplots(1, 2, layout="constrained", figsize=(6.4, 3.0), sharey=True)
axes[0].barh(places, 100 * (scores[1] / scores[0] - 1), color="#0072B2")
axes[0].set(xlabel="loss against the grid's, in per cent", yticks=places, yticklabels=names)
for i, (label, color) in enumerate({"GridSearchCV": "0.6", "ShineCV": "#0072B2"}.items()):
    axes[1].barh(places + 0.4 * i - 0.2, seconds[i], height=0.4, color=color, label=label)
axes[1].set(xlabel="seconds")
axes[1].legend()
axes[0].invert_yaxis()
plt.show()
