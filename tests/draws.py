"""Problems that are drawn: estimators, data, weights, folds and penalties, each by one number."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from exact import huber, log_cosh, logistic, softmax, squared, squared_hinge, tweedie
from scipy import sparse
from sklearn.linear_model import (
    GammaRegressor,
    HuberRegressor,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    TweedieRegressor,
)
from sklearn.model_selection import (
    KFold,
    LeaveOneOut,
    PredefinedSplit,
    RepeatedKFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
    check_cv,
)
from sklearn.svm import LinearSVC

import hoag_shine
from hoag_shine import GeneralizedLinear, Loss

# Estimators: what each minimises, by scikit-learn's user guide.


@dataclass(frozen=True)
class Kind:
    """What an estimator fits: a loss, its targets and weights, and its penalty in units of alpha.

    Attributes
    ----------
    make : callable
        Given a generator and the drawn options, returns the estimator.
    loss : callable
        Given the estimator and y, returns the loss.
    targets : str
        "real", "positive", "counts", "classes" or "labels".
    strength : float
        h / alpha.
    n : int
        Classes or targets.
    coded : str
        How targets are given to the loss: "as is", "0/1", "-1/1" or "one-hot".
    normalised : bool
        Whether training weights sum to one.
    """

    make: Callable
    loss: Callable
    targets: str
    strength: float = 2.0
    n: int = 1
    coded: str = "as is"
    normalised: bool = False
    convex: bool = True


class LogCosh(Loss):
    """Grows linearly: a loss of one's own."""

    convex = True

    def value(self, y, z):
        r = np.abs(z - y)
        return r + np.log1p(np.exp(-2.0 * r)) - np.log(2.0)

    def gradient(self, y, z):
        return np.tanh(z - y)

    def hessian(self, y, z):
        e = np.exp(-2.0 * np.abs(z - y))
        return 4.0 * e / (1.0 + e) ** 2


def _fixed(loss):
    return lambda estimator, y: loss


def _huber_of(estimator, y):
    size = np.median(np.abs(y - np.median(y) * estimator.fit_intercept)) or np.abs(y).max() or 1.0
    return huber(estimator.epsilon, 1e-9 * size)


def _power(estimator, y):
    return (
        squared if estimator.power == 0 and estimator.link == "auto" else tweedie(estimator.power)
    )


def _classifier(cls, **options):
    return lambda rng, common: cls(**options, **common, class_weight=_class_weight(rng))


def _class_weight(rng):
    return [None, None, None, "balanced", {1: 4.0}][rng.integers(5)]


def _own(make):
    return lambda rng, common: GeneralizedLinear(make(), **common)


def _plain(cls, **options):
    return lambda rng, common: cls(**options, **common)


def _built_in(name, *arguments):
    def make():
        return getattr(hoag_shine, name)(*arguments)

    return make


def _choice(rng, options):
    return options[rng.integers(len(options))]


KINDS = {
    "logistic": Kind(_classifier(LogisticRegression), _fixed(logistic), "classes", 1.0, 2, "0/1"),
    "logistic-liblinear": Kind(
        _classifier(LogisticRegression, solver="liblinear"),
        _fixed(logistic),
        "classes",
        1.0,
        2,
        "0/1",
    ),
    "multinomial": Kind(
        _classifier(LogisticRegression), _fixed(softmax), "classes", 1.0, 3, "one-hot"
    ),
    "svc": Kind(_classifier(LinearSVC), _fixed(squared_hinge), "classes", 1.0, 2, "-1/1"),
    "svc-classes": Kind(_classifier(LinearSVC), _fixed(squared_hinge), "classes", 1.0, 3, "-1/1"),
    "ridge": Kind(_plain(Ridge), _fixed(squared), "real"),
    "ridge-targets": Kind(_plain(Ridge), _fixed(squared), "real", n=3),
    "ridge-classifier": Kind(
        _classifier(RidgeClassifier), _fixed(squared), "classes", 2.0, 2, "-1/1"
    ),
    "ridge-classifier-classes": Kind(
        _classifier(RidgeClassifier), _fixed(squared), "classes", 2.0, 3, "-1/1"
    ),
    "huber": Kind(
        lambda rng, common: HuberRegressor(epsilon=_choice(rng, [1.35, 1.1, 3.0]), **common),
        _huber_of,
        "outliers",
    ),
    "poisson": Kind(_plain(PoissonRegressor), _fixed(tweedie(1)), "counts", normalised=True),
    "gamma": Kind(_plain(GammaRegressor), _fixed(tweedie(2)), "positive", normalised=True),
    "tweedie": Kind(
        lambda rng, common: TweedieRegressor(power=_choice(rng, [1.2, 1.5, 1.9]), **common),
        _power,
        "counts",
        normalised=True,
    ),
    "tweedie-normal": Kind(_plain(TweedieRegressor), _power, "real", normalised=True),
    "tweedie-cubic": Kind(
        _plain(TweedieRegressor, power=3), _power, "positive", normalised=True, convex=False
    ),
    "own-loss": Kind(_own(LogCosh), _fixed(log_cosh), "real", 1.0),
    "built-in-squared": Kind(_own(_built_in("SquaredLoss")), _fixed(squared), "real", 1.0),
    "built-in-logistic": Kind(_own(_built_in("LogisticLoss")), _fixed(logistic), "0/1", 1.0, 1),
    "built-in-hinge": Kind(
        _own(_built_in("SquaredHingeLoss")), _fixed(squared_hinge), "-1/1", 1.0, 1
    ),
    "built-in-poisson": Kind(
        _own(_built_in("TweedieLoss", 1.0)), _fixed(tweedie(1)), "counts", 1.0
    ),
}


# Drawn problems.


@dataclass
class Drawn:
    """A problem: what ShineCV is given."""

    seed: int
    name: str
    estimator: Any
    X: Any
    y: Any
    sample_weight: Any
    cv: Any
    penalty: Any
    options: dict
    ordinary: bool
    notes: dict = field(default_factory=dict)

    @property
    def kind(self):
        return KINDS[self.name]

    def __str__(self):
        about = " ".join(f"{key}={value}" for key, value in self.notes.items())
        return f"seed {self.seed} ({self.name}): {about}"


def draw(seed):
    """Return the problem of that number."""
    names = list(KINDS)
    name = names[seed % len(names)]
    kind, rng = KINDS[name], np.random.default_rng([16, seed])
    notes = {}
    n, p = _size(rng, notes)
    Z = _columns(rng, n, p, notes)
    y, plain_target = _target(rng, kind, Z, notes)
    X, plain_scale = _scaled(rng, Z, notes)
    X = _layout(rng, X, notes)
    weight, plain_weight = _weights(rng, n, notes)
    cv = _folds(rng, kind, y, weight, notes)
    if not _usable(cv, kind, y, weight):
        weight, notes["weights"] = None, "none"
    common = {"fit_intercept": bool(rng.random() < 0.85)}
    if not common["fit_intercept"]:
        notes["intercept"] = False
    estimator = kind.make(rng, common)
    if hasattr(estimator, "intercept_scaling") and rng.random() < 0.3:
        estimator.set_params(intercept_scaling=2.0)
    if getattr(estimator, "class_weight", None) is not None:
        notes["class_weight"] = estimator.class_weight
    penalty = _penalty(rng, kind, Z, notes)
    options = {"max_iter": int(_choice(rng, [2, 2, 2, 3, 3, 3, 4, 4, 6, 10]))}
    if rng.random() < 0.15:
        options["tol"] = 1e-3
    if rng.random() < 0.1:
        options["hypergradient"] = _choice(rng, ["cg", "shine"])
    if rng.random() < 0.3:
        options["init"] = float(10.0 ** rng.uniform(-4, 4))
    notes.update(options)
    ordinary = plain_target and plain_scale and plain_weight and notes["X"] != "counts"
    # Huber's scale collapses where all rows can be fitted.
    ordinary = ordinary and (name != "huber" or X.shape[1] < len(y) // 2)
    return Drawn(seed, name, estimator, X, y, weight, cv, penalty, options, ordinary, notes)


def _size(rng, notes):
    shape = _choice(rng, ["wide", "wide", "square", "tall", "tall"])
    if rng.random() < 0.02:
        n = int(rng.integers(60, 121))
        p = {"wide": int(rng.integers(150, 301)), "square": n, "tall": n // 3}[shape]
    elif shape == "wide":
        n = int(rng.integers(14, 36))
        p = int(rng.integers(n + 4, 90))
    elif shape == "square":
        n = int(rng.integers(14, 28))
        p = n + int(rng.integers(-2, 3))
    else:
        n, p = int(rng.integers(30, 81)), int(rng.integers(1, 11))
    notes |= {"n": n, "p": p}
    return n, p


def _columns(rng, n, p, notes):
    """Return columns of about unit scale."""
    kind = _choice(rng, ["normal", "normal", "correlated", "genotypes", "counts", "sparse"])
    notes["X"] = kind
    if kind == "normal":
        Z = rng.normal(size=(n, p))
    elif kind == "correlated":
        r = max(1, min(n, p) // 3)
        Z = rng.normal(size=(n, r)) @ rng.normal(size=(r, p)) / np.sqrt(r)
        Z += 0.1 * rng.normal(size=(n, p))
    elif kind == "genotypes":
        Z = rng.binomial(2, rng.uniform(0.05, 0.5, p), size=(n, p)).astype(float)
    elif kind == "counts":
        Z = rng.poisson(10.0 ** rng.uniform(-0.5, 1.0, p), size=(n, p)).astype(float)
    else:
        Z = rng.normal(size=(n, p)) * (rng.random((n, p)) < 0.3)
    odd = []
    if rng.random() < 0.1:
        Z[:, 0] = 1.0
        odd.append("constant")
    if rng.random() < 0.05:
        Z[:, -1] = 0.0
        odd.append("empty")
    if rng.random() < 0.1 and p > 2:
        Z[:, 1] = Z[:, 2]
        odd.append("twin columns")
    if rng.random() < 0.1:
        Z[: n // 4] = Z[n // 4 : 2 * (n // 4)]
        odd.append("twin rows")
    if kind == "normal" and rng.random() < 0.2:
        Z += 5.0 * rng.normal(size=p)
        odd.append("off centre")
    if odd:
        notes["odd"] = "+".join(odd)
    return Z


def _target(rng, kind, Z, notes):
    n, p = Z.shape
    beta = rng.normal(size=(p, kind.n)) * (rng.random((p, 1)) < max(0.3, 2.0 / p))
    beta[p // 2] = rng.normal(size=kind.n)
    signal = (Z - Z.mean(axis=0)) @ beta
    signal /= np.where(signal.std(axis=0) > 0.0, signal.std(axis=0), 1.0)
    noise = _choice(rng, [0.0, 0.3, 0.3, 1.0, 1.0, 3.0])
    notes["noise"] = noise
    plain = noise > 0.0
    seen = signal + noise * rng.normal(size=signal.shape)
    if kind.targets == "classes":
        if kind.n == 2:
            score = seen[:, 0] - seen[:, 1]
            y = (score > np.quantile(score, rng.uniform(0.3, 0.7))).astype(int)
        else:
            y = seen.argmax(axis=1)
        return _of_each(y, kind.n), plain
    seen = seen if kind.n > 1 else seen[:, 0]
    if kind.targets == "0/1":
        return _of_each(seen > np.median(seen), 2).astype(float), plain
    if kind.targets == "-1/1":
        return 2.0 * _of_each(seen > np.median(seen), 2) - 1.0, plain
    seen = np.clip(seen, -5.0, 5.0)
    unit = 1.0 if rng.random() < 0.7 else 10.0 ** rng.uniform(-3, 4)
    if isinstance(kind.make(rng, {}), GeneralizedLinear) and kind.targets == "real":
        unit = min(unit, 10.0)  # losses of one's own need not know of units
    if unit != 1.0:
        notes["unit"] = float(f"{unit:.2g}")
    if kind.targets == "counts":
        y = rng.poisson(np.exp(1.0 + 0.5 * seen)).astype(float)
        y[:2] += 1.0
        return y * unit, True
    if kind.targets == "positive":
        return unit * np.exp(0.5 * seen) * (rng.gamma(3.0, size=n) if noise else 1.0), plain
    if kind.targets == "outliers":
        seen = seen + 20.0 * rng.normal(size=n) * (rng.random(n) < 0.1)
    return unit * (seen + _choice(rng, [0.0, 0.0, 3.0])), plain


def _of_each(y, n_classes):
    """Return labels of which there are four of each class at least."""
    y = y.astype(int)
    if np.bincount(y, minlength=n_classes).min() < 4:
        y[: 4 * n_classes] = np.tile(np.arange(n_classes), 4)
    return y


def _scaled(rng, Z, notes):
    way = _choice(rng, ["as is", "as is", "as is", "common", "common", "mixed", "wildly mixed"])
    p = Z.shape[1]
    if way == "as is":
        return Z, True
    low, high = {"common": (-6, 9), "mixed": (-2, 2), "wildly mixed": (-6, 9)}[way]
    scale = 10.0 ** rng.uniform(low, high, 1 if way == "common" else p)
    notes["scale"] = f"{scale.min():.1g}" + (f"..{scale.max():.1g}" if way != "common" else "")
    return Z * scale, way == "mixed"


def _layout(rng, X, notes):
    dtype = _choice(rng, [np.float64, np.float64, np.float64, np.float32])
    layout = _choice(rng, ["C", "F", "csr"])
    notes["layout"] = f"{layout}{8 * np.dtype(dtype).itemsize}"
    X = X.astype(dtype)
    return {"C": np.ascontiguousarray, "F": np.asfortranarray, "csr": sparse.csr_array}[layout](X)


def _weights(rng, n, notes):
    way = _choice(rng, ["none", "none", "none", "uniform", "counts", "huge", "huge and zero"])
    if way == "none":
        return None, True
    notes["weights"] = way
    if way == "uniform":
        return rng.uniform(0.5, 2.0, n), True
    if way == "counts":
        return rng.integers(0, 4, n).astype(float), True
    weight = 10.0 ** rng.uniform(0, 8, n)
    if way == "huge and zero":
        weight[rng.random(n) < 0.2] = 0.0
    return weight, False


def _folds(rng, kind, y, weight, notes):
    n = len(y)
    way = _choice(
        rng,
        [
            "number",
            "number",
            "shuffled",
            "repeated",
            "one out",
            "time",
            "overlapping",
            "custom",
            "bootstrap",
            "predefined",
        ],
    )
    if way == "one out" and n > 26:
        way = "shuffled"
    seed = int(rng.integers(1000))
    split, repeated = KFold, RepeatedKFold
    if kind.targets == "classes":
        split, repeated = StratifiedKFold, RepeatedStratifiedKFold
    ends = rng.permutation(n)
    cv = {
        "number": 3,
        "shuffled": split(4, shuffle=True, random_state=seed),
        "repeated": repeated(n_splits=3, n_repeats=2, random_state=seed),
        "one out": LeaveOneOut(),
        "time": TimeSeriesSplit(3),
        "overlapping": ShuffleSplit(4, test_size=0.3, random_state=seed),
        "custom": [(ends[n // 3 :], ends[: n // 3]), (ends[: -n // 4], ends[-n // 4 :])],
        "bootstrap": [(rng.integers(0, n, n), rng.permutation(n)[: n // 2]) for _ in range(3)],
        "predefined": PredefinedSplit(np.where(np.arange(n) % 3 == 0, 0, -1)),
    }[way]
    if not _usable(cv, kind, y, weight):
        way, cv = "halves", split(2, shuffle=True, random_state=seed)
    notes["cv"] = way
    return cv


def _usable(cv, kind, y, weight):
    """Whether every fold has weight, each class of y, and targets that are not all zero."""
    weight = np.ones(len(y)) if weight is None else weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            splits = splits_of(cv, kind, y)
        except (UserWarning, ValueError):  # too few of a class
            return False
    for train, test in splits:
        used = train[weight[train] > 0.0]
        if not weight[test].any() or used.size < 2:
            return False
        if kind.targets == "classes" and np.unique(y[used]).size < kind.n:
            return False
        if kind.targets in ("counts", "0/1", "-1/1") and np.unique(y[used]).size < 2:
            return False
    return True


def splits_of(cv, kind, y):
    splitter = check_cv(cv, y, classifier=kind.targets == "classes")
    return list(splitter.split(np.zeros((len(y), 1)), y))


def _penalty(rng, kind, Z, notes):
    n, p = Z.shape
    ways = ["shared", "shared", "groups", "feature", "output"]
    way = _choice(rng, ways)
    if way == "output" and kind.n < 3:
        way = "shared"
    if way == "feature" and p > 30:
        way = "groups"
    if way == "groups" and p < 4:
        way = "feature"
    if way == "shared":
        return "shared"
    notes["penalty"] = way
    if way != "groups":
        return way
    labels = rng.integers(0, int(rng.integers(2, 4)), p)
    labels[:2] = 0, 1
    free = Z.std(axis=0) > 0.3
    if rng.random() < 0.3 and kind.targets in ("real", "outliers") and n > 20 and free[3]:
        labels[3] = -1
        notes["penalty"] = "groups, one free"
    return labels
