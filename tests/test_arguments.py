"""Bad arguments end, before any work, in an error that names them."""

from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from helpers import Quadratic, diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from hoag_shine import (
    L2,
    GeneralizedLinear,
    HuberLoss,
    InverseHessian,
    ShineCV,
    SquaredLoss,
    TweedieLoss,
    fold_problems,
    hoag,
    minimize_lbfgs,
)
from hoag_shine.hypergradients import METHODS
from hoag_shine.outer.hoag import SELECTIONS
from hoag_shine.outer.steps import RULES
from hoag_shine.outer.tolerances import SCHEDULES
from hoag_shine.testing import (
    check_hypergradient,
    check_inner_solver,
    check_loss,
    check_penalty,
    check_problem,
)

X, Y = diabetes()

# What is tried for every argument: of the wrong kind, or a number that nobody means.
BAD = {
    "None": None,
    "str": "x",
    "bytes": b"x",
    "True": True,
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "-1": -1,
    "0": 0,
    "0.5": 0.5,
    "1e400": 10**400,
    "1e5000": 10**5000,
    "object": object(),
    "type": int,
    "list": [],
    "[None]": [None],
    "[1e400]": [10**400],
    "tuple": (1, 2, 3),
    "dict": {},
    "complex": 1j,
    "array": np.ones((2, 2, 2)),
}


def no_work(*args, **options):
    raise AssertionError("work was done before the arguments were checked")


def search(**options):
    # The last thing that is looked at before the work begins.
    ShineCV(**{"estimator": Ridge(), "cv": 3, "callback": no_work} | options).fit(X, Y)


def search_fit(**arguments):
    ShineCV(Ridge(), cv=3, callback=no_work).fit(**{"X": X, "y": Y} | arguments)


def outer(**arguments):
    hoag(**{"problem": PROBLEMS, "callback": no_work} | arguments)


def folds(**arguments):
    fold_problems(**{"estimator": Ridge(), "X": X, "y": Y, "cv": 3} | arguments)


def solver(**arguments):
    minimize_lbfgs(**{"problem": PROBLEMS[0], "theta": [0.0]} | arguments)


def estimator(**options):
    GeneralizedLinear(**options).fit(X, Y)


def tweedie(power):
    TweedieLoss(power)


def poisson(unit):
    TweedieLoss(1.0, unit)


def pairs(memory):
    InverseHessian(3, memory)


def loss_check(**arguments):
    check_loss(**{"loss": SquaredLoss()} | arguments)


def problem_check(**arguments):
    check_problem(**{"problem": SMALL} | arguments)


def penalty_check(**arguments):
    check_penalty(**{"penalty": L2()} | arguments)


def inner_solver_check(**arguments):
    check_inner_solver(**{"solver": "lbfgs", "problem": PROBLEMS[0]} | arguments)


def hypergradient_check(**arguments):
    check_hypergradient(**{"method": "exact", "problem": SMALL} | arguments)


PROBLEMS = fold_problems(Ridge(), X, Y, cv=3)
SMALL = Quadratic(np.eye(4), np.ones(4), np.ones(4), np.zeros(4, dtype=int))

# For each argument those of the values above that are good for it, so that nothing is refused.
GOOD = {
    search: {
        "estimator": "",
        "cv": "None",
        "hypergradient": "type",  # a function, whatever it does
        "inner_solver": "type",
        "penalty": "",
        "shrinkage": "0 0.5",
        "init": "None 0.5",
        "bounds": "",
        "tol": "0.5",
        "max_iter": "1e400 1e5000",
        "max_time": "None inf 0.5",
        "selection": "",
        "refit": "True type",
        "refit_penalty": "",
        "scoring": "None type",
        "return_train_score": "True",
        "error_score": "nan inf -inf -1 0 0.5",
        "n_jobs": "None -1 1e400 1e5000",
        "random_state": "None 0 True",
        "verbose": "True inf 0 0.5 1e400 1e5000",
        "callback": "None type",
        "warm_start": "True",
    },
    search_fit: {"X": "", "y": "", "sample_weight": "None True 0.5"},
    outer: {
        "problem": "",
        "theta": "None True -1 0 0.5",
        "hypergradient": "type",
        "inner_solver": "type",
        "step": "type",
        "first_step": "None 0.5",
        "tolerance": "type",
        "bounds": "",
        "tol": "0.5",
        "max_iter": "1e400 1e5000",
        "memory": "",
        "max_inner_iter": "1e400 1e5000",
        "shrinkage": "0 0.5",
        "selection": "",
        "max_time": "None inf 0.5",
        "start": "None",
        "n_jobs": "None -1 1e400 1e5000",
        "callback": "None type",
    },
    folds: {
        "estimator": "",
        "X": "",
        "y": "",
        "cv": "None",
        "penalty": "",
        "sample_weight": "None True 0.5",
        "random_state": "None 0 True",
    },
    solver: {
        "problem": "",
        "theta": "True -1 0 0.5",
        "w": "None",
        "tol": "0 0.5 inf",
        "max_iter": "0 1e400 1e5000",
        "memory": "",
        "inverse_hessian": "None",
        "initial": "None type",
        "probe": "None type",
    },
    estimator: {
        "loss": "None",
        "penalty": "None",
        "alpha": "0.5",
        "fit_intercept": "True",
        "tol": "0.5",
        "max_iter": "1e400 1e5000",
    },
    HuberLoss: {"epsilon": "", "unit": "0.5"},
    tweedie: {"power": "-1 0"},
    poisson: {"unit": "0.5"},
    pairs: {"memory": ""},
    loss_check: {
        "loss": "",
        "targets": "None tuple",
        "n_outputs": "None",
        "largest": "0.5",
        "rtol": "0.5",
        "random_state": "None 0 True",
    },
    problem_check: {
        "problem": "",
        "theta": "None True -1 0 0.5",
        "w": "None",
        "rtol": "0.5",
        "random_state": "None 0 True",
    },
    penalty_check: {
        "penalty": "",
        "largest": "0.5",
        "rtol": "0.5",
        "random_state": "None 0 True",
    },
    inner_solver_check: {
        "solver": "type",
        "problem": "",
        "theta": "None True -1 0 0.5",
        "tol": "0.5",
        "max_iter": "1e400 1e5000",
    },
    hypergradient_check: {
        "method": "type",
        "problem": "",
        "theta": "None True -1 0 0.5",
        "exact": "True",
        "tol": "0 0.5",
        "rtol": "0.5",
    },
}

CASES = [
    pytest.param(function, name, value, id=f"{function.__name__}-{name}-{label}")
    for function, arguments in GOOD.items()
    for name, good in arguments.items()
    for label, value in BAD.items()
    if label not in good.split()
]


@pytest.mark.parametrize(("function", "name", "value"), CASES)
def test_a_bad_argument_is_refused_by_name(function, name, value):
    with pytest.raises((ValueError, TypeError), match=rf"(?s)\b{name}\b"):
        function(**{name: value})


@pytest.mark.parametrize("label", sorted(BAD.keys() - {"0", "0.5"}))
def test_a_schedule_must_return_tolerances(label):
    with pytest.raises((ValueError, TypeError), match="what tolerance returns must be"):
        hoag(PROBLEMS, tolerance=lambda k: BAD[label])


@pytest.mark.parametrize("name", ["X", "y", "sample_weight"])
def test_numbers_that_float64_cannot_hold_are_refused_in_arrays(name):
    huge = [10**400] * 442
    with pytest.raises(ValueError, match=f"{name} cannot be used"):
        search_fit(**{name: [[each] for each in huge] if name == "X" else huge})


def test_more_classes_than_memory_can_hold_are_refused_early():
    y = np.repeat(np.arange(300_000), 4)
    with pytest.raises(ValueError, match=r"y has 300000 classes.* GiB of memory"):
        ShineCV(LogisticRegression(), cv=2).fit(np.zeros((y.size, 1)), y)


def test_a_thousand_classes_are_fine():
    y = np.repeat(np.arange(1000), 2)
    X = np.random.default_rng(0).normal(size=(2000, 2))
    with pytest.warns(ConvergenceWarning):
        found = ShineCV(LogisticRegression(), cv=2, max_iter=1, tol=0.5).fit(X, y)
    assert found.classes_.size == 1000


@pytest.mark.parametrize(
    ("function", "option", "words"),
    [
        (hoag, "hypergradient", METHODS),
        (hoag, "step", ["auto", *RULES]),
        (hoag, "tolerance", SCHEDULES),
        (hoag, "selection", SELECTIONS),
        (ShineCV.__init__, "hypergradient", METHODS),
        (ShineCV.__init__, "selection", SELECTIONS),
    ],
)
def test_types_of_options_are_the_words_that_are_known(function, option, words):
    kind = get_type_hints(function)[option]
    kinds = kind, *get_args(kind)
    (literal,) = (one for one in kinds if get_origin(one) is Literal)
    assert set(get_args(literal)) == set(words)
