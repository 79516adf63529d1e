"""Hyperparameter optimisation by hypergradients, with the manners of scikit-learn.

:class:`ShineCV` tunes the penalty of a linear model; :func:`hoag` is the optimiser beneath it, for
any bilevel problem. Names are loaded when they are first used.
"""

from importlib import import_module
from typing import Any

from ._version import __version__

# The module of each name; type checkers read __init__.pyi.
_HOMES = {
    "Certificate": "outer.steps",
    "GeneralizedLinear": "estimators.generalized_linear",
    "HoagResult": "outer.hoag",
    "HuberLoss": "problems.losses",
    "Hypergradient": "hypergradients",
    "InverseHessian": "inner",
    "LogisticLoss": "problems.losses",
    "Loss": "problems.losses",
    "MultinomialLoss": "problems.losses",
    "L2": "problems.penalties",
    "Outcome": "outer.steps",
    "Penalty": "problems.penalties",
    "Problem": "problems.base",
    "ArrayBlocks": "linalg.row_blocks",
    "CSRBlocks": "linalg.row_blocks",
    "ParquetBlocks": "linalg.row_blocks",
    "ProblemSet": "problems.base",
    "RowBlocks": "linalg.row_blocks",
    "ShineCV": "search",
    "ShineCurveDisplay": "plotting",
    "ShinePathDisplay": "plotting",
    "SigmoidSquaredLoss": "problems.losses",
    "Solution": "inner",
    "SquaredHingeLoss": "problems.losses",
    "SquaredLoss": "problems.losses",
    "Status": "inner",
    "TweedieLoss": "problems.losses",
    "fold_problems": "search.folds",
    "hoag": "outer.hoag",
    "load_dataset": "datasets",
    "minimize_lbfgs": "inner",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hoag_shine' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
