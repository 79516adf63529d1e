"""Losses, a file for each family: functions of a target and a linear predictor."""

from .base import Loss
from .hinge import SquaredHingeLoss
from .huber import HuberLoss
from .logistic import LogisticLoss, MultinomialLoss, SigmoidSquaredLoss
from .squared import SquaredLoss
from .tweedie import TweedieLoss

__all__ = [
    "HuberLoss",
    "LogisticLoss",
    "Loss",
    "MultinomialLoss",
    "SigmoidSquaredLoss",
    "SquaredHingeLoss",
    "SquaredLoss",
    "TweedieLoss",
]
