"""``Ridge`` and ``RidgeClassifier``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import type_of_target

from ..problems.losses import SquaredLoss
from .base import Model, Vector, middle
from .classes import ClassifierModel


class _RidgeBase(Model):
    r"""Least squares of one target or several, with :math:`\alpha \|w\|^2`."""

    parameter = "alpha"
    loss = SquaredLoss()
    penalty_scale = 2.0
    multi_output = True
    value_by_output = True

    def _check_options(self) -> None:
        if self.estimator.positive:
            raise ValueError(
                "estimator has positive=True, and bounded coefficients are not supported: use "
                f"{type(self.estimator).__name__}(positive=False)."
            )

    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        fitted.coef_ = coef
        fitted.intercept_ = intercept if self.estimator.fit_intercept else coef.dtype.type(0.0)
        fitted.n_iter_ = np.array([n_iter], dtype=np.int32)
        fitted.solver_ = "lbfgs"


class RidgeModel(_RidgeBase):
    """``Ridge`` with one target or several."""

    def encode(self, y: NDArray[Any]) -> Vector:
        self._single = y.ndim == 1 or y.shape[1] == 1
        self.n_outputs = self.n_averaged = 1 if self._single else y.shape[1]
        codes = super().encode(y)
        if self.fit_intercept:
            self.offset = middle(codes)
        return codes

    def targets(self, y: Vector) -> Vector:
        return np.asarray(y - self.offset)

    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        super()._set_fitted(fitted, coef, intercept, n_iter)
        if self._single:
            fitted.coef_ = coef[0]
            fitted.intercept_ = intercept[0]


class RidgeClassifierModel(_RidgeBase, ClassifierModel):
    """``RidgeClassifier``: least squares to 1 for a class, or label, and to -1 for the rest."""

    def encode(self, y: NDArray[Any]) -> Vector:
        self._multilabel = type_of_target(y) == "multilabel-indicator"
        if not self._multilabel:
            y = column_or_1d(y)
        self._binarizer = LabelBinarizer(neg_label=-1, pos_label=1).fit(y)
        if self._multilabel:
            self.classes_ = self._binarizer.classes_
            self.n_outputs = y.shape[1]
            codes = np.asarray(y, dtype=np.float64)
        else:
            codes = super().encode(y)
        self.n_averaged = self.n_outputs
        return codes

    def targets(self, y: Vector) -> Vector:
        return 2.0 * y - 1.0 if self._multilabel else self.signs(y)

    def decode(self, y: Vector) -> NDArray[Any]:
        return y.astype(int) if self._multilabel else super().decode(y)

    def recode(self, y: Any) -> Vector:
        return np.asarray(y, dtype=np.float64) if self._multilabel else super().recode(y)

    def training_weight(self, y: Vector, times: Vector, weight: Vector) -> Vector:
        class_weight = self.estimator.class_weight
        if class_weight is None:
            return times * weight
        # As in scikit-learn, "balanced" counts rows here, whatever their weights.
        rows = np.repeat(np.arange(len(y)), times.astype(int))
        counted = rows if class_weight == "balanced" else None
        per_row = compute_sample_weight(class_weight, self.decode(y), indices=counted)
        self._check_class_weights(per_row[rows])
        return np.asarray(times * weight * per_row)

    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        super()._set_fitted(fitted, coef, intercept, n_iter)
        if self.n_outputs == 1 and not self._multilabel:
            fitted.coef_ = coef[0]  # though the intercept has an axis for the class
        fitted._label_binarizer = self._binarizer
        if not hasattr(fitted, "classes_"):  # a property before scikit-learn 1.9
            fitted.classes_ = self.classes_
