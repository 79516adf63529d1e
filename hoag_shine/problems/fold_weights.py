"""The weights of all rows in the training losses of the folds, made when they are needed.

With many folds, as with one for each row that is left out, a column of weights for each of them
would take more memory than the data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class FoldWeights:
    """Training weights, by fold.

    Parameters
    ----------
    n_folds : int
    of_fold : callable
        Returns the weights of a fold, (n_rows,) or (n_rows, n_outputs), given its index.
    """

    def __init__(self, n_folds: int, of_fold: Callable[[int], Array]) -> None:
        self._n_folds = n_folds
        self._of_fold = of_fold

    def __len__(self) -> int:
        return self._n_folds

    def __getitem__(self, folds: slice) -> Array:
        """Return the weights of some folds, of shape (n_rows, k) or (n_rows, k, n_outputs)."""
        weights = np.stack([self._of_fold(k) for k in range(self._n_folds)[folds]])
        return np.ascontiguousarray(weights.swapaxes(0, 1))  # many times faster than axis=1

    @cached_property
    def n_train(self) -> int:
        """Number of rows with a weight, in the first or the last fold, whichever has fewer."""
        ends = self._of_fold(0), self._of_fold(self._n_folds - 1)
        return min(int(np.count_nonzero(w.reshape(len(w), -1).any(axis=1))) for w in ends)


def as_fold_weights(weights: Array | FoldWeights) -> FoldWeights:
    """Return an array of shape (n_rows, n_folds[, n_outputs]) as weights by fold."""
    if isinstance(weights, FoldWeights):
        return weights
    return _Given(weights)


class _Given(FoldWeights):
    """Weights that are an array already."""

    def __init__(self, weights: Array) -> None:
        super().__init__(weights.shape[1], lambda k: weights[:, k])
        self._weights = weights

    def __getitem__(self, folds: slice) -> Array:
        return self._weights[:, folds]
