"""A pipeline as what it is to a search: transformers, fitted to each fold, and a linear model."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone
from sklearn.pipeline import Pipeline


class Chain:
    """An estimator as the transformers that it begins with and the linear model that it ends in.

    An estimator that is no pipeline is a chain without transformers. Pipelines may be nested.

    Parameters
    ----------
    estimator : estimator instance
        Never changed.

    Attributes
    ----------
    model : estimator instance
        The last step, of the last step, ...
    prefix : str
        What the pipeline's own names of that model's parameters begin with; empty without one.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self.model = estimator
        self.prefix = ""
        # By exact class, since a subclass may do other things between its steps.
        while type(self.model) is Pipeline:
            if not self.model.steps:
                raise ValueError("estimator is a Pipeline without steps: there is nothing to tune.")
            name, self.model = self.model.steps[-1]
            self.prefix += f"{name}__"

    @property
    def _path(self) -> str:
        return self.prefix.removesuffix("__")

    def transformers(self) -> Any:
        """Return the transformers, not fitted, as a pipeline that ends before the model.

        Its last step only passes on what it gets, so that scikit-learn fits the others as it
        always does: with the pipeline's ``memory``, and cloned.
        """
        return clone(self.estimator).set_params(**{self._path: "passthrough"})

    def assemble(self, transformers: Any, model: Any) -> Any:
        """Put a fitted model behind fitted transformers, in place."""
        return model if transformers is None else transformers.set_params(**{self._path: model})
