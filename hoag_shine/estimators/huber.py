"""``HuberRegressor``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import safe_sparse_dot

from ..linalg.streams import PartedMatrix
from ..problems.groups import FIXED
from ..problems.losses import HuberLoss
from ..utils.validation import check_positive
from .base import Model, Vector, middle


class HuberModel(Model):
    r"""``HuberRegressor``, whose scale :math:`\sigma` is fitted with the coefficients.

    The scale is a second output, which has an intercept and no coefficients. The criterion is the
    same loss of the held-out rows, with the scale of the training rows.
    """

    parameter = "alpha"
    penalty_scale = 2.0
    n_outputs = 2
    loss: HuberLoss

    def _check_options(self) -> None:
        epsilon = check_positive("estimator.epsilon", self.estimator.epsilon)
        if epsilon <= 1.0:
            raise ValueError(
                "estimator.epsilon must be larger than 1, since smaller ones do not determine a "
                f"scale; got {epsilon!r}."
            )

    @property
    def fit_intercept(self) -> bool:
        return True  # that of the scale

    @property
    def output_names(self) -> tuple[Any, ...]:
        return (0,)

    def encode(self, y: NDArray[Any]) -> Vector:
        codes = super().encode(y)
        center = float(middle(codes)) if self.estimator.fit_intercept else 0.0
        self.offset = np.array([center, 0.0])
        sizes = np.abs(codes - center)
        unit = float(middle(sizes)) or float(sizes.max()) or 1.0
        self.loss = HuberLoss(self.estimator.epsilon, unit)
        return codes

    def targets(self, y: Vector) -> Vector:
        return np.column_stack([y - self.offset[0], np.zeros_like(y)])

    def arrange(self, groups: NDArray[np.intp]) -> NDArray[np.intp]:
        groups[:-1, 1] = FIXED
        if not self.estimator.fit_intercept:
            groups[-1, 0] = FIXED
        return groups

    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        fitted.coef_ = coef[0]
        fitted.intercept_ = intercept[0] if self.estimator.fit_intercept else 0.0
        smallest = 10.0 * np.finfo(np.float64).eps  # HuberRegressor's own bound
        fitted.scale_ = max(float(self.loss.scale(intercept[1])), smallest)
        fitted.n_iter_ = n_iter

    def note_training(self, fitted: Any, X: Any, y: Vector) -> None:
        streamed = isinstance(X, PartedMatrix)
        products = X.product(fitted.coef_) if streamed else safe_sparse_dot(X, fitted.coef_)
        residual = np.abs(y - products - fitted.intercept_)
        fitted.outliers_ = residual > fitted.scale_ * fitted.epsilon
