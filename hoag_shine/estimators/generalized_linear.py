"""A linear model with any loss, for those that scikit-learn has no estimator for."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted

from ..problems.groups import coefficient_groups
from ..problems.losses import Loss, SquaredLoss
from ..problems.penalties import L2, Penalty
from ..utils.interrupts import set_fitted
from ..utils.validation import (
    check_count,
    check_flag,
    check_positive,
    check_weight,
    flat,
    shown,
    validated,
)
from .base import Model, Vector
from .fit import fit, warn_unless_converged, whole_problem


class GeneralizedLinear(RegressorMixin, BaseEstimator):
    r"""Linear model with a loss, and a penalty, of your own.

    .. math:: \min_{w, b} \; \sum_i s_i\, \ell(y_i, x_i^\top w + b)
              + \alpha \sum_j \phi(w_j)

    with sample weights :math:`s_i`. A loss and a penalty are classes with a value and two
    derivatives, in plain numpy; :func:`hoag_shine.testing.check_loss` and
    :func:`hoag_shine.testing.check_penalty` check them. ``ShineCV`` tunes ``alpha``.

    Parameters
    ----------
    loss : Loss, optional
        A pointwise loss; :class:`SquaredLoss` if not given. If it is not convex, the fit is the
        local minimum downhill from zero.
    penalty : Penalty, optional
        A smooth penalty of a coefficient; :class:`L2`, half its square, if not given.
    alpha : float, default=1.0
        Strength of the penalty, positive.
    fit_intercept : bool, default=True
        Whether to fit b, which is not penalised.
    tol : float, default=1e-6
        Stop when the gradient's norm has fallen to this share of that at zero.
    max_iter : int, default=1000
        Largest number of L-BFGS iterations.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
    intercept_ : float
    n_iter_ : int
        L-BFGS iterations.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X has feature names that are strings.

    Warns
    -----
    ConvergenceWarning
        When the fit does not reach ``tol``.

    Examples
    --------
    A loss that grows linearly, so that outliers count less:

    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from hoag_shine import GeneralizedLinear, Loss, ShineCV
    >>> class LogCosh(Loss):
    ...     convex = True
    ...
    ...     def value(self, y, z):
    ...         return np.logaddexp(z - y, y - z) - np.log(2.0)
    ...
    ...     def gradient(self, y, z):
    ...         return np.tanh(z - y)
    ...
    ...     def hessian(self, y, z):
    ...         return 1.0 - np.tanh(z - y) ** 2
    >>> X, y = load_diabetes(return_X_y=True)
    >>> search = ShineCV(GeneralizedLinear(LogCosh())).fit(scale(X), scale(y))
    >>> round(search.best_score_, 4)
    -0.2135
    """

    def __init__(
        self,
        loss: Loss | None = None,
        *,
        penalty: Penalty | None = None,
        alpha: float = 1.0,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        max_iter: int = 1000,
    ) -> None:
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            float32 is kept, anything else becomes float64.
        y : array-like of shape (n_samples,)
            Targets, within the loss's ``target_range``.
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative.

        Returns
        -------
        self : GeneralizedLinear

        Raises
        ------
        ValueError, TypeError
            For bad input; the message names the argument.
        """
        check_positive("alpha", self.alpha)
        check_positive("tol", self.tol)
        check_count("max_iter", self.max_iter)
        check_flag("fit_intercept", self.fit_intercept)
        model = GeneralizedLinearModel(self)
        fitted = clone(self)
        X, y = validated(
            fitted, X, flat(y), accept_sparse="csr", dtype=[np.float64, np.float32], y_numeric=True
        )
        y = model.encode(y)
        weight = check_weight(sample_weight, X)
        if not weight.any():
            raise ValueError("sample_weight must not be zero for all rows.")
        problem = whole_problem(model, X, y, weight, coefficient_groups("shared", X.shape[1]))
        solution = fit(
            problem,
            np.array([model.theta(self.alpha)]),
            tol=self.tol,
            max_iter=self.max_iter,
        )
        advice = "scale the features, or raise max_iter, tol or alpha"
        warn_unless_converged(solution, "The fit", advice)
        model.set_fitted(fitted, solution.w, solution.n_iter, X.dtype)
        attributes = vars(fitted).items()
        set_fitted(self, {name: value for name, value in attributes if name.endswith("_")})
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the loss's expected target: ``loss.inverse_link`` of the linear predictor.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        check_is_fitted(self)
        X = validated(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        z = safe_sparse_dot(X, self.coef_) + self.intercept_
        return np.asarray(resolve_loss(self.loss).inverse_link(z))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class GeneralizedLinearModel(Model):
    """``GeneralizedLinear``, whose loss is the user's."""

    parameter = "alpha"
    penalty_scale = 1.0

    def _check_options(self) -> None:
        self.loss = resolve_loss(self.estimator.loss)
        self.penalty = resolve_penalty(self.estimator.penalty)

    def encode(self, y: NDArray[Any]) -> Vector:
        self.loss.check_targets(y)
        return super().encode(y)

    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        fitted.coef_ = coef[0]
        fitted.intercept_ = intercept[0]
        fitted.n_iter_ = n_iter


def resolve_loss(loss: Any) -> Loss:
    """Return the loss, or the squared one for None; raise TypeError unless it is pointwise."""
    if loss is None:
        return SquaredLoss()
    if not isinstance(loss, Loss):
        hint = " (an instance, not the class)" if isinstance(loss, type) else ""
        raise TypeError(f"loss must be an instance of hoag_shine.Loss{hint}, got {shown(loss)}.")
    if loss.couples:
        raise TypeError(
            f"loss must be pointwise, but {loss!r} couples several outputs: tune a "
            "LogisticRegression for more than two classes, or a HuberRegressor."
        )
    return loss


def resolve_penalty(penalty: Any) -> Penalty:
    """Return the penalty, or half the square for None; raise TypeError if it is none."""
    if penalty is None:
        return L2()
    if not isinstance(penalty, Penalty):
        hint = " (an instance, not the class)" if isinstance(penalty, type) else ""
        raise TypeError(
            f"penalty must be an instance of hoag_shine.Penalty{hint}, got {shown(penalty)}."
        )
    return penalty
