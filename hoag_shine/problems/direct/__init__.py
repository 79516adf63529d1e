"""Inner problems that are solved to the accuracy of the arithmetic, because they are small."""

from .problems import MANY_FOLDS, MANY_NUMBERS, DirectProblems, DirectSolution, Sizes, affordable

__all__ = ["MANY_FOLDS", "MANY_NUMBERS", "DirectProblems", "DirectSolution", "Sizes", "affordable"]
