"""The sets that every claim of speed is checked on, by kind."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from hoag_shine.datasets import data_home, load_dataset

from .data import load

FOLDS = 5


@dataclass(frozen=True)
class ZooSet:
    """A data set of the zoo.

    ``read`` returns X, of which dense columns are standardised, and y.
    """

    name: str
    kind: str
    read: Callable

    @property
    def estimator(self):
        return Ridge() if self.kind == "ridge" else LogisticRegression()

    @property
    def scoring(self):
        return "neg_mean_squared_error" if self.kind == "ridge" else "neg_log_loss"

    def splitter(self, seed):
        split = KFold if self.kind == "ridge" else StratifiedKFold
        return split(FOLDS, shuffle=True, random_state=seed)

    def data(self, seed=0):
        """Return X, y and the folds."""
        X, y = self.read()
        if self.kind == "ridge":
            y = np.asarray(y, dtype=np.float64)
        return {"X": X, "y": y, "cv": list(self.splitter(seed).split(X, y))}


def twenty_classes():
    y = np.load(data_home() / "text" / "20newsgroups_target.npz")["y"]
    return load_dataset("text:20news")[0], y


def first_rows(name, n):
    X, y = load_dataset(name)
    return StandardScaler().fit_transform(X[:n]), y[:n]


def classification(n, p):
    return make_classification(n, p, n_informative=10, flip_y=0.1, random_state=0)


def regression(n, p):
    return make_regression(n, p, n_informative=10, noise=50.0, random_state=0)


def embeddings(n, p, n_classes):
    """Draw classes around centres of their own, which overlap."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    X = 0.2 * rng.normal(size=(n_classes, p))[y] + rng.normal(size=(n, p))
    return StandardScaler().fit_transform(X), y


def of(kind, source, *names):
    """Return sets of a kind that `load_dataset` knows."""
    return [ZooSet(name, kind, partial(load, f"{source}:{name}")) for name in names]


def drawn(kind, draw, *shapes):
    """Return sets of these shapes that are drawn from a model."""
    return [ZooSet("x".join(map(str, shape)), kind, partial(draw, *shape)) for shape in shapes]


KINDS = ("small dense", "tall dense", "sparse", "wide", "many classes", "ridge")
SETS = [
    *of("small dense", "sklearn", "breast_cancer", "wine", "iris"),
    *of("small dense", "libsvm", "svmguide3", "german.numer_scale", "splice_scale"),
    *of("small dense", "libsvm", "madelon_scale"),
    *drawn("small dense", classification, (1_000, 20), (1_000, 100)),
    *of("tall dense", "libsvm", "ijcnn1", "cod-rna_scale", "skin_nonskin_scale"),
    *drawn("tall dense", classification, (10_000, 20), (10_000, 100)),
    *drawn("tall dense", classification, (100_000, 20), (100_000, 100)),
    *of("sparse", "libsvm", "a9a", "w8a", "phishing", "mushrooms"),
    *of("sparse", "text", "20news", "imdb"),
    *of("wide", "libsvm", "leukemia", "colon-cancer", "duke_train"),
    *of("many classes", "sklearn", "digits"),
    *of("many classes", "libsvm", "dna"),
    *of("many classes", "images", "usps"),
    ZooSet("mnist-10000", "many classes", partial(first_rows, "images:mnist", 10_000)),
    ZooSet("20news-20", "many classes", twenty_classes),
    *drawn("many classes", embeddings, (20_000, 512, 200)),
    *of("ridge", "sklearn", "diabetes"),
    *of("ridge", "tabular", "cal_housing", "cpu_small", "puma32H", "abalone"),
    ZooSet("ridge-1000x100", "ridge", partial(regression, 1_000, 100)),
    ZooSet("ridge-100000x100", "ridge", partial(regression, 100_000, 100)),
]
BY_NAME = {each.name: each for each in SETS}
