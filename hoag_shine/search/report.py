"""What happens after each outer iteration of a search: scores, a line of text, callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inner import Solution
from .callbacks import Task
from .folds import DesignGroup, FoldedData
from .refit import fitted_model
from .scoring import Scores
from .summary import bytes_moved


class Report:
    """The callback that a search gives to :func:`hoag`.

    Parameters
    ----------
    search : ShineCV
        Its ``verbose``, ``callback`` and ``penalty`` are used.
    data : FoldedData
    scores : Scores
    task : Task
        The search, as scikit-learn's callbacks see it.
    limits : ndarray of shape (2, n_penalties)
        Smallest and largest values of the estimator's parameter.
    as_if_ended : callable, optional
        Returns the fitted attributes that the search would have if it had ended there, given the
        record and the inner solutions; for callbacks that ask for them.
    """

    def __init__(
        self,
        search: Any,
        data: FoldedData,
        scores: Scores,
        task: Task,
        limits: NDArray[np.float64],
        as_if_ended: Callable[[dict[str, Any], Sequence[Solution]], dict[str, Any]] | None,
    ) -> None:
        self.search = search
        self.data = data
        self.scores = scores
        self.task = task
        self.limits = limits
        self.as_if_ended = as_if_ended
        self._last = -1  # the iteration that was reported last

    def __call__(self, record: dict[str, Any], solutions: Sequence[Solution]) -> bool:
        record["params"] = self.params(record)
        self.score(record, solutions)
        if record["iteration"] == self._last:  # a more accurate evaluation at the same penalty
            return False
        self._last = record["iteration"]
        if self.search.verbose > 0:
            print(self._line(record), flush=True)  # noqa: T201
        fitted = self.as_if_ended and partial(self.as_if_ended, record, solutions)
        stop = self.task.subtask("iteration").report(fitted)
        callback = self.search.callback
        return bool(callback is not None and callback(record)) or stop

    def score(self, record: dict[str, Any], solutions: Sequence[Solution]) -> None:
        """Score the folds' models; the scores replace earlier ones of this iteration."""
        (value,) = record["params"].values()

        def model(design: DesignGroup, solution: Solution) -> Any:
            return fitted_model(design, value, solution, by_output=self.by_output)

        self.scores.record(record["iteration"], model, solutions)

    def params(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the estimator's parameter, as in ``best_params_``."""
        return self.parameter(record["theta"], self.limits)

    def parameter(self, theta: Any, bounds: Any = (0.0, np.inf)) -> dict[str, Any]:
        # Going through the logarithm may leave the bounds by a rounding.
        values = np.clip(self.data.model.value(theta), *bounds)
        name = self.data.chain.prefix + self.data.model.parameter
        return {name: float(values[0]) if self._is("shared") else values}

    @property
    def by_output(self) -> bool:
        """Whether each output has a penalty of its own."""
        return self._is("output")

    def _is(self, word: str) -> bool:
        return isinstance(self.search.penalty, str) and self.search.penalty == word

    def _line(self, record: dict[str, Any]) -> str:
        ((name, value),) = record["params"].items()
        values = np.atleast_1d(value)
        spread = f"{values.min():.4g}" + (f" to {values.max():.4g}" if values.size > 1 else "")
        scored = self.data.model.loss.scoring or "score"
        return (
            f"[ShineCV] iteration {record['iteration']}: {name}={spread}, "
            f"{scored}={-record['criterion']:.6g} (+- {record['error']:.1g}), "
            f"{record['data_passes']:g} data passes{bytes_moved([record])}, "
            f"{record['seconds']:.2f} s"
        )
