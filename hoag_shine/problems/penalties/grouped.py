r"""Penalties of groups of variables: how the hyperparameters enter the inner objective."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...linalg import kernels
from ..groups import FIXED
from .base import Penalty
from .l2 import L2

Vector = NDArray[np.float64]
Array = NDArray[np.float64]


class GroupedPenalty:
    r""":math:`\sum_j c_j\, e^{\theta_{g(j)}} \phi(w_j)`.

    Variable j belongs to the group :math:`g(j)`. A single group is the usual ridge penalty; with as
    many groups as variables, each has a penalty of its own. Variables in group -1 are not
    penalised. Those in group -2 stay at zero: they have a penalty of strength one and no data.

    Parameters
    ----------
    groups : ndarray of shape (n,), dtype intp
        Group of each variable, from 0 to ``n_groups - 1``, -1 or -2.
    scale : float or ndarray of shape (n,), default=1.0
        The factor c between the user's hyperparameter and the strength in the objective: 1 for
        logistic regression (alpha = 1/C on the sum of losses), 2 for ridge, whose objective is
        :math:`\|y - Xw\|^2 + \alpha \|w\|^2`. One for each variable, where they differ.
    shape : Penalty, optional
        :math:`\phi`; :class:`L2` if not given.

    Attributes
    ----------
    n_groups : int
        Number of hyperparameters.
    quadratic, convex : bool
        Those of ``shape``.
    """

    def __init__(
        self,
        groups: NDArray[np.intp],
        scale: float | Vector = 1.0,
        shape: Penalty | None = None,
    ) -> None:
        self.groups = groups
        self.scale = scale
        self.shape = L2() if shape is None else shape
        self.quadratic, self.convex = self.shape.quadratic, self.shape.convex
        self.n_groups = int(groups.max(initial=-1)) + 1
        self._penalised = groups >= 0
        self._group = np.maximum(groups, 0)
        self._constant = np.where(groups == FIXED, 1.0, 0.0)
        self._last: tuple[bytes, Vector] | None = None

    def strength(self, theta: Vector) -> Vector:
        r"""Return :math:`c_j e^{\theta_{g(j)}}` of each variable, shape (n,).

        It is the diagonal of the Hessian if the penalty is quadratic. As long as theta is the same,
        the same array is returned; it cannot be written to.
        """
        known = theta.tobytes()  # faster to compare than arrays
        if self._last is None or self._last[0] != known:
            strength = self.scale * np.exp(theta)[self._group]
            strength = np.where(self._penalised, strength, self._constant)
            strength.flags.writeable = False
            self._last = known, strength
        return self._last[1]

    def hessian(self, w: Vector, theta: Vector) -> Vector:
        """Return the diagonal of the Hessian at w, shape (n,); all else of it is zero."""
        strength = self.strength(theta)
        return strength if self.quadratic else strength * self.shape.hessian(w)

    def value(self, w: Vector, theta: Vector) -> float:
        """Return the penalty."""
        return float(self.strength(theta) @ self.shape.value(w))

    def gradient(self, w: Vector, theta: Vector) -> Vector:
        """Return its gradient in w, shape (n,)."""
        return np.asarray(self.strength(theta) * self.shape.gradient(w))

    def cross_jvp(self, w: Vector, theta: Vector, direction: Vector) -> Vector:
        r"""Return :math:`(\partial^2 g / \partial\theta \partial w)\, s`, s along theta."""
        # The derivative of the gradient by theta_g is the gradient itself, in the variables of g.
        along = np.where(self._penalised, direction[self._group], 0.0)
        return np.asarray(self.gradient(w, theta) * along)

    def cross_vjp(self, w: Vector, theta: Vector, q: Vector) -> Vector:
        r"""Return :math:`(\partial^2 g / \partial\theta \partial w)^\top q`, one per group."""
        # d2g / dtheta_g dw_j = c_j exp(theta_g) phi'(w_j) for the variables j of group g.
        return np.asarray(self.cross_vjps(w[None], theta, q[None])[0])

    def cross_vjps(self, ws: Array, theta: Vector, qs: Array) -> Array:
        """Return :meth:`cross_vjp` of each row of ``ws`` and ``qs``, shape (n_rows, n_groups)."""
        sums = np.zeros((len(ws), self.n_groups))
        kernels.group_sums(self.groups, self.strength(theta), self.shape.gradient(ws), qs, sums)
        return sums
