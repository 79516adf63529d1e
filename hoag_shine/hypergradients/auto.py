"""The SHINE estimate with a certified error, improved where the error matters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..inner import Solution
from ..problems.base import Problem
from ..problems.requests import HessianProduct, Solver
from .base import AdjointProblem, Hypergradient, Vector, relative
from .linear_system import LinearSystem, Preconditioner, positive_definite

# Most variables without a penalty that are eliminated from the linear systems.
# Why: each costs a column of the Hessian, a product in the first pass; intercepts of up to as many
# classes are eliminated. Beyond, errors have no bound.
MAX_ELIMINATED_VARIABLES = 16
# Most steps of conjugate gradient at one solution.
# Why: by judgement; it bounds the time where the system is badly conditioned, and the error that is
# left is reported.
MAX_CG_STEPS = 200
# Error that must be allowed for products to be made in single precision, as a share of the sum of
# the sizes of the hypergradient's terms (which cancel near a minimum, so that their sum says
# nothing of their sizes).
# Why: it is a thousand times what rounding to float32 does to them, up to MEASURED_TERMS of them.
SINGLE_PRECISION_SHARE = 1e-3
# Terms of a sum up to which the errors of Hessian products were measured.
# Why: the rows of 20news. With more of them, the rounding that is allowed for grows in proportion,
# which is the worst case.
MEASURED_TERMS = 2e4


def auto(adjoint: AdjointProblem) -> Solver[Hypergradient]:
    r"""Take the SHINE estimate, measure its error, and improve it as far as the error matters.

    Two systems with the same matrix are solved side by side, each data pass serving both: the
    adjoint :math:`Hq = \nabla f` and the tangent
    :math:`Hp = c`, with :math:`c = (\partial^2 g / \partial\theta \partial w)\, s` the cross
    derivative along the hypergradient s. Both start from what L-BFGS knows, :math:`q = B \nabla f`
    and :math:`p = B c`, and a first pass measures their residuals. Since

    .. math:: c^\top H^{-1} \nabla f = c^\top q + p^\top (\nabla f - H q)
              + (c - H p)^\top H^{-1} (\nabla f - H q),

    the derivative along s is known up to the product of *both* errors; q is corrected so that
    :math:`c^\top q` has this value. Conjugate gradient on both systems goes on until the
    hypergradient changes by less than ``accuracy`` from step to step, or is certain to be within
    it. The tangent is also how the solution moves with :math:`\theta`, so that the pairs
    :math:`(q, Hq)` and :math:`(p, Hp)` go into the memory of L-BFGS (outer-problem awareness) and
    serve its next solve.

    Parameters
    ----------
    adjoint : AdjointProblem
        Once the error is within its ``accuracy``, no more work is done; an infinite accuracy asks
        for the first pass alone.
    start : object
        The ``state`` of the last answer; asked again at the same solution, the method continues
        from there.

    Notes
    -----
    The bound of the error follows from Gauss-Radau quadrature, see
    ``hoag_shine.hypergradients.linear_system``; it is certain where the problem is ``convex`` and
    has a ``penalty_hessian``, except for at most 16 unpenalised variables, and infinite elsewhere.
    It concerns the linear system at the w that was reached, not the error of w.

    References
    ----------
    .. [1] Z. Ramzi et al., "SHINE: SHaring the INverse Estimate from the forward pass for bi-level
       optimization and implicit models", ICLR 2022, equation 4 and section 2.3.
    .. [2] G. H. Golub and G. Meurant, *Matrices, Moments and Quadrature with Applications*, 2010.
    """
    theta, solution = adjoint.theta, adjoint.solution
    outer_grad, accuracy, start = adjoint.outer_grad, adjoint.accuracy, adjoint.start
    n_hvp = 0
    last = start if isinstance(start, _State) else None
    # Single precision where its rounding is far below the error that is allowed, by the size that
    # the terms of the hypergradient had the last time.
    size = np.inf if last is None else last.size
    single = accuracy >= SINGLE_PRECISION_SHARE * _rounding_growth(adjoint.problem) * size
    if last is not None and last.belongs_to(theta, solution.w) and single >= last.single:
        state = last  # the same systems, asked for more accurately
    else:
        # s, a unit vector along the last hypergradient: where the outer loop is going.
        along = np.ones_like(theta) if last is None else last.closed()
        along = along / (float(np.linalg.norm(along)) or 1.0)
        state = yield from _begin(adjoint, along, single)
        n_hvp = state.n_products
    n_steps = 0
    while state.error > accuracy and n_steps < MAX_CG_STEPS:
        running = [system for system in state.systems if not system.finished]
        if not running:
            break
        # One pass makes the products of both systems, and of all folds.
        directions = np.stack([system.direction for system in running])
        products = yield HessianProduct(solution.w, directions, state.single)
        for system, product in zip(running, products, strict=True):
            system.advance(product)
        n_hvp += len(running)
        n_steps += 1
        state.update()
    state.n_steps += n_steps
    state.remember(solution)
    return Hypergradient(
        state.q,
        n_hvp,
        relative(state.residual, outer_grad),
        error=state.error,
        bound=state.bound,
        used=f"shine, {state.n_steps} steps of cg" if state.n_steps else "shine",
        n_steps=state.n_steps,
        state=state,
    )


def _begin(adjoint: AdjointProblem, along: Vector, single: bool) -> Solver[_State]:
    """Measure the residuals of the SHINE estimates, in one pass."""
    problem, theta = adjoint.problem, adjoint.theta
    estimate, w = adjoint.solution.inverse_hessian, adjoint.solution.w
    sides = [adjoint.outer_grad]  # the right-hand sides: grad f, and c if there is one
    cross = _cross(problem, theta, w, along)
    if cross is not None and cross.any():
        sides.append(cross)
    guesses = [estimate @ side for side in sides]
    free = _free(problem, theta)
    units = np.zeros((free.size, w.size))
    units[np.arange(free.size), free] = 1.0
    products = yield HessianProduct(w, np.stack([*guesses, *units]), single)
    columns = products[len(guesses) :]  # those of H for the variables without a penalty
    # A variable without curvature, such as an intercept where a loss is flat, is left out: with it,
    # the system would be singular.
    flat = columns[np.arange(free.size), free] == 0.0
    idle, free, columns = free[flat], free[~flat], columns[~flat]
    if not positive_definite(columns[:, free]):
        free, columns = free[:0], columns[:0]
    penalty = problem.penalty_hessian(theta) if problem.convex else None
    preconditioner = Preconditioner(estimate.diagonal, penalty, free, columns, idle)
    precision = float(np.finfo(np.float32 if single else np.float64).eps)
    precision *= _rounding_growth(problem)
    systems = [
        LinearSystem(side, guess, product, preconditioner, precision)
        for side, guess, product in zip(sides, guesses, products[: len(guesses)], strict=True)
    ]
    # An upper bound of the norm of a unit cross derivative in the inverse of H: H is at least
    # diag(h), and the cross derivative of group g is h_j w_j, so that its square is at most
    # sum_j h_j w_j**2, which is the sum of cross_vjp(w).
    reach = float(np.sqrt(np.abs(problem.cross_vjp(w, theta, w)).sum()))
    state = _State(problem, theta, w, systems, along, reach, len(products), single)
    corrected = state.update()
    if len(systems) == 2:
        # The best estimate of the error so far is what the tangent has changed.
        plain = -problem.cross_vjp(w, theta, guesses[0])
        state.changes = (float(np.linalg.norm(corrected - plain)),) * 2
    return state


def _rounding_growth(problem: Problem) -> float:
    """Return how many times more rounding is allowed for than in sums of few terms."""
    return max(1.0, problem.n_summed / MEASURED_TERMS)


def _cross(problem: Problem, theta: Vector, w: Vector, along: Vector) -> Vector | None:
    try:
        return problem.cross_jvp(w, theta, along)
    except NotImplementedError:
        return None


def _free(problem: Problem, theta: Vector) -> NDArray[np.intp]:
    """Return the variables to eliminate: those without a penalty, if they are few enough."""
    penalty = problem.penalty_hessian(theta)
    none = np.empty(0, dtype=np.intp)
    if penalty is None or not problem.convex:
        return none
    free = np.flatnonzero(penalty == 0.0)
    return free if free.size <= MAX_ELIMINATED_VARIABLES else none


class _State:
    """The two systems at one solution, and the hypergradient that follows from them.

    ``systems[0]`` is the adjoint, ``systems[1]`` the tangent if there is one. ``q`` and
    ``hypergradient`` always belong to their present iterates: :meth:`update` follows each step.
    """

    def __init__(
        self,
        problem: Problem,
        theta: Vector,
        w: Vector,
        systems: list[LinearSystem],
        along: Vector,
        reach: float,
        n_products: int,
        single: bool,
    ) -> None:
        self.problem, self.theta, self.w = problem, theta, w
        self.systems = systems
        self.along = along
        self.reach = reach
        self.n_products = n_products
        self.single = single
        self.n_steps = 0
        self.changes = (np.inf, np.inf)
        self.hypergradient = np.full_like(theta, np.inf)

    def belongs_to(self, theta: Vector, w: Vector) -> bool:
        return bool(self.systems) and self.w is w and np.array_equal(self.theta, theta)

    def closed(self) -> Vector:
        """Return the hypergradient, and give up the systems, whose memory others need."""
        self.systems = []
        return self.hypergradient

    @property
    def size(self) -> float:
        """What the sizes of the hypergradient's terms add up to; infinite if not known.

        By Cauchy and Schwarz, c'H^-1 grad f is at most the root of (c'H^-1 c)(grad f'H^-1 grad f).
        """
        energies = [float(system.x @ system.rhs) for system in self.systems]
        known = len(energies) == 2 and min(energies) > 0.0
        return float(np.sqrt(np.prod(energies))) if known else np.inf

    @property
    def error(self) -> float:
        """Estimated error of the hypergradient's norm.

        It is the largest of what the last two steps have changed and of the product of the errors
        of the two systems, for which the preconditioner is taken for exact; it is cut off at the
        bound.
        """
        errors = [system.error for system in self.systems]
        product = float(np.prod(errors)) if len(errors) == 2 else 0.0
        return min(_known(max(map(_known, (*self.changes, product)))), self.bound)

    @property
    def bound(self) -> float:
        """Upper bound of the error of the hypergradient's norm."""
        # |c'H^-1 r| is at most the norms of c and of r in the inverse of H: ``reach`` and the bound
        # of the adjoint's error.
        bounds = [_known(self.reach * self.systems[0].bound)]
        if self.theta.size == 1 and len(self.systems) == 2:
            # What is left of the derivative along s is the last term of the identity in ``auto``:
            # the product of both errors, and what rounding has added to the correction.
            adjoint, tangent = self.systems
            bounds.append(_known(adjoint.bound * tangent.bound + self.reach * adjoint.rounding))
        return min(bounds)

    @property
    def residual(self) -> Vector:
        """What is left of the adjoint system at q."""
        adjoint, residual = self.systems[0], self.systems[0].residual
        for tangent in self.systems[1:]:
            residual = residual - _share(adjoint, tangent) * tangent.product
        return residual

    def update(self) -> Vector:
        """Correct the adjoint by the tangent; return the hypergradient."""
        adjoint = self.systems[0]
        self.q = adjoint.x
        for tangent in self.systems[1:]:
            self.q = _share(adjoint, tangent) * tangent.x
            self.q += adjoint.x
        before = self.hypergradient
        self.hypergradient = -self.problem.cross_vjp(self.w, self.theta, self.q)
        self.changes = self.changes[1], float(np.linalg.norm(self.hypergradient - before))
        return self.hypergradient

    def remember(self, solution: Solution) -> None:
        """Give the Hessian products along q and p to the memory of L-BFGS."""
        for system in self.systems:
            solution.inverse_hessian.append(system.x, system.product)


def _known(error: float) -> float:
    """Return an error, or infinity if it is NaN, which ``min`` and ``max`` would pass over."""
    return np.inf if np.isnan(error) else error


def _share(adjoint: LinearSystem, tangent: LinearSystem) -> float:
    """Return the best multiple of p to add to q: it cannot enlarge the error in the norm of H.

    It makes the residual of q orthogonal to p: p'r / p'Hp.
    """
    curvature = float(tangent.x @ tangent.rhs - tangent.x @ tangent.residual)
    return float(tangent.x @ adjoint.residual) / curvature if curvature > 0.0 else 0.0
