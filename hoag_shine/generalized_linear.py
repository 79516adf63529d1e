"""A linear model for any loss, so that ShineCV can tune what scikit-learn has no estimator for."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .inner.lbfgs import minimize_lbfgs
from .problems.linear import LinearProblems
from .problems.losses import Loss, SquaredLoss
from .problems.penalties import L2Penalty


class GeneralizedLinear(RegressorMixin, BaseEstimator):
    r"""Linear model with a loss of one's own and an L2 penalty.

    .. math:: \min_{w, b} \; \sum_i s_i\, \ell(y_i, x_i^\top w + b)
              + \frac{\alpha}{2} \|w\|^2

    with sample weights :math:`s_i`. A loss is a class with a value and two derivatives, in plain
    numpy; :func:`hoag_shine.testing.check_loss` tells whether they are right. ``ShineCV`` tunes
    ``alpha``.

    Parameters
    ----------
    loss : Loss, optional
        A pointwise loss; :class:`SquaredLoss` if not given. If it is not convex, the fit is a
        local minimum, the one that lies downhill from zero.
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
        alpha: float = 1.0,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        max_iter: int = 1000,
    ) -> None:
        self.loss = loss
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
        loss = resolve_loss(self.loss)
        for name, kind in {"alpha": Real, "tol": Real, "max_iter": Integral}.items():
            value = getattr(self, name)
            check_scalar(value, name, kind, min_val=0, max_val=np.inf, include_boundaries="neither")
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], y_numeric=True
        )
        loss.check_targets(y)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        problem = self._problem(X, y.astype(np.float64), weight[:, None], loss)
        theta = np.log([float(self.alpha)])
        start = problem.value_and_grad(np.zeros(problem.n_params), theta)[1]
        tol = float(self.tol * np.linalg.norm(start))
        solution = minimize_lbfgs(problem, theta, tol=tol, max_iter=self.max_iter)
        if not solution.converged:
            warnings.warn(
                f"The fit did not converge, because {solution.status.value}: scale the features, "
                "or raise max_iter, tol or alpha.",
                ConvergenceWarning,
                stacklevel=2,
            )
        w = solution.w.astype(X.dtype)
        self.coef_ = w[: X.shape[1]]
        self.intercept_ = w[-1] if self.fit_intercept else X.dtype.type(0.0)
        self.n_iter_ = solution.n_iter
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
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        z = safe_sparse_dot(X, self.coef_) + self.intercept_
        return np.asarray(resolve_loss(self.loss).inverse_link(z))

    def _problem(self, X: Any, y: Any, weight: Any, loss: Loss) -> Any:
        groups = np.zeros(X.shape[1] + int(self.fit_intercept), dtype=np.intp)
        groups[X.shape[1] :] = -1
        penalty = L2Penalty(groups)
        no_test = np.zeros_like(weight)
        return LinearProblems(
            X, y, loss, penalty, weight, no_test, fit_intercept=self.fit_intercept
        )[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def resolve_loss(loss: Any) -> Loss:
    """Return the loss, or the squared one for None; TypeError for what is no pointwise loss."""
    if loss is None:
        return SquaredLoss()
    if not isinstance(loss, Loss):
        hint = " (an instance, not the class)" if isinstance(loss, type) else ""
        raise TypeError(f"loss must be an instance of hoag_shine.Loss{hint}, got {loss!r}.")
    if loss.shift_invariant:
        raise TypeError(
            f"loss must be pointwise, but {loss!r} couples several outputs: tune a "
            "LogisticRegression for more than two classes."
        )
    return loss
