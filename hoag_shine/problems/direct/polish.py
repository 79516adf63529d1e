"""What is left to do at a solution: its last digits, adjoints, and how far off it may be.

A solution ends where a step of Newton's method, by the factor of the step before, changes nothing
any more. That step says how far off the held-out loss is: as long as the factor can be relied on,
and the step leads to the solution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...linalg.precision import SMALLEST_NORMAL, SUM_ROUNDING
from .dual import DualSystem
from .newton import TARGET_DECREMENT, UNMOVED_GRADIENT_SHARE, Folds, Solved, State, weighted
from .primal import PrimalSystem

Array = NDArray[np.float64]
Vector = NDArray[np.float64]

# Steps of refinement of an adjoint by the factor of the step before.
# Why: the factor is off by about the root of the decrement, so that three steps reach rounding.
ADJOINT_REFINEMENTS = 3
# Decrement or duality gap, in units of the objective, beyond which a fold is not solved.
# Why: by judgement; solved folds are below 1e-9, and those that are not are far above.
UNSOLVED_DECREMENT = 1e-6
# Share of what a factor should have solved that it may leave; one that leaves more is not believed.
# Why: by judgement; errors are then known to a tenth, and bounds have a margin of ten.
UNSOLVED_SHARE = 0.1


@dataclass(frozen=True)
class Adjoint:
    """The inverse Hessians of some folds times a load, and what is known of the error.

    Attributes
    ----------
    state : State
    residual : State
        What is left of the load.
    doubt : ndarray of shape (n_rows, n_folds, n_outputs)
        What rounding may do to the equations that ``state`` solves, as slopes.
    reach : ndarray of shape (n_folds,)
        Bounds of the norm, in the inverse of the Hessian, of what ``doubt`` does to the equations.
    """

    state: State
    residual: State
    doubt: Array
    reach: Vector


@dataclass(frozen=True)
class Polished:
    """A solution of some folds, and the Newton step from there.

    Attributes
    ----------
    system : PrimalSystem or DualSystem
    folds : Folds
    linearised : Linearised
        The factor that the step is made with.
    state : State
    Z : ndarray of shape (n_rows, n_folds, n_outputs)
        Linear predictors.
    slopes : ndarray of shape (n_rows, n_folds, n_outputs)
        The derivatives of the training losses.
    objective : ndarray of shape (n_folds,)
    force, step : State
        Minus the gradient, and what the factor makes of it.
    dZ : ndarray of shape (n_rows, n_folds, n_outputs)
        How the step changes the predictors.
    decrement : ndarray of shape (n_folds,)
        Of the step, in units of the objective.
    """

    system: PrimalSystem | DualSystem
    folds: Folds
    linearised: Any
    state: State
    Z: Array
    slopes: Array
    objective: Vector
    force: State
    step: State
    dZ: Array
    decrement: Vector

    @classmethod
    def of(
        cls,
        system: PrimalSystem | DualSystem,
        folds: Folds,
        solved: Solved,
        predict: Callable[[State], Array],
        corrections: int,
    ) -> Polished:
        """Make some steps with the last factor, as long as they gain anything.

        ``predict`` returns linear predictors that are products with X.
        """
        linearised: Any = solved.linearised
        if not (solved.fresh or folds.loss.quadratic):
            linearised = system.linearise(solved.Z)
        last, now = (
            np.full(len(folds), np.inf),
            cls._at(system, folds, linearised, solved.state, predict),
        )
        for _ in range(corrections):
            if ((now.decrement <= TARGET_DECREMENT) | ~(now.decrement < last)).all():
                break
            last = now.decrement
            state = tuple(x + dx for x, dx in zip(now.state, now.step, strict=True))
            now = cls._at(system, folds, linearised, state, predict)
        return now

    @classmethod
    def _at(
        cls,
        system: PrimalSystem | DualSystem,
        folds: Folds,
        linearised: Any,
        state: State,
        predict: Callable[[State], Array],
    ) -> Polished:
        Z = predict(state)
        losses, slopes = folds.training(Z)
        objective = losses + 0.5 * system.stiffness(state, state)
        force = system.pull(state, slopes)
        step = linearised.solve(force)
        dZ = system.predict(step)
        decrement = folds.relative(system.work(force, step, dZ), objective)
        return cls(
            system, folds, linearised, state, Z, slopes, objective, force, step, dZ, decrement
        )

    def adjoint(self, load: State, U: Array, curvature: Array) -> Adjoint:
        """Return the inverse Hessian times a load; the arguments are as in :meth:`errors`."""
        adjoint = self.linearised.solve(load)
        rest = self.system.remainder(load, adjoint, curvature)
        # The factor is that of the step before, which a few steps of iterative refinement make up
        # for (Higham, Accuracy and Stability of Numerical Algorithms, chapter 12).
        for _ in range(ADJOINT_REFINEMENTS):
            more = self.linearised.solve(rest)
            adjoint = tuple(x + dx for x, dx in zip(adjoint, more, strict=True))
            rest = self.system.remainder(load, adjoint, curvature)
        doubt, least = self._doubt(adjoint, U, curvature)
        return Adjoint(adjoint, rest, doubt, self._reach(adjoint, doubt, least))

    def _doubt(self, adjoint: State, U: Array, curvature: Array) -> tuple[Array, Array]:
        """Bound what rounding may do to the terms of an adjoint's equations, as slopes.

        Also return the least weighted curvature that rounding allows for each slope, zero if
        outputs are coupled.

        Linear predictors are known to the rounding of their terms. The slopes of the held-out
        losses, and the curvatures of the training losses, are those at some point in this range: of
        a hinge, it may hold the kink, and where a probability is one but for rounding, the
        curvature has no digit.
        """
        system, folds = self.system, self.folds
        shift = SUM_ROUNDING * system.sizes(self.state)
        v = system.predict(adjoint)
        size = SUM_ROUNDING * (np.abs(v) + system.sizes(adjoint))
        doubt = SUM_ROUNDING * np.abs(U) + folds.curved_sizes(curvature, size)
        curved = folds.curved(curvature, v)
        least = np.zeros_like(U) if folds.loss.couples else curvature
        for Z in (self.Z + shift, self.Z - shift):
            around = folds.curvature(Z)
            doubt += np.abs(folds.outer(Z)[1] - U)
            doubt += np.abs(folds.curved(around, v) - curved)
            if not folds.loss.couples:
                least = np.minimum(least, around)
        return np.where(np.isfinite(doubt), doubt, np.inf), weighted(folds.weight, least)

    def _reach(self, adjoint: State, doubt: Array, least: Array) -> Vector:
        r"""Bound the norm of what slopes u do to the equations, in the inverse of the Hessian.

        The Hessian is at least the penalty. It is also at least :math:`\Phi^\top D \Phi`, so that
        the norm of :math:`\Phi^\top u` is at most the root of :math:`\sum_i u_i^2 / D_i`. Where a
        penalty is so weak that the data are interpolated, that is less by far.
        """
        curved = least > 0.0
        by_data = np.divide(doubt, np.sqrt(least, where=curved, out=np.ones_like(doubt)))
        by_data = np.sqrt(np.einsum("nkm,nkm->k", *2 * (np.where(curved, by_data, 0.0),)))
        by_data += self.system.reach(np.where(curved, 0.0, doubt), adjoint)
        return np.asarray(np.fmin(by_data, self.system.reach(doubt, adjoint)))

    def errors(
        self, values: Vector, U: Array, load: State, adjoint: State, curvature: Array
    ) -> Vector:
        """Return bounds on the errors of the held-out losses, infinity where nothing is known.

        Parameters
        ----------
        values : ndarray of shape (n_folds,)
            The held-out losses.
        U : ndarray of shape (n_rows, n_folds, n_outputs)
            Their derivatives at the linear predictors.
        load, adjoint : State
            Their gradient, and the inverse Hessian times that.
        curvature : ndarray
            Second derivatives of the losses, at Z.
        """
        system, linearised = self.system, self.linearised
        missed = self.missed(curvature)
        changes = np.abs(np.einsum("nkm,nkm->k", U, self.dZ))
        errors = changes + SUM_ROUNDING * np.abs(values) + linearised.ignored(self.force, load)
        # A factor that leaves more than a share of what it should have solved is not relied on.
        # Then, too, the penalty alone bounds the error: in its norm, no solution is farther away
        # than the gradient is long in the inverse of that norm.
        again = system.predict(linearised.solve(missed))
        left = np.abs(np.einsum("nkm,nkm->k", U, again))
        poor = linearised.singular | ~(
            left <= UNSOLVED_SHARE * changes + SUM_ROUNDING * np.abs(values)
        )
        errors += np.where(poor, left + system.length(self.force) * system.length(load), 0.0)
        small = self._gap <= UNSOLVED_DECREMENT
        if not small.all():
            # Where rounding explains the gradient, it is known what that may do.
            errors += np.where(small, 0.0, self._rounding(U, adjoint, curvature))
        return np.where(self.unsolved(missed) | ~np.isfinite(errors), np.inf, errors)

    def missed(self, curvature: Array) -> State:
        """Return what the step leaves of Newton's equations."""
        return self.system.remainder(self.force, self.step, curvature)

    def unsolved(self, missed: State) -> NDArray[np.bool_]:
        """Return which folds are, for all that is known, far from their solutions.

        ``missed`` is what the step leaves of Newton's equations.
        """
        gap = self._gap
        if not (gap <= UNSOLVED_DECREMENT).all():
            gap = self._gap_by(self.system.significant(self.force, self.state, self.slopes))
        # All is relative to the objective, which must not be larger than without coefficients.
        highest = (1.0 + UNSOLVED_DECREMENT) * self.folds.null_losses
        far = (
            ~(self.decrement <= UNSOLVED_DECREMENT)
            | ~(gap <= UNSOLVED_DECREMENT)
            | ~(self.objective <= highest + SMALLEST_NORMAL)
        )
        # Coefficients without penalty and without curvature do not move, though their gradient may
        # not be zero: nothing is known then.
        unmoved = self.system.unmoved(missed, self.force, self.slopes)
        return far | (unmoved > UNMOVED_GRADIENT_SHARE)

    @cached_property
    def _gap(self) -> Vector:
        return self._gap_by(self.force)

    def _gap_by(self, force: State) -> Vector:
        """Bound how far the objectives are above their minima, in units of themselves.

        A step does not say how far away a solution is that it does not lead to. The objective is
        strongly convex in the norm of the penalty, so that it cannot fall by more than half of the
        gradient's square in the inverse of that norm (Boyd and Vandenberghe, section 9.1.2).
        """
        return self.folds.relative(0.5 * self.system.length(force) ** 2, self.objective)

    def _rounding(self, U: Array, adjoint: State, curvature: Array) -> Vector:
        """Bound what the rounding of linear predictors does to the held-out losses."""
        system = self.system
        sizes = SUM_ROUNDING * system.sizes(self.state)
        moved = self.folds.curved_sizes(curvature, sizes) + SUM_ROUNDING * np.abs(self.slopes)
        along = np.einsum("nkm,nkm->k", np.abs(system.predict(adjoint)), moved)
        return np.asarray(along + np.einsum("nkm,nkm->k", np.abs(U), sizes))

    def tangent(self, curvature: Array) -> State:
        """Return the solution's derivative where all log penalties change alike."""
        return self.linearised.solve(  # type: ignore[no-any-return]
            self.system.drift(self.state, curvature)
        )
