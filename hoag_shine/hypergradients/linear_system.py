r"""One linear system :math:`Hx = b`, solved by conjugate gradient with a bound of its error.

The Hessian of a convex problem is :math:`H = A + \mathrm{diag}(h)` with a positive semidefinite A,
the data term, and the known penalty h. In the norm of H, the error of an iterate x with residual r
is :math:`\epsilon(x) = \sqrt{r^\top H^{-1} r}`. The coefficients that conjugate gradient computes
anyway define a Gauss-Radau quadrature for it. With a node at a lower bound :math:`\mu` of the
preconditioned spectrum, the quadrature bounds the error from above; each step tightens the bound.

The bound needs :math:`\mu > 0`, hence a penalty on every variable. Those that have none (an
intercept) are eliminated: kept at their optimum given the others, so that the iteration runs on
the Schur complement of H, which is at least :math:`\mathrm{diag}(h)` of the others.

References
----------
.. [1] G. H. Golub and G. Meurant, *Matrices, Moments and Quadrature with Applications*, 2010,
   chapter 12.
.. [2] G. Meurant and P. Tichý, "On computing quadrature-based bounds for the A-norm of the error
   in conjugate gradients", Numerical Algorithms 62, 2013.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError

from ..linalg import kernels
from ..linalg.cholesky import cholesky_solver
from ..linalg.precision import EPSILON

Vector = NDArray[np.float64]

# Rounding of a residual, in units of the precision of the products and of the system's size. No
# bound that is made of the residual is smaller.
# Why: measured errors of Hessian products of up to 20,000 summed terms stay below it.
RESIDUAL_ROUNDING = 1e3


def positive_definite(block: NDArray[np.float64]) -> bool:
    """Whether a symmetric matrix, which may be of size zero, has a Cholesky factor."""
    try:
        cholesky_solver(block)
    except LinAlgError:
        return False
    return True


class Preconditioner:
    r"""A diagonal preconditioner for the penalised variables, and an exact one for the others.

    Parameters
    ----------
    scale : ndarray of shape (n,)
        Inverse of the diagonal M that stands for H; taken over, not copied.
    penalty : ndarray of shape (n,) or None
        The diagonal h; None, where the problem is not known to be convex, leaves errors unbounded.
    free : ndarray of int of shape (k,)
        The variables to eliminate.
    columns : ndarray of shape (k, n)
        Their columns of H.
    idle : ndarray of int
        Variables without curvature, which are left out.

    Attributes
    ----------
    smallest : float
        Lower bound :math:`\mu` of the preconditioned spectrum; 0 if none is known.
    """

    def __init__(
        self,
        scale: Vector,
        penalty: Vector | None,
        free: NDArray[np.intp],
        columns: Vector,
        idle: NDArray[np.intp],
    ) -> None:
        aside = np.concatenate([free, idle])
        # H - diag(h) is positive semidefinite. Scaled by M^-1, the spectrum of H is therefore at
        # least the smallest h_j / M_j, over the variables that are not eliminated.
        held = np.zeros_like(scale) if penalty is None else penalty * scale
        held[aside] = np.inf
        self.smallest = float(held.min(initial=np.inf))
        self._scale = scale
        self._scale[aside] = 0.0
        self._free = free
        self._idle = idle
        self._columns = columns
        self._solve = cholesky_solver(columns[:, free]) if free.size else _unchanged
        self._norms = np.array([self.norm(column) for column in columns])

    def __call__(self, residual: Vector) -> Vector:
        """Return a direction: scaled, with the free variables at their optimum given the others."""
        direction = self._scale * residual
        direction[self._free] -= self._solve(self._columns @ direction)
        return direction

    def norm(self, side: Vector) -> float:
        """Return the norm of a right-hand side by which rounding errors are measured.

        Divided by the root of ``smallest``, it is at least the norm in the inverse of H.
        """
        free = side[self._free]
        weight = self.smallest if 0.0 < self.smallest < np.inf else 1.0
        scaled = float(kernels.weighted_dot(self._scale, side, side))
        return float(np.sqrt(scaled + weight * (free @ self._solve(free))))

    def pull(self, x: Vector) -> float:
        """Return a bound of the norm of what the free variables add to the product with H."""
        return float(np.abs(x[self._free]) @ self._norms)

    def settle(self, x: Vector, residual: Vector) -> None:
        """Move the free variables, in place, to where their residual is zero."""
        move = self._solve(residual[self._free])
        x[self._free] += move
        residual -= move @ self._columns
        residual[self._free] = 0.0
        residual[self._idle] = 0.0


def _unchanged(side: Vector) -> Vector:
    return side


class LinearSystem:
    """The state of a conjugate-gradient iteration; the caller multiplies by H.

    Between calls, ``residual`` is ``rhs - H @ x`` but for rounding, zero at the variables that are
    eliminated, and ``direction`` is conjugate to all earlier directions.

    Parameters
    ----------
    rhs, x, product : ndarray of shape (n,)
        Right-hand side, first guess, and H times it; the last two are taken over, not copied.
    preconditioner : Preconditioner
    precision : float, default=EPSILON
        That of the products with H.

    Attributes
    ----------
    rhs, x, residual : ndarray of shape (n,)
        Right-hand side, iterate, and ``rhs - H @ x``.
    direction : ndarray of shape (n,)
        What :meth:`advance` wants to be multiplied by H.
    finished : bool
        Whether rounding is all that is left of the residual, or H is not positive definite.
    """

    def __init__(
        self,
        rhs: Vector,
        x: Vector,
        product: Vector,
        preconditioner: Preconditioner,
        precision: float = EPSILON,
    ) -> None:
        self.rhs, self.x, self.residual = rhs, x, np.subtract(rhs, product, out=product)
        self._precondition = preconditioner
        preconditioner.settle(self.x, self.residual)
        size = preconditioner.norm(rhs) + preconditioner.pull(self.x)
        self._floor = RESIDUAL_ROUNDING * precision * size
        # The Gauss-Radau coefficient: epsilon(x)**2 <= _radau * _energy, at first because the
        # preconditioned H is at least mu.
        self._radau = 1.0 / preconditioner.smallest if preconditioner.smallest > 0.0 else np.inf
        self.direction = preconditioner(self.residual)
        # r'M^-1 r, the square of the error if M were H.
        self._energy = float(self.residual @ self.direction)
        self.finished = self._ends()

    def _ends(self) -> bool:
        """Whether nothing is left to gain, which is also the case where the residual is NaN."""
        return not self._energy > self._floor * self._floor

    @property
    def product(self) -> Vector:
        """H times x."""
        return self.rhs - self.residual

    @property
    def error(self) -> float:
        r"""What :math:`\epsilon(x)` would be if the preconditioner were the inverse of H."""
        return float(np.sqrt(np.maximum(self._energy, 0.0)))

    @property
    def bound(self) -> float:
        r"""Upper bound of :math:`\epsilon(x)`; infinite if none is known."""
        if not np.isfinite(self._radau):
            return np.inf
        return float(np.sqrt(self._radau * np.maximum(self._energy, 0.0))) + self.rounding

    @property
    def rounding(self) -> float:
        r"""What rounding may have done to :math:`\epsilon(x)`; infinite if no bound is known."""
        smallest = self._precondition.smallest
        return self._floor / float(np.sqrt(smallest)) if smallest > 0.0 else np.inf

    def advance(self, product: Vector) -> None:
        """Take the step along ``direction``, given H times it."""
        curvature = float(self.direction @ product)
        if not curvature > 0.0:  # not positive definite, as far as the arithmetic can tell
            self.finished = True
        if self.finished:
            return
        # Nocedal and Wright, algorithm 5.3; ``step`` and ``growth`` are their alpha and beta.
        step = self._energy / curvature
        self.x = self.x + step * self.direction
        self.residual -= step * product
        scaled = self._precondition(self.residual)
        energy = float(self.residual @ scaled)
        growth = energy / self._energy
        self.direction *= growth
        self.direction += scaled
        self._energy = energy
        self.finished = self._ends()
        self._extend(step, growth)

    def _extend(self, step: float, growth: float) -> None:
        """Add a coefficient to the quadrature; Meurant and Tichý, section 3."""
        smallest = self._precondition.smallest
        excess = self._radau - step
        if not np.isfinite(excess):
            return
        # Rounding can break the recursion; the bound 1 / mu by strong convexity always holds.
        self._radau = excess / (smallest * excess + growth) if excess > 0.0 else 1.0 / smallest
