"""Inner problems that are so small that they are solved to the accuracy of the arithmetic."""

from .problems import (
    MAX_ITERATED_FOLDS,
    MAX_KEPT_NUMBERS,
    DirectProblems,
    DirectSolution,
    Sizes,
    affordable,
)

__all__ = [
    "MAX_ITERATED_FOLDS",
    "MAX_KEPT_NUMBERS",
    "DirectProblems",
    "DirectSolution",
    "Sizes",
    "affordable",
]
