"""Classification data with the splits that the benchmark tunes on."""

import numpy as np
from scipy.sparse import issparse
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit
from sklearn.preprocessing import StandardScaler

from hoag_shine.datasets import holdout_split, load_dataset


def load(name):
    """Load a set of two classes; dense features are standardised.

    ``name`` is one of `load_dataset`'s; ``name=label`` sets that label against the others.
    """
    name, _, label = name.partition("=")
    X, y = load_dataset(name)
    if label:
        y = (y == float(label)).astype(np.int64)
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


def untouched(name, seed=0):
    """Return the 5 % of the rows that `holdout` leaves aside."""
    X, y = load(name)
    _, test, _ = holdout_split(len(y), random_state=seed)
    return {"X": X[test], "y": y[test]}


def third(name, seed=0):
    """Return all rows, a stratified third of them held out: for sets of which 5 % say little."""
    X, y = load(name)
    splitter = StratifiedShuffleSplit(1, test_size=1 / 3, random_state=seed)
    return {"X": X, "y": y, "cv": list(splitter.split(X, y))}


SPLITS = {"holdout": holdout, "third": third, "folds": five_folds}


def or_absent(split, name, seed=0):
    """Return the data, or say why it cannot be had, for the objective to skip it."""
    try:
        return split(name, seed)
    except OSError as error:
        return {"X": np.empty((0, 0)), "y": np.empty(0), "cv": [], "absent": str(error)}
