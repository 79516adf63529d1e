"""Hyperparameter optimisation by hypergradients, with the manners of scikit-learn.

:class:`ShineCV` tunes the penalty of a linear model; :func:`hoag` is the optimiser beneath it, for
any bilevel problem. Names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .datasets import load_dataset
    from .estimators.generalized_linear import GeneralizedLinear
    from .folds import fold_problems
    from .hypergradients import Hypergradient
    from .inner.inverse_hessian import InverseHessian
    from .inner.lbfgs import Solution, Status, minimize_lbfgs
    from .outer import HoagResult, hoag
    from .plotting import ShinePathDisplay
    from .problems.base import Problem, ProblemSet
    from .problems.losses import (
        HuberLoss,
        LogisticLoss,
        Loss,
        MultinomialLoss,
        SigmoidSquaredLoss,
        SquaredHingeLoss,
        SquaredLoss,
        TweedieLoss,
    )
    from .search import ShineCV
    from .steps import Certificate, Outcome

_HOMES = {
    "Certificate": "steps",
    "GeneralizedLinear": "estimators.generalized_linear",
    "HoagResult": "outer",
    "HuberLoss": "problems.losses",
    "Hypergradient": "hypergradients",
    "InverseHessian": "inner.inverse_hessian",
    "LogisticLoss": "problems.losses",
    "Loss": "problems.losses",
    "MultinomialLoss": "problems.losses",
    "Outcome": "steps",
    "Problem": "problems.base",
    "ProblemSet": "problems.base",
    "ShineCV": "search",
    "ShinePathDisplay": "plotting",
    "SigmoidSquaredLoss": "problems.losses",
    "Solution": "inner.lbfgs",
    "SquaredHingeLoss": "problems.losses",
    "SquaredLoss": "problems.losses",
    "Status": "inner.lbfgs",
    "TweedieLoss": "problems.losses",
    "fold_problems": "folds",
    "hoag": "outer",
    "load_dataset": "datasets",
    "minimize_lbfgs": "inner.lbfgs",
}

__all__ = [
    "Certificate",
    "GeneralizedLinear",
    "HoagResult",
    "HuberLoss",
    "Hypergradient",
    "InverseHessian",
    "LogisticLoss",
    "Loss",
    "MultinomialLoss",
    "Outcome",
    "Problem",
    "ProblemSet",
    "ShineCV",
    "ShinePathDisplay",
    "SigmoidSquaredLoss",
    "Solution",
    "SquaredHingeLoss",
    "SquaredLoss",
    "Status",
    "TweedieLoss",
    "__version__",
    "fold_problems",
    "hoag",
    "load_dataset",
    "minimize_lbfgs",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hoag_shine' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
