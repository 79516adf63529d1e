"""``LogisticRegression``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..problems.losses import LogisticLoss, MultinomialLoss
from .base import Vector
from .classes import ClassifierModel, InverseStrength, intercept_penalty


class LogisticModel(InverseStrength, ClassifierModel):
    """``LogisticRegression`` with an L2 penalty, of two classes or, by a softmax, of more."""

    def _check_options(self) -> None:
        # `penalty` is deprecated in scikit-learn 1.8 in favour of `l1_ratio` and C=inf.
        options = self.estimator.get_params(deep=False)
        if options.get("penalty", "l2") not in ("l2", "deprecated") or options.get("l1_ratio"):
            raise ValueError(
                "estimator has an l1 or no penalty, but only the L2 penalty can be tuned: use "
                "LogisticRegression() with its default penalty."
            )
        if options.get("multi_class", "auto") not in ("auto", "deprecated"):
            raise ValueError(
                f"estimator has multi_class={options['multi_class']!r}, which scikit-learn has "
                "deprecated and which is not supported: leave it at its default."
            )
        if options["solver"] == "liblinear":
            self.intercept_penalty = intercept_penalty(self.estimator)

    @property
    def needs_all_classes(self) -> bool:
        return self.fit_intercept and not self.intercept_penalty

    def encode(self, y: NDArray[Any]) -> Vector:
        codes = super().encode(y)
        n_classes = self.classes_.size
        if n_classes > 2 and self.estimator.solver == "liblinear":
            raise ValueError(
                f"estimator has solver='liblinear', which does not couple the {n_classes} classes "
                "of y: use solver='lbfgs'."
            )
        self.loss = LogisticLoss() if n_classes == 2 else MultinomialLoss()
        return codes

    def targets(self, y: Vector) -> Vector:
        return y if self.n_outputs == 1 else self.indicators(y)

    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        classes = self.classes_ if self.known_classes is None else self.known_classes
        if classes.size > self.classes_.size:
            coef, intercept = self._padded(classes, coef, intercept)
        elif len(coef) == classes.size == 2:  # the two of more classes that a fold has
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        fitted.classes_ = classes
        fitted.coef_ = coef
        fitted.intercept_ = intercept
        fitted.n_iter_ = np.array([n_iter], dtype=np.int32)

    def _padded(
        self, classes: NDArray[Any], coef: NDArray[Any], intercept: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Add classes of probability zero, whose intercept is far below what scores can be."""
        places = np.searchsorted(classes, self.classes_)
        all_coef = np.zeros((classes.size, coef.shape[1]), dtype=coef.dtype)
        all_intercept = np.full(classes.size, np.finfo(coef.dtype).min / 4, dtype=coef.dtype)
        all_coef[places], all_intercept[places] = coef, intercept
        return all_coef, all_intercept
