"""Classification data with the splits that the benchmark tunes on."""

import numpy as np
from scipy.sparse import issparse
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from hoag_shine.datasets import holdout_split, load_dataset


def load(name):
    """Load a data set by its name; dense features are standardised."""
    X, y = load_dataset(name)
    return (X if issparse(X) else StandardScaler().fit_transform(X)), y


def five_folds(name, seed=0):
    """Return all rows in five stratified folds."""
    X, y = load(name)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return {"X": X, "y": y, "cv": list(folds.split(X, y))}


def holdout(name, seed=0):
    """Return the 95 % of the rows that tuning may see, 90 to train on and 5 held out."""
    X, y = load(name)
    development, _, cv = holdout_split(len(y), random_state=seed)
    return {"X": X[development], "y": y[development], "cv": list(cv.split())}


SPLITS = {"holdout": holdout, "folds": five_folds}


def or_absent(split, name, seed=0):
    """Return the data, or say why it cannot be had, for the objective to skip it."""
    try:
        return split(name, seed)
    except OSError as error:
        return {"X": np.empty((0, 0)), "y": np.empty(0), "cv": [], "absent": str(error)}
