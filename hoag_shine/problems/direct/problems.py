r"""The folds of a penalised linear model, solved by Newton's method with factorised Hessians.

It is used where the Hessian of a fold is cheap to factorise: the solution, the held-out loss and
the hypergradient are then as accurate as the arithmetic, and nothing has to be estimated. With
:math:`u = \partial f / \partial z`, the adjoint is :math:`q = H^{-1} \Phi^\top u`, by the factor of
the last Newton step, and :math:`df/d\theta = -\sum_j h_j w_j q_j` over the variables of a penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...linalg.costs import MAX_FACTORISED_ORDER, WORKSPACE_NUMBERS
from ...linalg.streams import PartedMatrix
from ..fold_weights import FoldWeights
from ..groups import FIXED, UNPENALISED
from ..held_out import HeldOut
from ..losses import Loss
from ..penalties import GroupedPenalty
from .dual import DualSystem
from .kernels import Kernels, separable
from .least_squares import LeastSquares
from .newton import (
    MAX_NEWTON_STEPS,
    NEAR_DECREMENT,
    ROUNDING_DECREMENT,
    TARGET_DECREMENT,
    Folds,
    Solved,
    State,
    solve,
)
from .polish import Adjoint, Polished
from .primal import Design, PrimalSystem

Array = NDArray[np.float64]
Vector = NDArray[np.float64]

# Multiplications for the factors of a Newton step of all folds, up to which they are solved
# directly.
# Why: some hundredths of a second, which an iterative solver needs as well.
MAX_STEP_MULTIPLICATIONS = 4e8
# Multiplications for the Hessians of all folds, likewise.
# Why: of taller data than this, the folds' mean Hessian, one for all of them, serves as well.
MAX_HESSIAN_MULTIPLICATIONS = 2e7
# Numbers in an array over rows, outputs and folds up to which folds of a smooth loss that is not
# quadratic are solved directly, if they have more rows than columns.
# Why: bounds of errors and refinements go through such arrays some hundred times at each theta,
# which took 0.5 us a number. On an Intel Xeon, an iterative solver took as long with 2e4 (two
# classes, 8 to 40 columns) and a third of the time with 5e4 (10,000 rows, 20 columns).
MAX_DIRECT_NUMBERS = 2.5e4
# Newton steps at a theta, for a loss that is not quadratic; one that is takes a single step.
# Why: searches on breast_cancer, wine and diabetes, with five losses, took 3 in the median and 8 at
# the ninth decile.
USUAL_NEWTON_STEPS = 4.0
# Numbers in an array over rows and folds beyond which it is not kept for all folds.
# Why: 128 MiB in float64; by judgement, what a search may take beside the data.
MAX_KEPT_NUMBERS = 1 << 24
# Most folds that an iterative solver is used for, where direct ones are possible.
# Why: what Python does for each fold, some 100,000 calls in a search with five, costs more than the
# arithmetic when the folds are many.
MAX_ITERATED_FOLDS = 50
# Most steps with the last factor, whose linear predictors are products with X and not with a
# kernel.
# Why: by judgement; each removes several digits, and they end as soon as nothing is gained.
MAX_CORRECTION_STEPS = 4
# Most numbers of an array over the rows, outputs and folds that are solved together.
# Why: some twenty such arrays are there at a time. Leave-one-out of 2,000 rows by a logistic
# regression took 163 MiB; with four times as many numbers it took 590 MiB, and half as long again.
MAX_TOGETHER_NUMBERS = 1 << 20
# Most thetas whose solutions are remembered, so that others may start from the nearest.
# Why: by judgement; WORKSPACE_NUMBERS bounds their memory in any case.
MAX_REMEMBERED_SOLUTIONS = 16
# Decrement, in units of the objective, at which a fold's solution is near enough to be the start of
# all folds.
# Why: by judgement; folds differ by more than that.
COMMON_START_DECREMENT = 1e-4
# Widths of rounded corners, as shares of the targets' size, on the way to a solution in a corner.
# Why: a third of the width moves what lies in the corner so little that Newton's method follows.
ROUNDED_WIDTHS = 10.0 ** np.arange(0.0, -9.5, -0.5)
# Most steps with each of them.
# Why: two to nine are usual; a solution that is not quite reached is start enough for the next.
MAX_ROUNDED_STEPS = 15
# Most steps towards a loss with corners before the way through rounded ones is taken.
# Why: solutions outside of corners took 23 at most; in corners, a hundred are no use either.
MAX_STEPS_TO_CORNER = 30
# Error of a held-out loss, as a share of it, at which a solution counts as accurate.
# Why: by judgement; a thousandth of what the smallest tol in use, 1e-3, asks for.
ACCURATE_SHARE = 1e-9
# Error that rounding leaves of a hypergradient, as a share of the sizes of its terms.
# Why: ten times that of a sum: its terms are products of two solutions, each of which is rounded.
HYPERGRADIENT_ROUNDING = 1e-13
# Factor of what a step of refinement would change, in bounds of errors.
# Why: by judgement. A factor that solves to a tenth would do with 1.1.
BOUND_SAFETY_FACTOR = 10.0


class Sizes(NamedTuple):
    """Numbers of folds and outputs, training rows of the smallest fold, and the intercept."""

    n_folds: int
    n_outputs: int
    n_train: int
    fit_intercept: bool


@dataclass(frozen=True)
class DirectSolution:
    """The folds at some theta.

    Attributes
    ----------
    ws : ndarray of shape (n_folds, n_params)
        Inner variables.
    values : ndarray of shape (n_folds,)
        Held-out losses.
    errors : ndarray of shape (n_folds,)
        What a further Newton step would change of them.
    hypergradients : ndarray of shape (n_folds, n_hyperparameters)
    bounds : ndarray of shape (n_folds,)
        Of the errors of the hypergradients' norms at ``ws``.
    converged : ndarray of shape (n_folds,), bool
        Whether nothing but rounding is left of a Newton step.
    inner_values : ndarray of shape (n_folds,)
        Inner objectives.
    grads : ndarray of shape (n_folds, n_params)
        Their gradients.
    n_iter : int
        Largest number of Newton steps of a fold.
    """

    ws: Array
    values: Vector
    errors: Vector
    hypergradients: Array
    bounds: Vector
    converged: NDArray[np.bool_]
    inner_values: Vector
    grads: Array
    n_iter: int


@dataclass(frozen=True)
class _Known:
    """The folds' solutions at some theta, for others to start from.

    Attributes
    ----------
    theta : ndarray of shape (n_hyperparameters,)
    state : State
    tangent : State
        The state's derivative where all entries of theta change alike.
    """

    theta: Vector
    state: State
    tangent: State

    def towards(self, theta: Vector, *, dual: bool) -> list[State]:
        """Return guesses of the solutions at another theta.

        The same solutions; those along the tangent; and with more columns than rows, the same
        coefficients.
        """
        change = float(np.mean(theta - self.theta))
        pairs = zip(self.state, self.tangent, strict=True)
        starts: list[State] = [self.state, tuple(x + change * dx for x, dx in pairs)]
        if dual:
            # Where penalties are weak, the coefficients hardly change with them, and the variables
            # of the samples change in proportion.
            a, b = self.state
            starts.append((a * np.exp(change), b))
        return starts


class _Attempt(NamedTuple):
    """A start of Newton's method, its most steps, and the decrement at which to end.

    The start comes with the number of steps of all folds that were made to find it.
    """

    start: Callable[[], tuple[State, int]]
    max_iter: int
    target: float


class DirectProblems:
    """The folds of a penalised linear model.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_features)
    y : ndarray of shape (n_rows, n_outputs)
    loss : Loss
    penalty : GroupedPenalty
    weight : FoldWeights
        Of the rows in the training losses.
    held_out : HeldOut
    sizes : Sizes
    """

    def __init__(
        self,
        X: Any,
        y: Array,
        loss: Loss,
        penalty: GroupedPenalty,
        weight: FoldWeights,
        held_out: HeldOut,
        sizes: Sizes,
    ) -> None:
        self.y, self.loss, self.penalty = y[:, None, :], loss, penalty
        self.n_folds = sizes.n_folds
        self.n_passes = 0.0
        self._weight, self._held_out = weight, held_out
        self._groups = penalty.groups.reshape(-1, y.shape[1])
        self._active = self._groups != FIXED
        self._starts: dict[int, State] = {}
        self._known: dict[int, list[_Known]] = {}
        self._kernels: Kernels | None = None
        self._design: Design | None = None
        if prefers_dual(sizes.n_train, self._groups):
            self._kernels = Kernels(X, penalty, self._groups)
        else:
            free = sizes.fit_intercept and bool((self._groups[-1] == UNPENALISED).all())
            # The intercepts of a softmax are held along a constant, as those of X are.
            centre = free and not loss.shift_invariant
            self._design = Design(X, sizes.fit_intercept, centre=centre)

    @property
    def work(self) -> float:
        """Multiplications for a Newton step of all folds."""
        matrices = self.n_folds * (1 if self.loss.couples else self.y.shape[2])
        return matrices * self._order() ** 2 * (self._order() / 3.0 + len(self.y) / 2.0)

    def chunks(self) -> Iterator[slice]:
        """Return portions of the folds that are solved together."""
        (n, _, m), order = self.y.shape, self._order()
        matrices = order * order * (1 if self.loss.couples else m)
        size = max(1, min(MAX_TOGETHER_NUMBERS // (n * m), WORKSPACE_NUMBERS // matrices))
        return (slice(i, min(i + size, self.n_folds)) for i in range(0, self.n_folds, size))

    def solve(self, theta: Vector, max_iter: int = MAX_NEWTON_STEPS) -> DirectSolution:
        """Solve all folds at theta, from where they were solved last."""
        if self._least_squares is not None:
            solution = self._solve_least_squares(self._least_squares, theta)
            if solution is not None:
                return solution
        parts = [self._solve(chunk, theta, max_iter) for chunk in self.chunks()]
        arrays = [field.name for field in fields(DirectSolution) if field.name != "n_iter"]
        joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in arrays}
        return DirectSolution(**joined, n_iter=max(p.n_iter for p in parts))

    @cached_property
    def _least_squares(self) -> LeastSquares | None:
        """The normal equations of least squares, which no penalty changes.

        A final fit has no held-out loss that would tell how accurate they are.
        """
        if self._design is None or not self.loss.quadratic or not self._held_out.rows.size:
            return None
        small = self.n_folds * len(self._groups) ** 2 <= MAX_KEPT_NUMBERS
        if not small or self._weight[:1].ndim > 2:
            return None
        self.n_passes += 1.0
        y = self.y[:, 0]
        return LeastSquares(self._design, y, self._weight, self._held_out, self.chunks())

    def _solve_least_squares(self, normal: LeastSquares, theta: Vector) -> DirectSolution | None:
        """Solve all folds by their normal equations, if that is accurate."""
        h = self.penalty.strength(theta)
        W, values, errors, Q, doubts = normal.solve(h.reshape(self._groups.shape))
        if not (errors <= ACCURATE_SHARE * values.mean()).all():
            return None
        self.n_passes += self._held_out.rows.size / len(self.y)
        ws, qs = (self._expanded((a,), theta) for a in (W, Q))
        bounds = doubts + HYPERGRADIENT_ROUNDING * np.abs(h * ws * qs).sum(axis=1)
        inner_values, grads = normal.inner(W, h.reshape(self._groups.shape))
        return DirectSolution(
            ws=ws,
            values=values,
            errors=errors,
            hypergradients=self._cross(ws, theta, qs),
            bounds=bounds,
            converged=np.ones(len(ws), dtype=bool),
            inner_values=inner_values,
            grads=self._design.transposed(grads, 1.0).reshape(ws.shape),  # type: ignore[union-attr]
            n_iter=1,
        )

    def forget(self) -> None:
        """Have the next solve start without what earlier ones have found."""
        self._starts.clear()
        self._known.clear()

    def start(self, ws: Sequence[Vector]) -> None:
        """Have the next solve begin at some variables."""
        if self._kernels is not None:
            return  # the variables of the samples do not follow from the coefficients
        assert self._design is not None
        W = self._design.centred(np.stack(ws).reshape(len(ws), -1, self.y.shape[2]))
        self._starts = {chunk.start: (W[chunk].copy(),) for chunk in self.chunks()}

    def _order(self) -> int:
        """Return the order of the matrices that are factorised."""
        m = self.y.shape[2] if self.loss.couples else 1
        return (len(self._groups) if self._kernels is None else len(self.y)) * m

    def _solve(self, chunk: slice, theta: Vector, max_iter: int) -> DirectSolution:
        folds = self._folds(chunk)
        system = self._system(folds, theta)
        known = self._known.setdefault(chunk.start, [])
        attempts = self._attempts(chunk.start, system, folds, theta, max_iter)
        best: DirectSolution | None = None
        # A limit of fewer steps than usual says that earlier solves have failed: one start, then.
        for start, limit, target in attempts[: None if max_iter >= MAX_NEWTON_STEPS else 1]:
            state, n_before = start()
            solved = solve(system, folds, state, limit, target)
            self.n_passes += 1.5 * solved.n_iter
            corrections = MAX_CORRECTION_STEPS if solved.n_iter < limit else 0
            found, solution = self._finished(system, folds, solved, theta, corrections)
            solution = replace(solution, n_iter=solution.n_iter + n_before)
            if best is None or solution.errors.sum() < best.errors.sum():
                best = solution
            accurate = solution.errors <= ACCURATE_SHARE * np.abs(solution.values)
            if (solution.converged | accurate).all():
                known.append(found)
                del known[: -self._n_remembered]
                return solution
        assert best is not None
        return best

    def _attempts(
        self,
        first: int,
        system: PrimalSystem | DualSystem,
        folds: Folds,
        theta: Vector,
        max_iter: int,
    ) -> list[_Attempt]:
        """Return how to solve folds from the given first on: one way after the other."""
        cornered = self.loss.rounded(1.0) is not self.loss
        few = min(max_iter, MAX_STEPS_TO_CORNER) if cornered else max_iter
        common = _Attempt(lambda: (self._common(folds, theta, few), 0), few, NEAR_DECREMENT)
        last = _Attempt(lambda: (system.zero(), 0), max_iter, TARGET_DECREMENT)
        if cornered:
            last = last._replace(start=lambda: self._through_rounded(folds, theta))
        if given := self._starts.pop(first, None):
            return [_Attempt(lambda: (given, 0), few, NEAR_DECREMENT), common, last]
        if known := self._known[first]:
            near = common._replace(
                start=lambda: (self._predicted_start(system, folds, theta, known), 0)
            )
            return [near, last] if cornered else [near, common, last]
        return [common, last]

    @property
    def _n_remembered(self) -> int:
        """Number of thetas whose solutions are remembered, for others to start from."""
        numbers = self.n_folds * self._groups.size
        if self._kernels is not None:
            numbers += self.n_folds * self.y.size
        return int(np.clip(WORKSPACE_NUMBERS // (2 * numbers), 1, MAX_REMEMBERED_SOLUTIONS))

    def _predicted_start(
        self,
        system: PrimalSystem | DualSystem,
        folds: Folds,
        theta: Vector,
        known: Sequence[_Known],
    ) -> State:
        """Return the start of folds that were solved at other thetas.

        Of the guesses that the nearest theta offers, each fold takes the one with the lowest
        objective.
        """
        nearest = min(known, key=lambda one: float(np.abs(theta - one.theta).max()))
        starts = nearest.towards(theta, dual=self._kernels is not None)
        objectives = np.array([folds.objective(system, state) for state in starts])
        lowest = np.nan_to_num(objectives, nan=np.inf).argmin(axis=0)
        each = np.arange(len(folds))
        return tuple(np.stack(parts)[lowest, each] for parts in zip(*starts, strict=True))

    def _common(self, folds: Folds, theta: Vector, max_iter: int) -> State:
        """Return the start of folds not solved before: the solution for their mean weights.

        One solve for all folds costs a fraction of what they would need to get there from zero.
        """
        weight = folds.weight.mean(axis=1, keepdims=True)
        held_out = self._held_out.by([], self.n_folds)
        one = Folds(self.y, self.loss, weight, held_out)
        system = self._system(one, theta)
        if len(folds) == 1 or self.loss.quadratic:
            return self._system(folds, theta).zero()
        state = solve(system, one, system.zero(), max_iter, COMMON_START_DECREMENT).state
        return tuple(np.repeat(x, len(folds), axis=0) for x in state)

    def _through_rounded(self, folds: Folds, theta: Vector) -> tuple[State, int]:
        """Return a start by way of losses whose corners are ever less rounded, and its steps.

        Where rows are fitted exactly, as those of a quantile are, the curvature there is that of
        a corner, and Newton's steps from afar say nothing of it.
        """
        state, n_iter = self._system(folds, theta).zero(), 0
        for width in ROUNDED_WIDTHS:
            smooth = replace(folds, loss=folds.loss.rounded(width))
            system = self._system(smooth, theta)
            solved = solve(system, smooth, state, MAX_ROUNDED_STEPS, COMMON_START_DECREMENT)
            self.n_passes += 1.5 * solved.n_iter
            state, n_iter = solved.state, n_iter + solved.n_iter
        return state, n_iter

    @cached_property
    def _all_folds(self) -> Folds:
        return self._some_folds(slice(0, self.n_folds))

    def _folds(self, chunk: slice) -> Folds:
        """Return some folds; all of them are remembered, where they are solved together."""
        every = len(range(self.n_folds)[chunk]) == self.n_folds
        return self._all_folds if every else self._some_folds(chunk)

    def _some_folds(self, chunk: slice) -> Folds:
        weight = self._weight[chunk]
        held_out = self._held_out.by(range(self.n_folds)[chunk], self.n_folds)
        weight = weight.reshape(*weight.shape[:2], -1)
        return Folds(self.y, self.loss, weight, held_out)

    def _system(self, folds: Folds, theta: Vector) -> PrimalSystem | DualSystem:
        h = self.penalty.strength(theta).reshape(self._groups.shape)
        if self._design is not None:
            centring = self._centring(folds, self._design.rows)
            return PrimalSystem(self._design, folds, h, self._active, centring)
        assert self._kernels is not None
        kernel, scale = self._kernels.at(theta)
        free = self._kernels.free
        active = self._active[self._kernels.free_rows]
        return DualSystem(kernel, scale, free, active, folds, self._centring(folds, free))

    def _centring(self, folds: Folds, columns: Array) -> Array | None:
        """Return the softmax's centring of each column and fold; see ``linear``."""
        if not self.loss.shift_invariant:
            return None
        groups = self._groups
        if len(groups) != columns.shape[1]:
            groups = groups[self._kernels.free_rows]  # type: ignore[union-attr]
        free = np.all(groups < 0, axis=1)
        if not free.any():
            return None
        squares = (columns * columns).T @ folds.weight[:, :, 0]
        return np.asarray(np.where(free[:, None], squares, 0.0) / self.y.shape[2] ** 2)

    def _finished(
        self,
        system: PrimalSystem | DualSystem,
        folds: Folds,
        solved: Solved,
        theta: Vector,
        corrections: int,
    ) -> tuple[_Known, DirectSolution]:
        """Polish a solution, and return it with its held-out loss, hypergradient and their errors.

        1. A few steps with the last factor, whose linear predictors are products with X.
        2. The adjoint by the same factor, refined, and the hypergradient.
        3. Errors: what another step would change, bounds by the penalty where the factor is poor,
           and infinity where even these do not hold.
        """
        at = Polished.of(
            system,
            folds,
            solved,
            lambda state: self._predicted(system, state, theta),
            corrections,
        )
        ws, curvature = self._expanded(at.state, theta), folds.curvature(at.Z)
        judged = self._judged if folds.held_out.rows.size else self._fitted
        values, errors, hypergradients, bounds = judged(at, curvature, ws, theta)
        unknown = np.isinf(errors)
        return _Known(theta, at.state, at.tangent(curvature)), DirectSolution(
            ws=ws,
            values=values,
            errors=errors,
            hypergradients=hypergradients,
            bounds=np.where(unknown, np.inf, bounds),
            converged=(at.decrement <= ROUNDING_DECREMENT) & ~unknown,
            inner_values=at.objective,
            grads=self._gradients(at.slopes, ws, self.penalty.strength(theta), folds),
            n_iter=solved.n_iter,
        )

    def _judged(
        self, at: Polished, curvature: Array, ws: Array, theta: Vector
    ) -> tuple[Vector, Vector, Array, Vector]:
        """Return held-out losses, their errors, hypergradients, and bounds of their errors."""
        values, U = at.folds.outer(at.Z)
        load = at.system.load(U)
        adjoint = at.adjoint(load, U, curvature)
        qs = self._expanded(adjoint.state, theta)
        errors = at.errors(values, U, load, adjoint.state, curvature)
        bounds = self._bounds(at, adjoint, ws, qs, theta)
        return values, errors, self._cross(ws, theta, qs), bounds

    def _fitted(
        self, at: Polished, curvature: Array, ws: Array, theta: Vector
    ) -> tuple[Vector, Vector, Array, Vector]:
        """Return the same of a fit that nothing is held out of: zero, or unknown."""
        errors = np.where(at.unsolved(at.missed(curvature)), np.inf, 0.0)
        none = np.zeros(len(ws))
        return none, errors, np.zeros((len(ws), theta.size)), none

    def _bounds(
        self, at: Polished, adjoint: Adjoint, ws: Array, qs: Array, theta: Vector
    ) -> Vector:
        """Return bounds on the errors of the hypergradients.

        Parameters
        ----------
        at : Polished
        adjoint : Adjoint
        ws, qs : ndarray of shape (n_folds, n_params)
            Coefficients of the solutions and of their adjoints.
        theta : ndarray of shape (n_hyperparameters,)
        """
        h, system = self.penalty.strength(theta), at.system

        def change(force: State) -> Vector:
            """Return how far a force moves the hypergradients, by the factor."""
            moved = self._expanded(at.linearised.solve(force), theta)
            return np.asarray(np.linalg.norm(self._cross(ws, theta, moved), axis=1))

        # The error follows from the residual by the factor, to the accuracy of the factor; where
        # that is singular, by the penalty alone, which H is at least: in its norm, the adjoint is
        # off by no more than the residual is long in the inverse of that norm.
        bounds = BOUND_SAFETY_FACTOR * change(adjoint.residual)
        poor = np.where(at.linearised.singular, system.length(adjoint.residual), 0.0)
        reach = adjoint.reach + poor
        # Along variables without a penalty, what rounding may do is bounded by the factor.
        for force in system.along_free(adjoint.doubt):
            bounds += BOUND_SAFETY_FACTOR * change(force)
        terms = np.abs(h * ws * qs).sum(axis=1)
        bounds += HYPERGRADIENT_ROUNDING * terms + np.sqrt((h * ws * ws).sum(axis=1)) * reach
        return np.where(np.isfinite(bounds), bounds, np.inf)

    def inverse(self, k: int, theta: Vector, w: Vector) -> Callable[[Vector], Vector]:
        """Return the product with the inverse of fold k's Hessian at w."""
        folds = self._folds(slice(k, k + 1))
        system = self._system(folds, theta)
        if isinstance(system, PrimalSystem):
            shape, design = (1, *self._groups.shape), system.design
            linearised = system.linearise(system.predict((design.centred(w.reshape(shape)),)))

            def solved(v: Vector) -> Vector:
                force = design.transposed(v.reshape(shape), -1.0)
                return np.ravel(design.uncentred(linearised.solve((force,))[0]))

            return solved
        assert self._kernels is not None
        kernels, dual = self._kernels, system.linearise(self._kernels.predict(w[None]))

        def product(v: Vector) -> Vector:
            # Woodbury's identity: diag(1/h) v, and a combination of rows that corrects it for the
            # curvature of the losses.
            alone, rest = kernels.divide(v, theta)
            c, b = dual.apart(kernels.predict(alone[None]), rest[None])
            return np.asarray(alone + self._expanded((c, b), theta)[0])

        return product

    def _gradients(self, slopes: Array, ws: Array, h: Vector, folds: Folds) -> Array:
        """Return the inner gradients, given the derivatives of the training losses."""
        k, m = len(ws), self.y.shape[2]
        rows: Any = (self._design or self._kernels).rows  # type: ignore[union-attr]
        G = (rows.T @ slopes.reshape(len(slopes), -1)).reshape(-1, k, m)
        G = G.swapaxes(0, 1)
        if self._design is not None:
            G = self._design.transposed(G, 1.0)
        G = G * self._active
        if (centring := self._centring(folds, rows)) is not None:
            G += (centring.T * ws.reshape(k, -1, m).sum(axis=2))[:, :, None]
        return np.asarray(G.reshape(k, -1) + h * ws)

    def _cross(self, ws: Array, theta: Vector, qs: Array) -> Array:
        """Return each fold's hypergradient for adjoints ``qs``."""
        return -self.penalty.cross_vjps(ws, theta, qs)

    def _expanded(self, state: State, theta: Vector) -> Array:
        """Return the coefficients of a state, of shape (n_folds, n_params)."""
        if self._design is not None:
            W = self._design.uncentred(state[0])
        else:
            assert self._kernels is not None
            W = self._kernels.expand(state, theta)
        return np.ascontiguousarray(W.reshape(len(W), -1))

    def _predicted(self, system: PrimalSystem | DualSystem, state: State, theta: Vector) -> Array:
        """Return the linear predictors of a state: products with X and not with a kernel."""
        if self._kernels is None:
            return system.predict(state)
        return self._kernels.predict(self._expanded(state, theta))


def prefers_dual(n_train: int, groups: NDArray[np.intp]) -> bool:
    """Whether a fold has fewer training rows than penalised coefficients of an output."""
    return int((groups >= 0).sum(axis=0).max()) > n_train


def affordable(X: Any, loss: Loss, penalty: GroupedPenalty, sizes: Sizes) -> bool:
    """Whether all folds are to be solved directly.

    That takes a convex loss, a quadratic penalty, small matrices, and few rows where a loss takes
    several steps; with more columns than rows, also a penalty that is a product of one of the
    columns and one of the outputs. Folds by the hundreds are solved directly even where that takes
    long: iterative solvers, which solve all folds together, would not fit into memory.
    """
    n_folds, n_outputs, n_train, fit_intercept = sizes
    groups = penalty.groups.reshape(-1, n_outputs)
    n, p = X.shape
    if isinstance(X, PartedMatrix):  # factorisations read rows in any order
        return False
    if not (loss.convex and penalty.quadratic):
        return False
    if not loss.couples and (groups == FIXED).any():
        return False
    dual = prefers_dual(n_train, groups)
    if dual and not (separable(groups) and (not loss.couples or loss.has_root)):
        return False
    blocks = n_outputs if loss.couples else 1
    order = (n if dual else p + int(fit_intercept)) * blocks
    if order > MAX_FACTORISED_ORDER:
        return False
    numbers = n * n_folds * n_outputs
    many = n_folds > MAX_ITERATED_FOLDS or numbers > MAX_KEPT_NUMBERS
    several_steps = loss.smooth and not loss.quadratic and not dual and n_folds > 1
    if several_steps and not many and numbers > MAX_DIRECT_NUMBERS:
        return False
    matrices = n_folds * (1 if loss.couples else n_outputs)
    factors = matrices * order**3 / 3.0
    pairs = blocks * (blocks + 1) // 2 if loss.couples else n_outputs
    products = 0.0 if dual else n_folds * pairs * n * (order / blocks) ** 2 / 2.0
    if loss.quadratic:
        factors, products = (
            factors / USUAL_NEWTON_STEPS,
            products / USUAL_NEWTON_STEPS,
        )  # of one theta, there is one
    return bool(
        many or (factors <= MAX_STEP_MULTIPLICATIONS and products <= MAX_HESSIAN_MULTIPLICATIONS)
    )
