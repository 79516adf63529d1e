"""What one pass over the data and one product with the inverse-Hessian estimate cost.

Each is a function of the data and of ``unit_of``, which times the unit, over all columns. The
problems are those of a search, with columns that are multiples of each other merged.
"""

import time
from itertools import cycle

import numpy as np

from hoag_shine import InverseHessian
from hoag_shine.problems.losses import LogisticLoss, MultinomialLoss
from hoag_shine.problems.requests import Evaluate, HessianProduct

from .problems import searched

REPEATS = 20
PAIRS = 30
# Of the losses, as many as a block of rows of a search.
ROWS, FOLDS = 2_000, 5


def pass_of_one(data, unit_of):
    """One value with its gradient, for one problem, in units."""
    problems = searched(data)
    ws = elsewhere(problems[0].n_params)
    return best(lambda: problems[0].value_and_grad(next(ws), np.zeros(1))) / unit_of(data["X"])


def pass_of_all(data, unit_of):
    """Values with gradients for all folds at once, in units."""
    problems = searched(data)
    ws = elsewhere(problems[0].n_params)

    def answer():
        request = Evaluate(next(ws))
        problems.answer(dict.fromkeys(range(len(problems)), request), np.zeros(1))

    return best(answer) / unit_of(data["X"])


def hessian_products_of_all(data, unit_of):
    """What a hypergradient asks for: along three vectors for all folds at once, in units."""
    problems = searched(data)
    w = some(problems[0].n_params)
    request = HessianProduct(w, np.stack([w, w, w]), single=True)
    requests = dict.fromkeys(range(len(problems)), request)
    problems.answer(requests, np.zeros(1))  # the curvature is kept
    return best(lambda: problems.answer(requests, np.zeros(1))) / unit_of(data["X"])


def recursion(data, unit_of):
    """The two-loop recursion's reads of its pairs, in units of the bandwidth of a copy."""
    n = data["X"].shape[1] + 1
    estimate = InverseHessian(n, PAIRS)
    rng = np.random.default_rng(0)
    for _ in range(PAIRS):
        s = rng.normal(size=n)
        estimate.append(s, s + 0.1 * rng.normal(size=n))
    v = rng.normal(size=n)
    source = np.ones(PAIRS * n)
    target = np.empty_like(source)
    copied = 2 * source.nbytes / best(lambda: np.copyto(target, source))
    # Two of the three vectors of a pair, twice each; there is room for one pair more.
    read = 4 / 3 * estimate.nbytes * PAIRS / (PAIRS + 1) / best(lambda: estimate @ v)
    return read / copied


def loss_of_two_classes(data, unit_of):
    """The logistic loss and its derivative, in nanoseconds an entry."""
    rng = np.random.default_rng(0)
    y, z = rng.integers(2, size=(ROWS, 1)).astype(float), rng.normal(size=(ROWS, FOLDS))
    return 1e9 * best(lambda: LogisticLoss().value_and_gradient(y, z)) / z.size


def loss_of_ten_classes(data, unit_of):
    """The softmax loss and its derivative, in nanoseconds an entry."""
    rng = np.random.default_rng(0)
    y, z = np.eye(10)[rng.integers(10, size=ROWS)][:, None], rng.normal(size=(ROWS, FOLDS, 10))
    return 1e9 * best(lambda: MultinomialLoss().value_and_gradient(y, z)) / z.size


def elsewhere(n):
    """Return points that are never the last one, whose linear predictors would be known."""
    return cycle([some(n), 2.0 * some(n)])


def some(n):
    return 1e-3 * np.random.default_rng(0).normal(size=n)


def best(call):
    call()

    def once():
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    return min(once() for _ in range(REPEATS))


KERNELS = {
    "value and gradient, one problem (units)": pass_of_one,
    "value and gradient, five folds (units)": pass_of_all,
    "three Hessian products in single precision, five folds (units)": hessian_products_of_all,
    "loss of two classes, five folds (ns an entry)": loss_of_two_classes,
    "loss of ten classes, five folds (ns an entry)": loss_of_ten_classes,
    "two-loop recursion (of the bandwidth of a copy)": recursion,
}
