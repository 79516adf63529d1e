"""A design matrix after the reductions of its columns, and the way back through all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..groups import Groups
from .columns import MergedColumns

Vector = NDArray[np.float64]


class Reduction(Protocol):
    """A design matrix with fewer columns that has the same inner solutions.

    Attributes
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_reduced)
    groups : Groups
        Of its columns: the same hyperparameters as before.
    """

    @property
    def X(self) -> Any: ...
    @property
    def groups(self) -> Groups: ...

    def expand(self, w: Vector, n_outputs: int) -> Vector:
        """Return the variables of the problem before, given those of this one."""

    def restrict(self, w: Vector, n_outputs: int) -> Vector:
        """Return the variables of this problem, the nearest to those of the problem before."""


class Reduce(Protocol):
    """Makes a reduction, or None where it would cost more than it saves."""

    def __call__(self, X: Any, groups: Groups) -> Reduction | None: ...


# In this order; another one is one more file beside this, and a place here.
REDUCTIONS: tuple[Reduce, ...] = (MergedColumns.of,)


@dataclass(frozen=True)
class Presolved:
    """The design matrix of the inner problems, and the way to and from that of the data.

    Attributes
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_reduced), float32 or float64
    groups : Groups
        Of its columns.
    n_outputs : int
    steps : tuple of Reduction
        The chain that led here, empty for the data as they are.
    """

    X: Any
    groups: Groups
    n_outputs: int
    steps: tuple[Reduction, ...] = ()

    def reduced(self) -> Self:
        """Return what all reductions leave that are worth their cost."""
        now = self
        for reduce in REDUCTIONS:
            if (step := reduce(now.X, now.groups)) is not None:
                now = type(self)(step.X, step.groups, self.n_outputs, (*now.steps, step))
        return now

    def expand(self, w: Vector) -> Vector:
        """Return the variables that belong to the columns of the data, given those of X."""
        for step in reversed(self.steps):
            w = step.expand(w, self.n_outputs)
        return w

    def restrict(self, w: Vector) -> Vector:
        """Return the variables that belong to X, given those of the data's columns."""
        for step in self.steps:
            w = step.restrict(w, self.n_outputs)
        return w
