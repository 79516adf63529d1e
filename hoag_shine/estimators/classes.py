"""What classifiers have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

from ..utils.validation import check_positive, shown
from .base import Model, Vector


class ClassifierModel(Model):
    """A classifier; its targets are encoded as indices of the classes."""

    classifier = True
    known_classes: NDArray[Any] | None = None  # of a fitted estimator, where not ``classes_``

    def encode(self, y: NDArray[Any]) -> Vector:
        if len(y) == 0:
            raise ValueError("y must have the label of at least one row, got 0 sample(s).")
        check_classification_targets(y)
        encoder = LabelEncoder().fit(y)
        self.classes_ = encoder.classes_
        n_classes = self.classes_.size
        if n_classes < 2:
            raise ValueError(
                f"y must have at least 2 classes for {type(self.estimator).__name__} to be tuned, "
                f"but it has 1 class, {self.classes_.tolist()[0]!r}."
            )
        self.n_outputs = 1 if n_classes == 2 else n_classes
        return np.asarray(encoder.transform(y), dtype=np.float64)

    def signs(self, y: Vector) -> Vector:
        """Return 1 in the column of the class and -1 elsewhere, or one column for two classes."""
        if self.n_outputs == 1:
            return np.asarray(2.0 * y - 1.0)
        return 2.0 * self.indicators(y) - 1.0

    def indicators(self, y: Vector) -> Vector:
        """Return 1 in the column of the class and 0 elsewhere."""
        columns = np.zeros((len(y), self.n_outputs))
        columns[np.arange(len(y)), y.astype(int)] = 1.0
        return columns

    @property
    def output_names(self) -> tuple[Any, ...]:
        return tuple(self.classes_.tolist()[-self.n_outputs :])

    def decode(self, y: Vector) -> NDArray[Any]:
        return np.asarray(self.classes_[y.astype(int)])

    def recode(self, y: Any) -> Vector:
        return np.asarray(np.searchsorted(self.classes_, y), dtype=np.float64)

    @property
    def needs_all_classes(self) -> bool:
        """Whether a class without training rows leaves the fit without a minimum.

        The loss of some models falls without end along an intercept that has no penalty.
        """
        return False

    def weightless(self) -> NDArray[np.intp]:
        """Return the classes to which ``class_weight`` gives no weight, as indices."""
        given = self.estimator.class_weight
        labels = self.classes_.tolist()
        if not isinstance(given, Mapping):
            return np.empty(0, dtype=np.intp)
        return np.array([k for k, c in enumerate(labels) if given.get(c, 1) == 0], dtype=np.intp)

    def lacking(self, y: Vector, weight: Vector) -> NDArray[np.intp]:
        if not self.needs_all_classes:
            return super().lacking(y, weight)
        present = np.bincount(y[weight > 0.0].astype(int), minlength=self.classes_.size)
        present[self.weightless()] = 0
        return np.flatnonzero(present == 0)

    def without(self, classes: Sequence[int], y: Vector) -> tuple[Model, Vector, NDArray[np.bool_]]:
        """Return the limit where the intercepts of some classes are infinitely small.

        Their probabilities and their coefficients are zero. The fitted estimator still lists those
        that have rows without weight.
        """
        kept = np.delete(np.arange(self.classes_.size), classes)
        unseen = np.setdiff1d(classes, self.weightless())
        model = copy(self)
        model.classes_, model.n_outputs = self.classes_[kept], kept.size
        model.known_classes = np.delete(self.classes_, unseen)
        known = ~np.isin(y, classes)
        return model, np.where(known, np.searchsorted(kept, y), 0.0), known

    def training_weight(self, y: Vector, times: Vector, weight: Vector) -> Vector:
        drawn = times * weight
        if self.estimator.class_weight is None:
            return drawn
        return np.asarray(drawn * self.class_weights(y, drawn)[y.astype(int)])

    def class_weights(self, y: Vector, drawn: Vector) -> Vector:
        """Return a weight for each class, given those of the training rows."""
        if self.estimator.class_weight == "balanced":
            # scikit-learn's own function takes no sample weights before 1.7.
            mass = np.bincount(y.astype(int), drawn, minlength=self.classes_.size)
            # A class without rows is left out of the count of classes.
            present = mass > 0.0
            per_class = np.zeros(mass.size)
            per_class[present] = mass.sum() / (present.sum() * mass[present])
            return per_class
        given = self.estimator.class_weight
        if self.known_classes is not None and isinstance(given, Mapping):
            given = {label: given[label] for label in given if label in self.classes_}
        per_class = compute_class_weight(given, classes=self.classes_, y=self.classes_)
        self._check_class_weights(per_class)
        return np.asarray(per_class)

    def _check_class_weights(self, weights: Vector) -> None:
        """Raise unless the weights, of the classes or of rows, leave a problem."""
        if not (((weights >= 0.0) & np.isfinite(weights)).all() and weights.any()):
            raise ValueError(
                "estimator.class_weight must be at least 0 and finite for every class, and not 0 "
                f"for all, got {shown(self.estimator.class_weight)}."
            )


class InverseStrength(Model):
    """A model whose parameter C is the inverse of the penalty's strength."""

    parameter = "C"
    penalty_scale = 1.0

    def theta(self, value: float | Vector) -> Any:
        return -np.log(value)

    def value(self, theta: Vector) -> Vector:
        return np.exp(-theta)


def intercept_penalty(estimator: Any) -> float:
    r"""Return how strongly liblinear penalises the intercept, relative to the coefficients.

    It takes the intercept for the coefficient v of one more feature, which is
    ``intercept_scaling`` everywhere: :math:`b = a v` and :math:`v^2 = b^2 / a^2`.
    """
    if not estimator.fit_intercept:
        return 0.0
    return check_positive("estimator.intercept_scaling", estimator.intercept_scaling) ** -2
