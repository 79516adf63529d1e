"""``PoissonRegressor``, ``GammaRegressor`` and ``TweedieRegressor``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import GammaRegressor, PoissonRegressor

from ..problems.losses import Loss, SquaredLoss, TweedieLoss
from .base import Model, Vector, middle


class GLMModel(Model):
    r"""A generalized linear model of scikit-learn.

    It minimises :math:`\frac{1}{2 \sum_i s_i} \sum_i s_i \ell_i + \frac{\alpha}{2} \|w\|^2` with
    the unit deviances :math:`\ell_i`. That is a mean, where other estimators have a sum, so the
    weights of the training losses sum to one.
    """

    parameter = "alpha"
    penalty_scale = 2.0

    def _check_options(self) -> None:
        self._loss()

    def _loss(self, unit: float = 1.0) -> Loss:
        """Return the deviance, with means in units of ``unit`` where it has a unit."""
        estimator = self.estimator
        if isinstance(estimator, PoissonRegressor):
            return TweedieLoss(1.0, unit)
        if isinstance(estimator, GammaRegressor):
            return TweedieLoss(2.0, unit)
        link = estimator.link
        if link == "auto":
            link = "identity" if estimator.power <= 0 else "log"
        if link == "log":
            return TweedieLoss(estimator.power, unit)
        if estimator.power == 0:
            return SquaredLoss()
        raise ValueError(
            f"estimator has power={estimator.power!r} and the identity as its link, which gives "
            "means that are not positive, where the held-out deviance is infinite: use link='log'."
        )

    def encode(self, y: NDArray[Any]) -> Vector:
        codes = super().encode(y)
        self.loss = self._loss()
        self.loss.check_targets(codes)
        if self.fit_intercept:
            center = float(middle(codes))
            if isinstance(self.loss, SquaredLoss):
                self.offset = center
            elif center > 0.0 or codes.any():
                unit = center if center > 0.0 else float(np.abs(codes).mean())
                self.loss = self._loss(unit)
                self.offset = np.log(unit)
        return codes

    def targets(self, y: Vector) -> Vector:
        return y - self.offset if isinstance(self.loss, SquaredLoss) else y

    def training_weight(self, y: Vector, times: Vector, weight: Vector) -> Vector:
        drawn = times * weight
        return np.asarray(drawn / drawn.sum())

    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        fitted.coef_ = coef[0]
        fitted.intercept_ = intercept[0]
        fitted.n_iter_ = n_iter
        fitted._base_loss = fitted._get_loss()
