"""The inverse-Hessian estimate that L-BFGS leaves behind, as a linear operator.

This is what SHINE shares between the two levels: the solver builds it on its way to the solution
and the hypergradient applies it. Layout and conventions:

* Pairs are kept in time order, the oldest first; when the memory is full, the oldest goes.
* A pair is stored as ``s`` and the gradient difference of the *data* term, ``y_data``. The penalty
  is quadratic with a diagonal Hessian ``h``, so that the pair of the whole objective is
  ``y = y_data + h * s`` for every ``h``, exactly. No pair is lost when the penalty changes. ``y``
  at the present penalty is stored, too, since every application reads it.
* From 10,000 variables on, where the time of the recursion is that of reading the pairs from
  memory, they are stored in half precision. What is applied is then the estimate of the rounded
  pairs, whose curvature is computed from what is stored: positive definite as before, and as good a
  model, since no pair knows the Hessian to three digits. All sums are float64. Each vector is
  stored in a unit of its own, a power of two; the products of a pair, and with them ``rho``, are in
  these units.
* The initial matrix is diagonal: ``gamma / (data_diagonal + h) ** (2 / 3)``, with ``gamma`` from
  the newest pair. Without knowledge of the data term's diagonal it is ``gamma * I``. Where there
  are few variables, an approximation of the whole Hessian is factorised and takes the diagonal's
  place.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ..linalg.pairs import PairStore
from ..utils.validation import check_count

if TYPE_CHECKING:
    _Operator = LinearOperator[np.float64]
else:
    _Operator = LinearOperator  # not subscriptable in older releases of SciPy

Vector = NDArray[np.float64]

# Power of the Hessian's diagonal in the initial matrix.
# Why: with power 1, the criterion on 20news stays some thousandths off for a hundred iterations,
# because the curvature is spread over many rare columns; with 1/2 that is gone after forty, but
# columns of very different scales hurt. 2/3 lies between.
DIAGONAL_POWER = 2.0 / 3.0
# Most pairs that a user may ask for.
# Why: by judgement. Each takes the memory of three vectors, and 40 already cost more than they
# save.
MOST_PAIRS = 10_000


class InverseHessian(_Operator):
    r"""L-BFGS estimate :math:`B \approx H^{-1}` as a symmetric positive definite operator.

    With the pairs :math:`(s_i, y_i)`, :math:`\rho_i = 1 / y_i^\top s_i` and the initial matrix
    :math:`B_0`, the estimate is defined by, oldest pair first,

    .. math:: B_{i+1} = (I - \rho_i s_i y_i^\top) B_i (I - \rho_i y_i s_i^\top)
              + \rho_i s_i s_i^\top

    and is applied by the two-loop recursion in :math:`4 m n` multiplications for :math:`m` pairs.

    Parameters
    ----------
    n : int
        Number of variables.
    memory : int, default=20
        Largest number of pairs kept.
    penalty_hessian : ndarray of shape (n,), dtype float64, optional
        Diagonal of the penalty's Hessian. Zero when not given.
    data_diagonal : ndarray of shape (n,), dtype float64, optional
        Diagonal of the data term's Hessian, or an estimate; scales the initial matrix.

    Attributes
    ----------
    n_pairs : int
        Number of pairs held at present, at most ``memory``.
    s, y : ndarray of shape (n_pairs, n), float64
        The pairs at the present penalty, oldest first, as they are stored: rounded to eleven bits
        from 10,000 variables on (copies).
    diagonal : ndarray of shape (n,)
        Diagonal of the initial matrix :math:`B_0`, or what it would be without a ``solver``.
    nbytes : int
        Bytes of memory for the pairs when it is full: three vectors for each pair, of eight bytes a
        number, or of two bytes from 10,000 variables on.

    References
    ----------
    .. [1] J. Nocedal and S. J. Wright, *Numerical Optimization*, 2nd ed., section 7.2.
    .. [2] Z. Ramzi et al., "SHINE: SHaring the INverse Estimate from the forward pass for bi-level
       optimization and implicit models", ICLR 2022, section 2.
    """

    def __init__(
        self,
        n: int,
        memory: int = 20,
        *,
        penalty_hessian: Vector | None = None,
        data_diagonal: Vector | None = None,
    ) -> None:
        super().__init__(np.dtype(np.float64), (n, n))  # type: ignore[call-arg]
        check_count("memory", memory, most=MOST_PAIRS)
        self.memory = memory
        # A ring: the pairs are in the rows _first, _first + 1, ... (modulo their number), the
        # oldest first. There is one row more than pairs, so that a new pair can be stored, measured
        # and rejected before the oldest is given up.
        self.n_pairs = 0
        self._first = 0
        self._pairs = PairStore(n, memory + 1)
        self._usable = np.empty(0, dtype=np.intp)  # the rows with a positive rho, the oldest first
        self._solver: Callable[[Vector], Vector] | None = None
        self._data_diagonal = data_diagonal
        self._penalty_hessian = np.zeros(n) if penalty_hessian is None else penalty_hessian
        self._reset_scale()
        self._gamma = self._usual_length()

    def __repr__(self) -> str:
        n, m = self.shape[0], self.n_pairs
        return f"<InverseHessian of {n} variables: {m} of {self.memory} pairs>"

    @property
    def s(self) -> NDArray[np.float64]:
        return self._pairs.s(self._rows())

    @property
    def y(self) -> NDArray[np.float64]:
        return self._pairs.y(self._rows())

    @property
    def nbytes(self) -> int:
        return self._pairs.nbytes

    @property
    def diagonal(self) -> Vector:
        # With a solver, gamma is the length of what the solver makes, and not of the diagonal.
        length = self._gamma if self._solver is None else self._usual_length()
        return length * self._scale

    @property
    def knows_scale(self) -> bool:
        """Whether a unit step along ``-B @ grad`` is a sensible first guess."""
        return self.n_pairs > 0 or self._data_diagonal is not None

    @property
    def penalty_hessian(self) -> Vector:
        return self._penalty_hessian

    def append(self, s: Vector, y: Vector) -> bool:
        """Take in the pair of a step and a gradient difference at the present penalty.

        Parameters
        ----------
        s, y : ndarray of shape (n,), dtype float64
            Step and gradient difference of the whole objective, penalty included.

        Returns
        -------
        kept : bool
            False when ``s @ y`` is not safely positive; such a pair would cost positive
            definiteness and is not stored.
        """
        row = (self._first + self.n_pairs) % self._n_rows
        self._pairs.write(row, s, y, self._penalty_hessian)
        # The products of a denormal pair may underflow; gamma is then no number to scale by.
        gamma = self._length(row) if self._pairs.rho[row] else 0.0
        if not 0.0 < gamma < np.inf:
            return False
        if self.n_pairs == self.memory:
            self._first = (self._first + 1) % self._n_rows
        else:
            self.n_pairs += 1
        self._gamma = gamma
        self._find_usable()
        return True

    def set_penalty(
        self,
        penalty_hessian: Vector | None,
        data_diagonal: Vector | None = None,
        solver: Callable[[Vector], Vector] | None = None,
    ) -> None:
        """Move to another penalty: the same pairs, exact for the new objective.

        Parameters
        ----------
        penalty_hessian : ndarray of shape (n,), dtype float64
            Diagonal of the new penalty's Hessian; None for zero.
        data_diagonal : ndarray of shape (n,), dtype float64, optional
            A newer diagonal of the data term's Hessian.
        solver : callable, optional
            Multiplies by an approximate inverse of the whole Hessian at the new penalty, which
            replaces the diagonal in the initial matrix.

        Notes
        -----
        Where the data term is not convex, a pair can lose its positive curvature under a smaller
        penalty; it is then passed over until a larger penalty gives it back.
        """
        if data_diagonal is not None:
            self._data_diagonal = data_diagonal
        self._penalty_hessian = (
            np.zeros(self.shape[0]) if penalty_hessian is None else penalty_hessian
        )
        self._reset_scale()
        self._solver = solver
        self._pairs.move(self._rows(), self._penalty_hessian)
        self._find_usable()
        if self._usable.size:
            self._gamma = self._length(self._usable[-1])
        else:
            self._gamma = self._usual_length() if solver is None else 1.0

    def use_median_scale(self) -> None:
        """Scale the initial matrix by the median of the gammas that its pairs ask for.

        The gamma of the newest pair, which is used otherwise, fits the solve that found the pair,
        but not another problem that starts with these pairs.
        """
        if self._usable.size:
            self._gamma = float(np.median([self._length(row) for row in self._usable]))

    def copy(self) -> Self:
        """Return an independent operator with the same pairs."""
        twin = copy(self)
        twin._pairs = self._pairs.copy()
        return twin

    def todense(self) -> NDArray[np.float64]:
        """Return the estimate as an (n, n) array; for tests and small problems."""
        return np.asarray(self @ np.eye(self.shape[0]))

    @property
    def _n_rows(self) -> int:
        return self.memory + 1

    def _rows(self) -> NDArray[np.intp]:
        return (self._first + np.arange(self.n_pairs)) % self._n_rows

    def _find_usable(self) -> None:
        """Note the rows of the pairs that have positive curvature, the oldest first."""
        rows = self._rows()
        self._usable = rows[self._pairs.rho[rows] > 0.0]

    def _reset_scale(self) -> None:
        """Set the shape of the initial matrix, ``B_0 / gamma``, for the present penalty."""
        if self._data_diagonal is None:
            self._scale = np.ones(self.shape[0])
            return
        total = self._data_diagonal + self._penalty_hessian
        # A variable with neither data nor penalty has no curvature: its scale stays 1.
        self._scale = np.exp(-DIAGONAL_POWER * np.log(np.where(total > 0.0, total, 1.0)))

    def _matvec(self, v: Vector) -> Vector:
        return self.applied(np.array(v, dtype=np.float64).ravel())

    def applied(self, out: Vector) -> Vector:
        """Return the product with a vector of shape (n,), float64, that may be overwritten."""
        if not self._usable.size:
            return self._gamma * self._initial(out)
        # Nocedal and Wright, algorithm 7.4: q <- v; from the newest pair to the oldest,
        # a_i = rho_i s_i'q and q -= a_i y_i; r = B_0 q; and back, r += (a_i - rho_i y_i'r) s_i.
        coefficient = self._pairs.down(self._usable, out)
        out = self._initial(out)
        out *= self._gamma
        self._pairs.up(self._usable, coefficient, out)
        return out

    def _usual_length(self) -> float:
        """Return the gamma with which a variable of median curvature d is scaled by 1 / d."""
        # The scale is d**-p with p = DIAGONAL_POWER, and gamma d**-p = 1 / d = (d**-p)**(1 / p).
        return float(np.median(self._scale) ** (1.0 / DIAGONAL_POWER - 1.0))

    def _length(self, row: int | np.integer[Any]) -> float:
        r"""Return the gamma that a stored pair asks for: :math:`s^\top y / y^\top B_0 y`.

        Nocedal and Wright, equation 7.20, for an initial matrix that is :math:`\gamma B_0`; it is
        the length with which the initial matrix alone fits the pair best.
        """
        if self._solver is None:
            return self._pairs.length(row, self._scale)
        return self._pairs.length_by(row, self._solver)

    def _initial(self, v: Vector) -> Vector:
        """Return the product with the initial matrix, but for gamma; v may be overwritten."""
        if self._solver is not None:
            return self._solver(v)
        v *= self._scale
        return v

    def _adjoint(self) -> Self:
        return self
