r"""Penalties: what the hyperparameters do to the inner objective."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..linalg import kernels
from .groups import HELD

Vector = NDArray[np.float64]


class L2Penalty:
    r""":math:`\frac{1}{2} \sum_j c_j\, e^{\theta_{g(j)}} w_j^2`.

    Variable j belongs to the group :math:`g(j)`. One group makes the usual ridge penalty, as many
    groups as variables one penalty each; the formulas are the same. Variables in group -1 are not
    penalised. Those in group -2 are held at zero by a unit penalty, and by a problem that gives
    them no data.

    Parameters
    ----------
    groups : ndarray of shape (n,), dtype intp
        Group of each variable, from 0 to ``n_groups - 1``, -1 or -2.
    scale : float or ndarray of shape (n,), default=1.0
        The factor c between the user's hyperparameter and the strength in the objective: 1 for
        logistic regression (alpha = 1/C on the sum of losses), 2 for ridge, whose objective is
        :math:`\|y - Xw\|^2 + \alpha \|w\|^2`. One for each variable, where they differ.

    Attributes
    ----------
    n_groups : int
        Number of hyperparameters.
    """

    def __init__(self, groups: NDArray[np.intp], scale: float | Vector = 1.0) -> None:
        self.groups = groups
        self.scale = scale
        self.n_groups = int(groups.max(initial=-1)) + 1
        self._penalised = groups >= 0
        self._group = np.maximum(groups, 0)
        self._constant = np.where(groups == HELD, 1.0, 0.0)
        self._last: tuple[bytes, Vector] | None = None

    def hessian(self, theta: Vector) -> Vector:
        """Return the diagonal of the Hessian at ``theta``, log hyperparameters, shape (n,).

        The same array, which cannot be written to, as long as theta is the same.
        """
        known = theta.tobytes()  # compared much faster
        if self._last is None or self._last[0] != known:
            strength = self.scale * np.exp(theta)[self._group]
            diagonal = np.where(self._penalised, strength, self._constant)
            diagonal.flags.writeable = False
            self._last = known, diagonal
        return self._last[1]

    def cross_jvp(self, w: Vector, theta: Vector, direction: Vector) -> Vector:
        r"""Return :math:`(\partial^2 g / \partial\theta \partial w)\, s`, s along theta."""
        along = np.where(self._penalised, direction[self._group], 0.0)
        return np.asarray(self.hessian(theta) * w * along)

    def cross_vjp(self, w: Vector, theta: Vector, q: Vector) -> Vector:
        r"""Return :math:`(\partial^2 g / \partial\theta \partial w)^\top q`, one per group."""
        sums = np.zeros(self.n_groups)
        kernels.group_sums(self.groups, self.hessian(theta), w, q, sums)
        return sums
