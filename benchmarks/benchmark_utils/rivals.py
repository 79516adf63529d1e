"""Ways to choose the C of a logistic regression by five folds: ours, and those of others.

A rival is a function of ``X``, ``y`` and ``cv``, a list of (train, test) indices, that returns the
C it has chosen. It works as its documentation suggests, and fits the model on all rows
in the end if that is part of what it does.
"""

from importlib.util import find_spec

import numpy as np
from scipy.sparse import issparse
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score

from hoag_shine import ShineCV, fold_problems

from .methods import METHODS

CS = np.logspace(-4, 4, 20)
SCORING = "neg_log_loss"
# Newton's method with a dense Hessian is for fewer features than this.
FEW_FEATURES = 2_000


def shine_cv(X, y, cv):
    return ShineCV(LogisticRegression(), cv=cv).fit(X, y).best_params_["C"]


def grid_search(X, y, cv):
    model = LogisticRegression(max_iter=1000)
    return GridSearchCV(model, {"C": CS}, scoring=SCORING, cv=cv).fit(X, y).best_params_["C"]


def halving_grid_search(X, y, cv):
    # It draws subsets of the rows, so that it needs a splitter, not the folds themselves.
    model = LogisticRegression(max_iter=1000)
    search = HalvingGridSearchCV(model, {"C": CS}, scoring=SCORING, cv=len(cv), random_state=0)
    return search.fit(X, y).best_params_["C"]


def logistic_regression_cv(solver):
    def search(X, y, cv):
        model = LogisticRegressionCV(
            Cs=CS,
            cv=cv,
            scoring=SCORING,
            solver=solver,
            max_iter=1000,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
        )
        return float(np.ravel(model.fit(X, y).C_)[0])

    return search


def optuna_tpe(X, y, cv, n_trials=20):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def score(trial):
        C = trial.suggest_float("C", CS[0], CS[-1], log=True)
        model = LogisticRegression(C=C, max_iter=1000)
        return cross_val_score(model, X, y, cv=cv, scoring=SCORING).mean()

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(score, n_trials=n_trials)
    C = study.best_params["C"]
    LogisticRegression(C=C, max_iter=1000).fit(X, y)
    return C


def liblinear_search(X, y, cv):
    """Its option -C: doubles C, from a start of its own, as long as the accuracy rises."""
    from liblinear.liblinearutil import parameter, problem, train

    sparse = X if issparse(X) else np.asarray(X)
    data = problem(np.where(y == y.max(), 1.0, -1.0), sparse)
    C = train(data, parameter(f"-s 0 -C -v {len(cv)} -q"))[0]
    train(data, parameter(f"-s 0 -c {C} -q"))
    return C


def searched(method):
    """Return a search of :mod:`methods`, with the fit on all rows."""

    def search(X, y, cv):
        problems = fold_problems(LogisticRegression(), X, y, cv=cv)
        C = float(np.exp(-METHODS[method](problems, lambda theta, ws: False)))
        LogisticRegression(C=C, max_iter=1000).fit(X, y)
        return C

    return search


RIVALS = {
    "ShineCV": shine_cv,
    "LogisticRegressionCV, lbfgs": logistic_regression_cv("lbfgs"),
    "LogisticRegressionCV, newton-cg": logistic_regression_cv("newton-cg"),
    "LogisticRegressionCV, newton-cholesky": logistic_regression_cv("newton-cholesky"),
    "LogisticRegressionCV, liblinear": logistic_regression_cv("liblinear"),
    "GridSearchCV": grid_search,
    "HalvingGridSearchCV": halving_grid_search,
    "Optuna, TPE": optuna_tpe,
    "liblinear -C": liblinear_search,
    "Brent": searched("brent"),
    "HOAG, as published": searched("hoag-published"),
}


def absent(name, n_features):
    """Return why a rival cannot take part, or None."""
    if "newton-cholesky" in name and n_features > FEW_FEATURES:
        return "too many features for a dense Hessian"
    for package, word in (("optuna", "Optuna"), ("liblinear", "liblinear -C")):
        if word in name and find_spec(package) is None:
            return f"{package} is not installed"
    return None
