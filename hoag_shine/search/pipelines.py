"""An estimator as a search sees it: transformers, fitted to each fold, and a linear model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline

from ..utils.validation import shown


class PipelineParts:
    """An estimator, taken apart into its transformers and the linear model at its end.

    A pipeline's steps transform X, or resample the training rows as those of imbalanced-learn do; a
    ``TransformedTargetRegressor`` transforms y. An estimator that is neither has no transformers.
    Pipelines may be nested, also within the ``TransformedTargetRegressor``.

    Parameters
    ----------
    estimator : estimator instance
        Never changed.

    Attributes
    ----------
    model : estimator instance
        The last step, of the last step, ...
    prefix : str
        The prefix of that model's parameters in the whole estimator, such as ``"ridge__"``; empty
        if the estimator is the model.
    target : TransformedTargetRegressor or None
    outer, inner : Pipeline or None
        The pipelines around the ``TransformedTargetRegressor`` and within it; without one, a
        pipeline is the outer one.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self.target: Any = None
        self.outer: Any = None
        self.inner: Any = None
        self.prefix = ""
        self._paths: dict[str, list[str]] = {"outer": [], "inner": []}
        self.model = estimator
        while isinstance(self.model, Pipeline) or self._is_target(self.model):
            enter = self._enter_pipeline if isinstance(self.model, Pipeline) else self._enter_target
            name, self.model = enter(self.model)
            self.prefix += f"{name}__"

    def _is_target(self, estimator: Any) -> bool:
        """Whether the estimator transforms y; a second one, within the first, does not count."""
        own = TransformedTargetRegressor
        return self.target is None and isinstance(estimator, own) and _keeps(estimator, own, "fit")

    def _enter_target(self, target: Any) -> tuple[str, Any]:
        self.target = target
        return "regressor", target.regressor

    def _enter_pipeline(self, pipeline: Any) -> tuple[str, Any]:
        """Note a pipeline, and return its last step."""
        _check_pipeline(pipeline)
        stage = "outer" if self.target is None else "inner"
        if getattr(self, stage) is None:
            setattr(self, stage, pipeline)
        name, last = pipeline.steps[-1]
        self._paths[stage].append(name)
        return name, last

    @property
    def resamples(self) -> bool:
        """Whether a step makes other rows of the training rows."""
        return any(map(_resamples, (self.outer, self.inner)))

    @property
    def transforms(self) -> bool:
        """Whether X is transformed."""
        return self.outer is not None or self.inner is not None

    def transformers(self, stage: str = "outer") -> Any:
        """Return the transformers of X, not fitted, as a pipeline without the model.

        Its last step is ``"passthrough"``, so that scikit-learn fits the others as it always does:
        cloned, and with the pipeline's ``memory``.
        """
        pipeline = getattr(self, stage)
        if pipeline is None:
            return None
        return clone(pipeline).set_params(**{self._path(stage): "passthrough"})

    def _path(self, stage: str) -> str:
        return "__".join(self._paths[stage])

    def fit(self, X: Any, y: Any, params: Mapping[str, Any]) -> tuple[Any, Any, Fitted]:
        """Fit the transformers to training rows; return these rows transformed, for the model.

        ``params`` are for the steps of the outer pipeline.
        """
        outer, target, inner = self.transformers(), None, self.transformers("inner")
        if outer is not None:
            X, y = _fit_transform(outer, X, y, params)
        if self.target is not None:
            target = self.fitted_target(y)
            y = target.regressor_.y_
        if inner is not None:
            X, y = _fit_transform(inner, X, y, {})
        return X, y, Fitted(self, outer, target, inner)

    def fitted_target(self, y: Any) -> Any:
        """Return the fitted ``TransformedTargetRegressor``; its model has only stored its y."""
        target = clone(self.target).set_params(regressor=_Noting())
        return target.fit(np.zeros((len(y), 1)), y)

    def set_model(self, stage: str, pipeline: Any, model: Any) -> Any:
        """Make a model the last step of one of the pipelines."""
        return pipeline.set_params(**{self._path(stage): model})


class Fitted:
    """Transformers that are fitted to some rows.

    Parameters
    ----------
    chain : PipelineParts
    outer, inner : Pipeline or None
        Fitted, with ``"passthrough"`` as the last step.
    target : TransformedTargetRegressor or None
        Fitted.
    """

    def __init__(
        self, chain: PipelineParts, outer: Any = None, target: Any = None, inner: Any = None
    ) -> None:
        self._chain = chain
        self._outer = outer
        self._target = target
        self._inner = inner

    def with_target(self, y: Any) -> Fitted:
        """Return the same with a ``TransformedTargetRegressor`` that is fitted to targets."""
        return Fitted(self._chain, self._outer, self._chain.fitted_target(y), self._inner)

    @property
    def first(self) -> Any:
        """The first pipeline that has seen X, or None if X is not transformed."""
        return self._inner if self._outer is None else self._outer

    def transform(self, X: Any) -> Any:
        """Return rows of X, transformed for the model."""
        for pipeline in (self._outer, self._inner):
            if pipeline is not None:
                X = _transform(pipeline, X)
        return X

    def targets(self, y: Any) -> Any:
        """Return targets of other rows, transformed for the model."""
        return y if self._target is None else transformed_target(self._target, y)

    def get_feature_names_out(self) -> Any:
        """Return the names of the columns that the model gets, or None if they have none."""
        last = self._outer if self._inner is None else self._inner
        try:
            return None if last is None else last.get_feature_names_out()
        except (AttributeError, ValueError):
            return None

    def assemble(self, model: Any) -> Any:
        """Return the whole estimator with a fitted model; an earlier one is changed with it."""
        if self._inner is not None:
            model = self._chain.set_model("inner", self._inner, model)
        if self._target is not None:
            target = clone(self._chain.target)
            vars(target).update({k: v for k, v in vars(self._target).items() if k.endswith("_")})
            target._training_dim = self._target._training_dim
            target.regressor, target.regressor_ = clone(model), model
            if hasattr(model, "feature_names_in_"):
                target.feature_names_in_ = model.feature_names_in_
            model = target
        return model if self._outer is None else self._chain.set_model("outer", self._outer, model)


class _Noting(RegressorMixin, BaseEstimator):
    """A regressor that only stores the targets that it is fitted to."""

    def fit(self, X: Any, y: Any) -> Self:
        self.y_ = y
        return self

    def predict(self, X: Any) -> Any:
        raise NotImplementedError


def transformed_target(target: Any, y: Any) -> Any:
    """Return targets as a fitted ``TransformedTargetRegressor`` gives them to its regressor."""
    y = np.asarray(y)
    changed = target.transformer_.transform(y.reshape(len(y), -1))
    if y.ndim == 1 and changed.ndim == 2 and changed.shape[1] == 1:
        return changed[:, 0]
    return changed


def _check_pipeline(pipeline: Any) -> None:
    """Raise for a pipeline without steps, or with a ``fit`` of its own."""
    cls = type(pipeline)
    if not pipeline.steps:
        raise ValueError("estimator is a Pipeline without steps: there is nothing to tune.")
    if not _is_resampling(pipeline) and not _keeps(pipeline, Pipeline, "fit", "_fit"):
        raise TypeError(
            f"estimator is a {cls.__module__}.{cls.__qualname__}, which has a fit of its own that "
            "may do anything between its steps: use sklearn.pipeline.Pipeline, or a subclass that "
            "leaves fit as it is."
        )


def _keeps(estimator: Any, base: type, *methods: str) -> bool:
    """Whether the class of the estimator inherits some methods of its base unchanged."""
    return all(getattr(type(estimator), name) is getattr(base, name) for name in methods)


def _is_resampling(pipeline: Any) -> bool:
    """Whether the pipeline is of a class that lets steps resample, as imbalanced-learn's does."""
    return hasattr(type(pipeline), "fit_resample")


def _steps(pipeline: Any) -> list[Any]:
    """Return the steps without those that pass through, with those of a pipeline at the end."""
    steps = [step for _, step in pipeline.steps if step is not None and step != "passthrough"]
    if steps and isinstance(steps[-1], Pipeline):
        return steps[:-1] + _steps(steps[-1])
    return steps


def _resamples(pipeline: Any) -> bool:
    return (
        pipeline is not None
        and _is_resampling(pipeline)
        and any(hasattr(step, "fit_resample") for step in _steps(pipeline))
    )


def _fit_transform(pipeline: Any, X: Any, y: Any, params: Mapping[str, Any]) -> tuple[Any, Any]:
    """Fit a pipeline's transformers, and return the rows and targets that come out."""
    if not _resamples(pipeline):
        return pipeline.fit_transform(X, y, **params), y
    if params:
        raise ValueError(
            f"fit parameters {shown(list(params))} cannot be handed to the steps of a pipeline "
            "that resamples, since they belong to other rows."
        )
    for step in _steps(pipeline):
        if hasattr(step, "fit_resample"):
            X, y = step.fit_resample(X, y)
        else:
            X = step.fit_transform(X, y)
    return X, y


def _transform(pipeline: Any, X: Any) -> Any:
    """Transform rows that are not trained on, without resampling them."""
    if not _resamples(pipeline):
        return pipeline.transform(X)
    for step in _steps(pipeline):
        if not hasattr(step, "fit_resample"):
            X = step.transform(X)
    return X
