r"""Newton's method for all folds together, to the accuracy of the arithmetic.

The inner problem of a fold is convex in the linear predictors, and its penalty is quadratic. A
*system* says how its variables become linear predictors, and solves the linear equations of a
Newton step. There are two: :mod:`~hoag_shine.problems.direct.primal` for more rows than columns and
:mod:`~hoag_shine.problems.direct.dual` for more columns than rows. What both share is here: steps,
a line search that needs no values, and when to stop.

The *decrement* :math:`\lambda^2 = -\nabla g^\top p` of a step p is twice what a quadratic model
expects to gain (Boyd and Vandenberghe, *Convex Optimization*, section 9.5). It does not depend on
the units of the variables, which the norm of a gradient does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ...linalg.precision import SMALLEST_NORMAL
from ..held_out import HeldOut
from ..losses import Loss

Array = NDArray[np.float64]
Vector = NDArray[np.float64]
# The variables of all folds: arrays whose first axis is that of the folds.
State = tuple[Array, ...]

# Most steps of a solve.
# Why: by judgement; in searches on breast_cancer, wine and diabetes, with five losses, a solve took
# 3 steps in the median and 23 at most.
MAX_NEWTON_STEPS = 100
# Decrements, in units of the objective. The first is one from which a step with a new factor leaves
# next to nothing.
# Why: Newton's method squares the decrement, and 1e-20 is below all that is asked for.
NEAR_DECREMENT = 1e-10
# Decrements as shares of the last one, both with new factors. Newton's method squares the share by
# each step, and steps with an old factor leave the share that the first one with it would leave.
# With the first, the factor is good enough for the last digits; with the second, the next one is.
# Why: an adjoint is refined three times, and a factor that leaves 1e-8 leaves 1e-16 of it then.
LAST_FACTOR_SHARE, LAST_STEP_SHARE = 1e-4, 1e-2
# That of a solution without any error that can be measured.
# Why: decrements are squares, and 1e-13 is the rounding of a gradient.
TARGET_DECREMENT = 1e-26
# That up to which a fold is solved where no step lowers it further.
# Why: by judgement: what rounding may leave of badly conditioned problems.
ROUNDING_DECREMENT = 1e-9
# That from which on the curvature changes so little that its factor serves again.
# Why: by judgement. Steps with an old factor still converge, by a constant factor each.
FROZEN_DECREMENT = 1e-5
# Decrement that a step with an old factor may leave, as a share; a new factor is made beyond.
# Why: by judgement: a factorisation costs several such steps.
REUSED_FACTOR_GAIN = 0.1
# Slope at the end of a step that ends a line search, as a share of the slope at its start.
# Why: by judgement: between an exact search and the 0.9 of L-BFGS, since a trial costs little
# beside a factorisation.
FLAT_SLOPE_SHARE = 0.5
# Most trials of a line search.
# Why: each shrinks the bracket by a tenth at least, mostly by half; after forty, nothing is left.
MAX_TRIAL_LENGTHS = 40
# Length of a step, as a share of Newton's, below which the next one is damped.
# Why: by judgement; steps that are cut so short say that the model is of no use there.
SHORT_STEP_LENGTH = 0.1
# Steps in a row that lower no objective before a solve is given up.
# Why: by judgement; each costs a factorisation.
MAX_IDLE_NEWTON_STEPS = 5
# Share of a gradient's terms that a Newton step may leave of it where there is no penalty.
# Why: by judgement. A step leaves rounding there, unless the curvature says nothing of the
# variable.
UNMOVED_GRADIENT_SHARE = 1e-3
# Change of an objective, as a share of it, that counts as one.
# Why: a hundred times the rounding of a sum.
OBJECTIVE_RESOLUTION = 1e-12


@dataclass(frozen=True)
class Folds:
    """Some folds of a linear model, as rows with weights.

    Attributes
    ----------
    y : ndarray of shape (n_rows, 1, n_outputs)
    loss : Loss
        Convex.
    weight : ndarray of shape (n_rows, n_folds, 1 or n_outputs)
        Of the training losses.
    held_out : HeldOut
    """

    y: Array
    loss: Loss
    weight: Array
    held_out: HeldOut

    def __len__(self) -> int:
        return int(self.weight.shape[1])

    def training(self, Z: Array) -> tuple[Vector, Array]:
        """Return each fold's training loss, and its derivatives at the linear predictors."""
        loss, slope = self.loss.value_and_gradient(self.y, Z)
        losses = np.asarray(np.einsum("nkm,nkm->k", self.weight, loss))
        slopes = self.weight * slope
        if not (np.isfinite(losses).all() and np.isfinite(slopes.sum())):
            # Rows without weight may have a loss that is not finite.
            losses = np.where(self.weight > 0.0, self.weight * loss, 0.0).sum(axis=(0, 2))
            slopes = np.where(self.weight > 0.0, slopes, 0.0)
        return losses, slopes

    def curvature(self, Z: Array) -> Array:
        """Return the second derivatives of the losses, in the loss's own form, without weights."""
        return self.loss.hessian(self.y, Z)

    def curved(self, curvature: Array, dZ: Array) -> Array:
        """Return how the derivatives of the training losses change with the linear predictors."""
        return weighted(self.weight, self.loss.hessian_product(curvature, dZ))

    def curved_sizes(self, curvature: Array, sizes: Array) -> Array:
        """Return the sums of the sizes of the terms of :meth:`curved`, given those of changes."""
        return weighted(self.weight, self.loss.hessian_product_sizes(curvature, sizes))

    def objective(self, system: System, state: State) -> Vector:
        """Return each fold's inner objective at a state."""
        return self.training(system.predict(state))[0] + 0.5 * system.stiffness(state, state)

    def relative(self, work: Vector, objective: Vector) -> Vector:
        """Return decrements in units of the objective above its minimum; NaN becomes infinite."""
        if not np.isfinite(self.loss.minimum):
            objective = 1.0 + np.abs(objective)  # without a known minimum
        relative = np.abs(work) / np.maximum(objective, SMALLEST_NORMAL)
        return np.where(np.isfinite(relative), relative, np.inf)

    def some(self, chosen: NDArray[np.intp]) -> Folds:
        """Return some of the folds, for their training losses."""
        return Folds(self.y, self.loss, self.weight[:, chosen], self.held_out)

    @cached_property
    def null_losses(self) -> Vector:
        """Each fold's training loss at linear predictors of zero."""
        n, k = self.weight.shape[:2]
        return self.training(np.zeros((n, k, self.y.shape[2])))[0]

    @cached_property
    def _judged(self) -> tuple[NDArray[np.intp], NDArray[np.intp], Array, Array]:
        """The held-out rows, their folds, weights and targets."""
        held = self.held_out
        rows, folds = held.rows.astype(np.intp), held.folds.astype(np.intp)
        return rows, folds, held.weight[:, None], self.y[rows]

    def outer(self, Z: Array) -> tuple[Vector, Array]:
        """Return each fold's held-out loss, and its derivatives at the linear predictors."""
        rows, folds, weight, y = self._judged
        if not rows.size:
            return np.zeros(len(self)), np.zeros_like(Z)
        loss, slope = self.loss.value_and_gradient(y, Z[rows, folds][:, None])
        values = np.bincount(folds, (weight * loss).sum(axis=(1, 2)), len(self)).astype(np.float64)
        U = np.zeros_like(Z)
        U[rows, folds] = (weight * slope)[:, 0]
        return values, U


class Linearised(Protocol):
    """The factorised Hessians of some folds at given curvatures."""

    @property
    def incomplete(self) -> NDArray[np.bool_]:
        """Which folds have a direction that their Hessians say nothing of."""

    def solve(self, force: State) -> State:
        """Return the Hessians' inverses times a force."""


class System(Protocol):
    """The variables of some folds: how they become linear predictors, and Newton's equations.

    A *force* is a right-hand side of these equations, in whatever form the system keeps it.
    """

    def predict(self, state: State) -> Array:
        """Return the linear predictors of all rows, (row, fold, output)."""

    def linearise(self, Z: Array, damping: Vector | None = None) -> Linearised:
        """Factorise the Hessians at linear predictors, with something added to the curvatures."""

    def drift(self, state: State, curvature: Array) -> State:
        """Return minus the gradient's derivative where all log penalties change alike."""

    def pull(self, state: State, slopes: Array) -> State:
        """Return minus the gradient, given the derivatives of the training losses."""

    def remainder(self, force: State, state: State, curvature: Array) -> State:
        """Return the residual of Newton's equations: a force minus their left side for a state."""

    def unmoved(self, rest: State, force: State, slopes: Array) -> Vector:
        """Return the largest share of the gradient that a step leaves where there is no penalty.

        As a share of the sum of the sizes of the gradient's terms; ``rest`` is the residual of the
        step.
        """

    def load(self, slopes: Array) -> State:
        """Return the gradient of a function with such derivatives at the linear predictors."""

    def work(self, force: State, step: State, dZ: Array) -> Vector:
        """Return each fold's product of a force and a step, which changes the predictors by dZ."""

    def stiffness(self, state: State, step: State) -> Vector:
        """Return each fold's product of two vectors in the metric of its penalty."""


@dataclass(frozen=True)
class Solved:
    """What Newton's method leaves.

    Attributes
    ----------
    state : State
    Z : ndarray of shape (n_rows, n_folds, n_outputs)
        The linear predictors.
    linearised : Linearised
        At a point near by.
    fresh : bool
        Whether that point is the state.
    decrement : ndarray of shape (n_folds,)
        In units of the objective.
    n_iter : int
    """

    state: State
    Z: Array
    linearised: Linearised
    fresh: bool
    decrement: Vector
    n_iter: int

    @property
    def converged(self) -> NDArray[np.bool_]:
        return np.asarray(self.decrement <= ROUNDING_DECREMENT)


def solve(system: System, folds: Folds, state: State, max_iter: int, target: float) -> Solved:
    """Minimise from a state, which is not changed.

    Parameters
    ----------
    system : System
    folds : Folds
    state : State
    max_iter : int
    target : float
        Decrement at which to end; a solve also ends where rounding permits no smaller one, and,
        unless nothing but rounding is wanted, where the last factor or one at the end has only the
        last digits left to do.
    """
    k, loose = len(folds), target > TARGET_DECREMENT
    point, damping = _Point.at(system, folds, state), np.zeros(k)
    linearised, fresh = system.linearise(point.Z, damping), True
    last, progress = np.full(k, np.inf), _Progress(k)
    for n_iter in range(max_iter + 1):
        if not np.isfinite(point.slopes).all():
            infinite = np.full(k, np.inf)
            return Solved(point.state, point.Z, linearised, fresh, infinite, n_iter)
        objective = point.losses + 0.5 * system.stiffness(point.state, point.state)
        force = system.pull(point.state, point.slopes)
        step = linearised.solve(force)
        dZ = system.predict(step)
        decrement = folds.relative(system.work(force, step, dZ), objective)
        # A fold is slow whose decrement has not fallen enough, NaN included. With an old factor,
        # that asks for a new one; with a new factor, it is rounding if the decrement is small.
        slow = ~(decrement <= REUSED_FACTOR_GAIN * last)
        if not fresh and (slow & (decrement > target)).any():
            linearised, fresh = system.linearise(point.Z, damping), True
            last = np.full(k, np.inf)
            continue
        done = (decrement <= target) | (slow & (decrement <= ROUNDING_DECREMENT))
        near = loose and fresh
        if near:
            done |= _fallen(decrement, last, LAST_FACTOR_SHARE)
        done &= damping == 0.0
        stuck = _stuck(system, folds, point, linearised, force, step, done)
        done &= ~stuck
        if done.all() or n_iter == max_iter or progress.ends(objective, decrement):
            break
        t, moved = _line_search(system, folds, point, step, dZ)
        t[done] = 0.0
        damping = _damped(damping, stuck | ((t < SHORT_STEP_LENGTH) & ~done), folds, point)
        state = tuple(x + _by_fold(t, dx) * dx for x, dx in zip(point.state, step, strict=True))
        point = (
            _Point.at(system, folds, state) if moved is None else moved.where(done, point, state)
        )
        ends = near and (done | _fallen(decrement, last, LAST_STEP_SHARE)).all()
        last, fresh = decrement, False
        if ends and not damping.any():
            n_iter += 1
            break
        if damping.any() or not ((decrement <= FROZEN_DECREMENT) | done).all():
            linearised, fresh = system.linearise(point.Z, damping), True
    decrement = np.where((damping == 0.0) & np.isfinite(decrement), decrement, np.inf)
    fresh = fresh and not damping.any()
    return Solved(point.state, point.Z, linearised, fresh, decrement, n_iter)


def _fallen(decrement: Vector, last: Vector, share: float) -> NDArray[np.bool_]:
    """Return which decrements are at most a share of the last ones, where these are known."""
    return np.isfinite(last) & (decrement <= share * last)


@dataclass(frozen=True)
class _Point:
    """A state, its linear predictors, and the training losses with their derivatives there."""

    state: State
    Z: Array
    losses: Vector
    slopes: Array

    @classmethod
    def at(cls, system: System, folds: Folds, state: State) -> Self:
        Z = system.predict(state)
        return cls(state, Z, *folds.training(Z))

    def moved(self, folds: Folds, dZ: Array) -> Self:
        """Return the point after a whole step, without its state."""
        Z = self.Z + dZ
        losses, slopes = folds.training(Z)
        return replace(self, Z=Z, losses=losses, slopes=slopes)

    def where(self, stays: NDArray[np.bool_], other: Self, state: State) -> Self:
        """Return the point with its state; folds that stay are taken from another point."""
        if not stays.any():
            return replace(self, state=state)
        by_row = stays[:, None]
        Z, slopes = (
            np.where(by_row, a, b) for a, b in ((other.Z, self.Z), (other.slopes, self.slopes))
        )
        return replace(
            self, state=state, Z=Z, losses=np.where(stays, other.losses, self.losses), slopes=slopes
        )


def weighted(weight: Array, values: Array) -> Array:
    """Return weighted values; zero where the weight is zero, even of infinite ones."""
    return np.where(weight > 0.0, weight * values, 0.0)


class _Progress:
    """Whether steps still make progress: a lower objective or decrement of some fold."""

    def __init__(self, n_folds: int) -> None:
        self._objective, self._decrement = np.full((2, n_folds), np.inf)
        self._idle = 0

    def ends(self, objective: Vector, decrement: Vector) -> bool:
        """Note a step; return whether too many in a row have made no progress."""
        lower = objective < self._objective - OBJECTIVE_RESOLUTION * np.abs(objective)
        ahead = lower | (decrement < self._decrement)
        self._idle = 0 if ahead.any() else self._idle + 1
        self._objective = np.fmin(self._objective, objective)
        self._decrement = np.fmin(self._decrement, decrement)
        return self._idle == MAX_IDLE_NEWTON_STEPS


def _stuck(
    system: System,
    folds: Folds,
    point: _Point,
    linearised: Linearised,
    force: State,
    step: State,
    done: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return which folds end with a gradient where they have neither curvature nor penalty."""
    suspect = linearised.incomplete & done
    if not suspect.any():
        return suspect
    rest = system.remainder(force, step, folds.curvature(point.Z))
    unmoved = system.unmoved(rest, force, point.slopes) > UNMOVED_GRADIENT_SHARE
    return np.asarray(suspect & unmoved)


def _damped(damping: Vector, short: NDArray[np.bool_], folds: Folds, point: _Point) -> Vector:
    """Return what is to be added to the second derivatives of the losses.

    A loss that grows linearly has no curvature far from its minimum, and a Newton step from there
    is far too long. The remedy is Levenberg's and Marquardt's (Nocedal and Wright, 2nd ed., section
    10.3): a curvature is added, in units of the loss's slope over its predictors. It grows tenfold
    where steps have to be cut short, falls to a tenth elsewhere, and is gone before the end.
    """
    if not (short.any() or damping.any()):
        return damping
    size = (folds.weight * (1.0 + np.abs(point.Z))).sum(axis=(0, 2))
    unit = np.abs(point.slopes).sum(axis=(0, 2)) / np.maximum(size, SMALLEST_NORMAL)
    more = np.maximum(10.0 * damping, 1e-2 * unit)
    less = np.where(damping > 1e-6 * unit, 0.1 * damping, 0.0)
    return np.where(short, more, less)


def _by_fold(t: Vector, like: Array) -> Array:
    return t.reshape(-1, *(1,) * (like.ndim - 1))


def _line_search(
    system: System, folds: Folds, point: _Point, step: State, dZ: Array
) -> tuple[Vector, _Point | None]:
    r"""Return each fold's length of a step, near the minimum along it.

    The objective is convex, so that its slope along the step rises, and a length is too long where
    the slope is positive. Values are not compared, since near the minimum their differences are
    rounding. A length is accepted where the size of the slope is at most half of that at the start
    and the objective has not risen by more than its last digits. Otherwise the bracket is narrowed,
    by a secant where that makes progress.

    If all folds take the whole step, the point that it leads to is returned, too.
    """
    line = _Line.of(system, point, step, dZ)
    t, everywhere = np.ones(len(folds)), np.arange(len(folds))
    moved = point.moved(folds, dZ)
    along, risen = line.after(t, everywhere, moved.losses, moved.slopes, dZ)
    # Where the slope is not negative, the step is rounding: it is made if the objective does not
    # rise.
    downhill = line.slope < 0.0
    t[~downhill & risen] = 0.0
    too_long = downhill & line.too_long(along, risen, everywhere)
    too_short = downhill & line.too_short(along, everywhere)
    searching = np.flatnonzero(too_long | too_short)
    if not searching.size:
        # Where the step is larger than the predictors that it leads to, their sum has lost digits:
        # they must be computed from the state.
        exact = t.all() and np.abs(dZ).max(initial=0.0) <= np.abs(moved.Z).max(initial=0.0)
        return t, moved if exact else None
    low, high = np.where(too_short, 1.0, 0.0), np.where(too_long, 1.0, np.inf)
    at_low = np.where(too_short, along, line.slope)
    at_high = np.where(too_long, along, np.inf)
    for _ in range(MAX_TRIAL_LENGTHS):
        t[searching] = _between(*(a[searching] for a in (low, high, at_low, at_high)))
        now, dz = t[searching], dZ[:, searching]
        tried = folds.some(searching).training(point.Z[:, searching] + now[:, None] * dz)
        along, risen = line.after(now, searching, *tried, dz)
        long, short = line.too_long(along, risen, searching), line.too_short(along, searching)
        low[searching[short]], at_low[searching[short]] = now[short], along[short]
        high[searching[long]], at_high[searching[long]] = now[long], along[long]
        searching = searching[long | short]
        if not searching.size:
            return t, None
    t[searching] = low[searching]
    return t, None


@dataclass(frozen=True)
class _Line:
    """The objectives of the folds along a step.

    Attributes
    ----------
    constant, linear : ndarray of shape (n_folds,)
        The penalty's part of the slope is ``constant + t * linear`` at length t.
    slope : ndarray of shape (n_folds,)
        At length zero.
    highest : ndarray of shape (n_folds,)
        The objective at length zero, plus its rounding, without the penalty there.
    """

    constant: Vector
    linear: Vector
    slope: Vector
    highest: Vector

    @classmethod
    def of(cls, system: System, point: _Point, step: State, dZ: Array) -> Self:
        constant = system.stiffness(point.state, step)
        slope = np.einsum("nkm,nkm->k", point.slopes, dZ) + constant
        size = point.losses + system.stiffness(point.state, point.state)
        highest = point.losses + OBJECTIVE_RESOLUTION * size
        return cls(constant, system.stiffness(step, step), slope, highest)

    def after(
        self, t: Vector, chosen: NDArray[np.intp], losses: Vector, slopes: Array, dZ: Array
    ) -> tuple[Vector, NDArray[np.bool_]]:
        """Return the slopes of some folds at lengths t, and whether their objectives have risen."""
        constant, linear = self.constant[chosen], self.linear[chosen]
        along = np.einsum("nkm,nkm->k", slopes, dZ) + constant + t * linear
        rise = t * constant + 0.5 * t * t * linear
        return np.where(np.isfinite(along), along, np.inf), ~(losses + rise <= self.highest[chosen])

    def too_long(
        self, along: Vector, risen: NDArray[np.bool_], chosen: NDArray[np.intp]
    ) -> NDArray[np.bool_]:
        return np.asarray(
            (along > FLAT_SLOPE_SHARE * np.abs(self.slope[chosen])) | ((along > 0.0) & risen)
        )

    def too_short(self, along: Vector, chosen: NDArray[np.intp]) -> NDArray[np.bool_]:
        return np.asarray(along < -FLAT_SLOPE_SHARE * np.abs(self.slope[chosen]))


def _between(low: Vector, high: Vector, at_low: Vector, at_high: Vector) -> Vector:
    """Return where to look next for the root of a rising slope."""
    open_ended = np.isinf(high)
    width = np.where(open_ended, 0.0, high - low)
    with np.errstate(invalid="ignore"):
        share = np.nan_to_num(at_low / (at_low - at_high), nan=0.1)
    # Where the slope is far from linear, a secant creeps along one end: it moves by at least a
    # tenth of the bracket.
    inside = low + np.clip(share, 0.1, 0.9) * width
    return np.where(open_ended, 2.0 * np.maximum(low, 1.0), inside)
