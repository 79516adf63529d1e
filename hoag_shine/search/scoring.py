"""Scores that are reported beside the criterion, by fold and iteration."""

from __future__ import annotations

import numbers
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from traceback import format_exc
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import check_scoring
from sklearn.utils import _safe_indexing
from sklearn.utils.extmath import safe_sparse_dot

from ..estimators.base import Model
from ..inner import Solution
from ..utils.validation import check_number, naming, shown
from ..utils.warn import warn
from .folds import DesignGroup, FoldedData, Rows

Array = NDArray[np.float64]

# What the criterion is called among the scores: without others it is the score.
CRITERION = "neg_criterion"


class Scoring:
    """What ``scoring``, ``return_train_score`` and ``error_score`` ask for.

    Parameters
    ----------
    estimator : estimator
    scoring : None, str, callable, list, tuple or dict
    return_train_score : bool
    error_score : "raise" or float

    Attributes
    ----------
    scorer : callable
        Of one or several scores; the estimator's own without ``scoring``.
    names : tuple of str
        Of the scores that are reported, as far as they are known before the first are computed.
    lost : set of str
        The names of those that a scorer has returned as NaN.
    """

    def __init__(
        self, estimator: Any, scoring: Any, *, return_train_score: bool, error_score: Any
    ) -> None:
        if not (isinstance(error_score, str) and error_score == "raise"):
            check_number("error_score", error_score, "'raise' or a number")
        self.error_score = error_score
        self._failed: set[tuple[str, ...]] = set()
        self.return_train_score = return_train_score
        self._given = scoring
        self.wanted = scoring is not None
        several = isinstance(scoring, list | tuple | set | Mapping)
        if several and not scoring:
            raise ValueError(f"scoring must have at least one score, or be None; got {scoring!r}.")
        with naming("scoring"):
            self.scorer = check_scoring(estimator, scoring, raise_exc=error_score == "raise")
        self.names = tuple(scoring) if several else ("score",)
        self.lost: set[str] = set()
        self.open = callable(scoring)  # may return a dict
        # Scorers with a name only call predict, which also works on rows that are transformed
        # already.
        by_name = [scoring] if isinstance(scoring, str) else scoring if several else []
        self.from_transformed = bool(by_name) and all(isinstance(name, str) for name in by_name)
        if isinstance(scoring, Mapping):
            self.from_transformed = all(isinstance(name, str) for name in scoring.values())

    @property
    def multimetric(self) -> bool:
        """Whether there are several scores, by name."""
        return self.names != ("score",)

    def by_blocks(self, model: Model) -> None:
        """Leave to the search what it computes itself, for an X that is read in blocks.

        Raises
        ------
        ValueError
            If there is another score, or one of the training rows.
        """
        if self.return_train_score:
            raise ValueError(
                "return_train_score=True would read X once more in each iteration, which is not "
                "in memory: leave it False."
            )
        criterion = model.loss.scoring
        if self.wanted and (criterion is None or self._given != criterion):
            own = "" if criterion is None else f" or {criterion!r}, which is the criterion itself"
            raise ValueError(
                f"scoring={shown(self._given)} needs rows of X for each fold and iteration, but X "
                f"is read in blocks: use scoring=None{own}, and score best_estimator_ on blocks "
                "that were set aside."
            )
        self.wanted = False

    def scorers(self) -> Any:
        """Return the scorer, or a dict of several."""
        return getattr(self.scorer, "_scorers", self.scorer)

    def evaluate(self, estimator: Any, X: Any, y: Any, params: Mapping[str, Any]) -> Any:
        """Return a score, or a dict of several; ``error_score`` for what could not be computed."""
        try:
            scores = self.scorer(estimator, X, y, **params)
        except Exception:
            if self.error_score == "raise":
                raise
            self._warn_failed(format_exc())
            return self.error_score
        if not isinstance(scores, dict):
            return self._number("score", scores)
        return {name: self._number(name, score) for name, score in scores.items()}

    def _number(self, name: str, score: Any) -> float:
        if (
            isinstance(score, str) and not self.open
        ):  # scikit-learn's way to say that one of several has failed
            self._warn_failed(score)
            return float(self.error_score)
        if isinstance(score, np.generic | np.ndarray) and np.ndim(score) == 0:
            score = score.item()
        if isinstance(score, bool) or not isinstance(score, numbers.Real):
            raise ValueError(
                f"scoring must return numbers, or a dict of numbers by name, got {score!r} for "
                f"{name!r}."
            )
        if score != score:
            self.lost.add(name)
        return float(score)

    def _warn_failed(self, details: str) -> None:
        """Warn of a failure, unless one was raised by the same lines of code before."""
        raised_by = tuple(line for line in details.splitlines() if line.startswith("  File "))
        if raised_by in self._failed:
            return
        self._failed.add(raised_by)
        warn(
            f"Scoring failed. The score on this fold will be set to {self.error_score}, as where "
            "it fails in the same way again: repair scoring, or see the cause by "
            f"error_score='raise'. Details:\n{details}"
        )


class Scores:
    """The scores of each iteration, in the order of the history.

    Parameters
    ----------
    scoring : Scoring
    data : FoldedData
    params : mapping
        Metadata for the scorer.
    """

    def __init__(self, scoring: Scoring, data: FoldedData, params: Mapping[str, Any]) -> None:
        self.scoring = scoring
        self.data = data
        self.params = dict(params)
        self.test: list[list[Any]] = []
        self.train: list[list[Any]] = []
        self.seconds: list[float] = []

    def record(
        self, i: int, model: Callable[[DesignGroup, Solution], Any], solutions: Sequence[Solution]
    ) -> None:
        """Score the folds as iteration ``i``: a new one, or the last one again.

        ``model`` makes an estimator of a fold's solution.
        """
        begin = time.perf_counter()
        models = []
        if self.scoring.wanted:
            models = list(map(model, self.data.design_of_fold, solutions))
            self._put(self.test, i, [self._score(k, one, 1) for k, one in enumerate(models)])
        if self.scoring.return_train_score:
            self._put(self.train, i, self._train(models, solutions))
        self._put(self.seconds, i, time.perf_counter() - begin)

    def fill(self, n: int) -> None:
        """Add rows of NaN up to n iterations; the last may have been interrupted."""
        unknown = [float("nan")] * len(self.data.splits)
        for rows, wanted in (
            (self.test, self.scoring.wanted),
            (self.train, self.scoring.return_train_score),
        ):
            rows += [unknown] * (n - len(rows)) * wanted
        self.seconds += [0.0] * (n - len(self.seconds))

    @staticmethod
    def _put(rows: list[Any], i: int, row: Any) -> None:
        rows[i : i + 1] = [row]

    def columns(self, fold_criteria: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return test and train scores by name, each of shape (n_iterations, n_folds)."""
        if not self.scoring.wanted:
            return {"score": -fold_criteria}, self._table(self.train)
        return self._table(self.test) | {CRITERION: -fold_criteria}, self._table(self.train)

    def _table(self, rows: list[list[Any]]) -> dict[str, Array]:
        if not rows:
            return {}
        several = [score for row in rows for score in row if isinstance(score, dict)]
        names = dict.fromkeys(name for scores in several for name in scores) or ("score",)
        lost = np.nan if self.scoring.error_score == "raise" else self.scoring.error_score
        return {
            name: np.array(
                [[s.get(name, lost) if isinstance(s, dict) else s for s in row] for row in rows],
                dtype=np.float64,
            )
            for name in names
        }

    def _train(self, models: Sequence[Any], solutions: Sequence[Solution]) -> list[Any]:
        if self.scoring.wanted:
            return [self._score(k, model, 0) for k, model in enumerate(models)]
        return [
            -self._loss(design, rows, solution)
            for design, (rows, _), solution in zip(
                self.data.design_of_fold, self.data.local_splits, solutions, strict=True
            )
        ]

    def _score(self, k: int, model: Any, side: int) -> Any:
        """Score fold k's model on its training rows (side 0) or its held-out rows (side 1)."""
        data, rows = self.data, self.data.splits[k][side]
        design = data.design_of_fold[k]
        y = _safe_indexing(data.y, rows)
        params = data.rows_of(self.params, rows)
        if design.transformers is not None and self._from_transformed(side):
            X = design.X[data.local_splits[k][side]]
            return self.scoring.evaluate(_without_names(model), X, y, params)
        estimator = model if design.transformers is None else design.transformers.assemble(model)
        return self.scoring.evaluate(estimator, _safe_indexing(data.X, rows), y, params)

    def _from_transformed(self, side: int) -> bool:
        """Whether the scorer can be given the transformed rows."""
        chain = self.data.chain
        alike = chain.target is None and not (side == 0 and chain.resamples)
        return alike and self.scoring.from_transformed

    def _loss(self, design: DesignGroup, rows: Rows, solution: Solution) -> float:
        """Return the mean loss of a fold's training rows, like the criterion of held-out rows."""
        model = design.model
        W = design.inner.expand(solution.w).reshape(-1, model.n_outputs)
        Z = safe_sparse_dot(design.X[rows], W[: design.X.shape[1]], dense_output=True)
        if model.fit_intercept:
            Z = Z + W[-1]
        y = model.targets(design.y)[rows].reshape(len(rows), 1, -1)
        loss, _ = model.loss.value_and_gradient(y, Z[:, None])
        losses = loss.reshape(len(rows), -1).sum(axis=1)
        return float(np.average(losses, weights=design.weight[rows])) / model.n_averaged


def _without_names(model: Any) -> Any:
    """Return a model that accepts transformed rows, which have no names of columns."""
    if not hasattr(model, "feature_names_in_"):
        return model
    model = copy(model)
    del model.feature_names_in_
    return model
