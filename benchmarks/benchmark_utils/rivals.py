"""Ways to choose a penalty by folds: ours, and those of others.

A rival is a function of ``X``, ``y`` and ``cv``, a list of (train, test) indices, that returns the
C of a logistic regression that it has chosen, or 1 / alpha of a ridge regression. It works as its
documentation suggests, and fits the model on all rows in the end if that is part of what it does.
Those that can use several cores take their number as ``jobs``.
"""

from importlib.util import find_spec

import numpy as np
from joblib import Parallel, delayed
from scipy.optimize import minimize_scalar
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge, RidgeCV
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score

from hoag_shine import ShineCV, fold_problems

from .methods import METHODS


def values(n):
    """Return the candidates of a grid: the default range of LogisticRegressionCV."""
    return np.logspace(-4, 4, n)


CS = values(20)
SCORING, RIDGE_SCORING = "neg_log_loss", "neg_mean_squared_error"
# Newton's method with a dense Hessian is for fewer coefficients than this.
FEW_FEATURES = 2_000


def shine_cv(X, y, cv, jobs=None):
    return ShineCV(LogisticRegression(), cv=cv, n_jobs=jobs).fit(X, y).best_params_["C"]


def grid_search(X, y, cv, jobs=None):
    model, grid = LogisticRegression(max_iter=1000), {"C": CS}
    search = GridSearchCV(model, grid, scoring=SCORING, cv=cv, n_jobs=jobs)
    return search.fit(X, y).best_params_["C"]


def halving_grid_search(X, y, cv):
    # It draws subsets of the rows, so that it needs a splitter, not the folds themselves.
    model = LogisticRegression(max_iter=1000)
    search = HalvingGridSearchCV(model, {"C": CS}, scoring=SCORING, cv=len(cv), random_state=0)
    return search.fit(X, y).best_params_["C"]


def logistic_regression_cv(solver, n_values=20):
    def search(X, y, cv, jobs=None):
        model = LogisticRegressionCV(
            Cs=values(n_values),
            cv=cv,
            scoring=SCORING,
            solver=solver,
            max_iter=1000,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
            n_jobs=jobs,
        )
        return float(np.ravel(model.fit(X, y).C_)[0])

    return search


def brent(model, penalty, loss):
    """Search the logarithm of the penalty as scipy's bounded minimiser does, by fits of a model.

    ``penalty`` names it, ``loss(model, X, y)`` is held out; between the ends of the grids.
    """

    def search(X, y, cv, jobs=None):
        folds = [(clone(model), X[train], y[train], X[test], y[test]) for train, test in cv]

        def held_out(own, X, y, X_test, y_test, value):
            return loss(own.set_params(**{penalty: value}).fit(X, y), X_test, y_test)

        def criterion(log_value):
            run = delayed(held_out)
            return np.mean(parallel(run(*fold, np.exp(log_value)) for fold in folds))

        bounds, options = np.log([CS[0], CS[-1]]), {"xatol": 0.05}
        with Parallel(n_jobs=jobs, prefer="threads") as parallel:
            found = minimize_scalar(criterion, bounds=bounds, method="bounded", options=options)
        best = clone(model).set_params(**{penalty: np.exp(found.x)}).fit(X, y)
        return getattr(best, penalty)

    return search


def brent_on(solver):
    """Search by logistic regressions that a solver of scikit-learn fits, each from the last."""

    def loss(model, X, y):
        return log_loss(y, model.predict_proba(X), labels=model.classes_)

    model = LogisticRegression(solver=solver, max_iter=1000, warm_start=True)
    return brent(model, "C", loss)


def ridge_brent(X, y, cv, jobs=None):
    def loss(model, X, y):
        return mean_squared_error(y, model.predict(X))

    return 1.0 / brent(Ridge(), "alpha", loss)(X, y, cv, jobs)


def ridge_shine_cv(X, y, cv, jobs=None):
    return 1.0 / ShineCV(Ridge(), cv=cv, n_jobs=jobs).fit(X, y).best_params_["alpha"]


def ridge_cv(n_values=20, leave_one_out=False):
    def search(X, y, cv, jobs=None):
        folds = {} if leave_one_out else {"cv": cv, "scoring": RIDGE_SCORING}
        return 1.0 / RidgeCV(values(n_values), **folds).fit(X, y).alpha_

    return search


def ridge_grid_search(X, y, cv, jobs=None):
    search = GridSearchCV(Ridge(), {"alpha": CS}, scoring=RIDGE_SCORING, cv=cv, n_jobs=jobs)
    return 1.0 / search.fit(X, y).best_params_["alpha"]


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


def liblinear_search(X, y, cv, jobs=None):
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


# Searches of ridge regression.
RIDGE_RIVALS = {
    "ShineCV": ridge_shine_cv,
    "RidgeCV": ridge_cv(),
    "GridSearchCV": ridge_grid_search,
}

# The rivals of the zoo: nothing that uses this library, and what is likely to be fast first.
SOLVERS = ("lbfgs", "newton-cholesky", "newton-cg", "liblinear", "sag", "saga")
ZOO = {
    **{f"LogisticRegressionCV, {name}, 20": logistic_regression_cv(name) for name in SOLVERS[:4]},
    **{f"Brent, {name}": brent_on(name) for name in SOLVERS[:3]},
    **{f"LogisticRegressionCV, {name}, 20": logistic_regression_cv(name) for name in SOLVERS[4:]},
    **{f"LogisticRegressionCV, {name}, 100": logistic_regression_cv(name, 100) for name in SOLVERS},
    "GridSearchCV, 20": grid_search,
    "liblinear -C": liblinear_search,
}
RIDGE_ZOO = {
    "RidgeCV, leave-one-out, 20": ridge_cv(leave_one_out=True),
    "RidgeCV, leave-one-out, 100": ridge_cv(100, leave_one_out=True),
    "RidgeCV, 20": ridge_cv(),
    "Brent, Ridge": ridge_brent,
    "RidgeCV, 100": ridge_cv(100),
    "GridSearchCV, 20": ridge_grid_search,
}


def absent(name, n_features, n_classes=2):
    """Return why a rival cannot take part, or None."""
    n_coefficients = n_features * (n_classes if n_classes > 2 else 1)
    if "newton-cholesky" in name and n_coefficients > FEW_FEATURES:
        return "too many coefficients for a dense Hessian"
    if "liblinear" in name and n_classes > 2:
        return "for two classes"
    for package, word in (("optuna", "Optuna"), ("liblinear", "liblinear -C")):
        if word in name and find_spec(package) is None:
            return f"{package} is not installed"
    return None
