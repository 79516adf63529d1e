"""The folds' linear predictors, kept so that few passes are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .by_fold import ByFold, columns
from .losses import Loss
from .passes import Passes
from .requests import Evaluate

Vector = NDArray[np.float64]
Array = NDArray[np.float64]


class LinearPredictors:
    """The folds' last linear predictors, the earlier ones, and the curvatures of the loss.

    The earlier ones serve line searches: between two points, predictors are interpolated. Line
    searches need no curvatures, so that the two share memory: at any time, one of ``_earlier`` and
    ``_curvatures`` has it.

    Parameters
    ----------
    passes : Passes
    y : ndarray of shape (n_samples, 1, n_outputs)
    loss : Loss
    n_folds : int
    """

    def __init__(self, passes: Passes, y: Array, loss: Loss, n_folds: int) -> None:
        self._passes, self._y, self._loss, self._n_folds = passes, y, loss, n_folds
        self._earlier, self._curvatures = (ByFold(len(y), n_folds) for _ in range(2))

    @cached_property
    def _last(self) -> ByFold:
        """The last ones; those at zero, where searches begin, are known without a pass."""
        everyone = range(self._n_folds)
        n_params = self._passes.n_variables * self._passes.n_outputs
        last = ByFold(len(self._y), self._n_folds)
        last.reserve(everyone, self._passes.n_outputs).fill(0.0)
        last.mark(everyone, np.zeros((self._n_folds, n_params)))
        return last

    def forget(self) -> None:
        """Have all be computed anew, as they were computed with less precision than is wanted."""
        for values in (self._last, self._earlier, self._curvatures):
            values.forget()

    def unknown(self, ws: Mapping[int, Vector]) -> list[int]:
        """Return the folds whose predictors at their w are not known."""
        return self._last.unknown(ws)

    def renew(self, folds: Sequence[int]) -> Array:
        """Return memory for predictors of some folds; their last ones become the earlier ones."""
        self._curvatures.lend_to(self._earlier)
        # Of all folds, the two arrays change places; of some, values are copied.
        if len(folds) == self._n_folds:
            self._last, self._earlier = self._earlier, self._last
        else:
            self._earlier.copy_from(self._last, folds)
        return self._last.reserve(folds, self._passes.n_outputs)

    def mark(self, folds: Sequence[int], ws: Sequence[Vector] | Array) -> None:
        """Say at which w the predictors are that have been written to the memory."""
        self._last.mark(folds, ws)

    def at(self, ws: Mapping[int, Vector]) -> Array:
        """Return the linear predictors of each fold of ``ws``, (sample, fold, output)."""
        if new := self.unknown(ws):
            V = np.stack([ws[k] for k in new])
            self.renew(new)[:, columns(new)] = self._passes.predict(V)
            self.mark(new, V)
        return self._last.of(list(ws))

    def interpolate(self, requests: Mapping[int, Evaluate]) -> None:
        """Find the linear predictors of points on lines through two points whose own are known.

        :math:`z(w + t (w' - w)) = z(w) + t (z(w') - z(w))`. The earlier ones stay those of the
        line's start, so that rounding errors do not add up from step to step.
        """
        for k, (w, line) in requests.items():
            if line is None or not self._earlier.knows(k, line.start):
                continue
            if self._last.knows(k, line.end):
                start, end = self._earlier.of([k]), self._last.of([k])
                Z = start + line.share * (end - start)
                if np.isfinite(Z).all():
                    self._last.reserve([k], self._passes.n_outputs)[:, [k]] = Z
                    self._last.mark([k], [w.copy()])

    def find_curvatures(self, ws: Mapping[int, Vector]) -> None:
        """See to it that the loss's second derivatives are known at the w of some folds."""
        if not self._curvatures.unknown(ws):
            return
        # For all folds that are asked for, known ones too: to find predictors may have taken the
        # memory of their curvatures.
        folds, Z = list(ws), self.at(ws)
        self._earlier.lend_to(self._curvatures)

        for rows in self._passes.portions():  # of the arrays; X is not read
            D = self._loss.hessian(self._y[rows], Z[rows])
            self._curvatures.reserve(folds, D.shape[2])[rows, columns(folds)] = D
        self._curvatures.mark(folds, np.stack(list(ws.values())))

    def curvatures(self, folds: Sequence[int], rows: slice) -> Array:
        """Return the second derivatives that were found, of some rows."""
        return self._curvatures.of(folds, rows)
