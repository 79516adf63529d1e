"""Many small symmetric positive definite systems, factorised together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, lapack

from ...linalg import stacks

Array = NDArray[np.float64]
Vector = NDArray[np.float64]

# Largest order up to which compiled loops factorise the matrices; beyond, LAPACK does, one by one.
# Why: LAPACK's factorisation became the faster one at about this order, on an AMD EPYC.
MAX_STACKED_ORDER = 64
# Squared pivot, of a matrix with a unit diagonal, below which the matrix is singular as far as
# double precision can tell.
# Why: elimination rounds each pivot by about its order times 1.1e-16: 1e-13 at order 1000.
SMALLEST_PIVOT = 1e-13


class Factorised:
    """The inverses of a stack of symmetric positive semidefinite matrices.

    Every matrix is scaled to a unit diagonal first, so that the units of its variables do not
    matter; up to a factor of the order, no diagonal scaling has a smaller condition number (van der
    Sluis, Numerische Mathematik 14, 1969). A matrix that is singular to working precision is solved
    by its pseudo-inverse: solutions have no part in directions that the matrix says nothing of,
    where rounding would decide.

    Parameters
    ----------
    H : ndarray of shape (n_matrices, d, d)

    Attributes
    ----------
    singular : ndarray of shape (n_matrices,), bool
        Which matrices are singular to working precision.
    incomplete : ndarray of shape (n_matrices,), bool
        Which matrices say nothing of some direction: singular ones, and those with a zero diagonal
        element.
    smallest : ndarray of shape (n_matrices,)
        The smallest squared pivot of the scaled matrices, near the inverse of their condition
        numbers; zero where singular.

    Raises
    ------
    FloatingPointError
        If a matrix is not finite.
    """

    def __init__(self, H: Array) -> None:
        S, self._scale = np.empty_like(H, order="C"), np.empty((len(H), H.shape[1]))
        # A variable without data or penalty has neither curvature nor gradient; it does not move.
        if not stacks.scale(H, self._scale, S):
            raise FloatingPointError("The Hessian of an inner problem is not finite.")
        self._matrix = S
        stacked = S.shape[1] <= MAX_STACKED_ORDER
        self._factors: _Stacked | _OneByOne = _Stacked(S) if stacked else _OneByOne(S)
        self.smallest = self._factors.smallest
        self.singular = ~(self.smallest > SMALLEST_PIVOT)
        self.incomplete = self.singular | ~self._scale.all(axis=1)
        self._inverses = {b: _pseudo_inverse(S[b]) for b in np.flatnonzero(self.singular)}

    def __call__(self, rhs: Array) -> Array:
        """Return the solutions for right-hand sides of shape (n_matrices, d, n_sides)."""
        scaled = self._scale[:, :, None] * rhs
        x = self._factors.solve(scaled)
        for b, inverse in self._inverses.items():
            x[b] = inverse @ scaled[b]
            x[b] += inverse @ (scaled[b] - self._matrix[b] @ x[b])
        return np.asarray(self._scale[:, :, None] * x)

    def ignored(self, force: Array, load: Array, penalty: Array) -> Vector:
        """Bound the part of a product with a solution that singular matrices say nothing of.

        Parameters
        ----------
        force, load : ndarray of shape (n_matrices, d, n_sides)
            The right-hand side, and the vector that its solution is multiplied by.
        penalty : ndarray of shape (n_matrices, d)
            A diagonal that every matrix is known to exceed.

        Returns
        -------
        hidden : ndarray of shape (n_matrices,)
            The sizes of the products along the directions that are left out.
        """
        hidden = np.zeros(len(self._matrix))
        for b in np.flatnonzero(self.singular):
            V, scale = _left_out(self._matrix[b]), self._scale[b]
            least = np.einsum("di,d,di->i", V, penalty[b] * scale**2, V)
            sizes = np.abs(V.T @ (scale[:, None] * force[b]))
            sizes *= np.abs(V.T @ (scale[:, None] * load[b]))
            # Where there is no penalty either, the vectors have no part but rounding.
            known = least > 0.0
            hidden[b] = float((sizes[known].sum(axis=1) / least[known]).sum())
        return hidden


class _Stacked:
    """The Cholesky factors of a stack of matrices with unit diagonals, by compiled loops."""

    def __init__(self, S: Array) -> None:
        self._matrix, self._factor = S, np.empty_like(S)
        self.smallest = np.empty(len(S))
        stacks.factorise(S, self._factor, self.smallest)

    def solve(self, rhs: Array) -> Array:
        """Return the solutions, refined once; what they are of singular matrices has no meaning."""
        sides = np.ascontiguousarray(rhs.swapaxes(1, 2))
        x = np.empty_like(sides)
        stacks.solve(self._matrix, self._factor, sides, x, np.empty(rhs.shape[1]))
        return x.swapaxes(1, 2)


class _OneByOne:
    """The Cholesky factors of matrices with unit diagonals, each by LAPACK."""

    def __init__(self, S: Array) -> None:
        self._matrix, self._factors = S, [_Factor.of(one) for one in S]
        self.smallest = np.array([one.smallest for one in self._factors])

    def solve(self, rhs: Array) -> Array:
        """Return the solutions, refined once; what they are of singular matrices has no meaning."""
        x = self._once(rhs)
        # One step of iterative refinement: as accurate as if the matrix had been factorised
        # without error (Higham, Accuracy and Stability of Numerical Algorithms, chapter 12).
        x += self._once(rhs - self._matrix @ x)
        return x

    def _once(self, rhs: Array) -> Array:
        return np.stack([one.solve(r) for one, r in zip(self._factors, rhs, strict=True)])


@dataclass(frozen=True)
class _Factor:
    """The Cholesky factor of a matrix with a unit diagonal.

    Attributes
    ----------
    coupled : ndarray of int
        The rows that are not those of the identity, as those of samples without weight are.
    lower : ndarray of shape (len(coupled), len(coupled))
        Their factor, in the lower triangle.
    smallest : float
        The smallest squared pivot, zero if the matrix is not positive definite.
    """

    coupled: NDArray[np.intp]
    lower: Array
    smallest: float

    @classmethod
    def of(cls, S: Array) -> _Factor:
        coupled = np.flatnonzero(np.count_nonzero(S, axis=1) > 1)
        some = S[np.ix_(coupled, coupled)]
        if not coupled.size:  # which LAPACK's interface does not take
            return cls(coupled, some, 1.0)
        # The transpose of a symmetric matrix is the matrix, in the order of LAPACK.
        lower, failed = lapack.dpotrf(some.T, lower=True, clean=False, overwrite_a=True)
        pivots = np.diagonal(lower)
        smallest = 0.0 if failed else float(pivots.min(initial=1.0)) ** 2
        return cls(coupled, lower, smallest)

    def solve(self, rhs: Array) -> Array:
        """Return the solutions for right-hand sides, one in each column."""
        x = np.array(rhs)
        if self.coupled.size:
            x[self.coupled] = lapack.dpotrs(self.lower, rhs[self.coupled], lower=True)[0]
        return x


def _split(S: Array) -> tuple[Vector, Array, NDArray[np.bool_]]:
    """Return eigenvalues and vectors, and which of them are more than rounding."""
    try:
        values, vectors = np.linalg.eigh(S)
    except LinAlgError as error:
        raise FloatingPointError("The Hessian of an inner problem has no eigenvalues.") from error
    return values, vectors, values > SMALLEST_PIVOT * len(S) * values[-1]


def _pseudo_inverse(S: Array) -> Array:
    values, vectors, kept = _split(S)
    V = vectors[:, kept]
    return np.asarray((V / values[kept]) @ V.T)


def _left_out(S: Array) -> Array:
    _, vectors, kept = _split(S)
    return np.asarray(vectors[:, ~kept])
