"""The public checks pass all that the library has, and fail what is wrong with a clear message."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers import LAYOUTS, make_case, quadratic_with_minimum_at
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import scale

from hoag_shine import (
    L2,
    GeneralizedLinear,
    HuberLoss,
    Hypergradient,
    LogisticLoss,
    Loss,
    MultinomialLoss,
    Penalty,
    ShineCV,
    SigmoidSquaredLoss,
    Solution,
    SquaredHingeLoss,
    SquaredLoss,
    Status,
    fold_problems,
)
from hoag_shine.hypergradients import METHODS
from hoag_shine.problems.linear import LinearProblems
from hoag_shine.problems.penalties import GroupedPenalty
from hoag_shine.problems.requests import Evaluate, HessianProduct
from hoag_shine.testing import (
    check_hypergradient,
    check_inner_solver,
    check_loss,
    check_penalty,
    check_problem,
)

LOSSES = [LogisticLoss(), SquaredLoss(), SigmoidSquaredLoss(), MultinomialLoss()]


def wine(layout="C"):
    X, y = load_wine(return_X_y=True)
    return LAYOUTS[layout](scale(X)), y


def linear_problems(loss, layout="C", *, fit_intercept=True, free=False):
    """Return folds of wine: its classes, or one class against the others.

    There are two penalties; some features go ``free`` of any.
    """
    X, y = wine(layout)
    y = np.eye(3)[y] if loss.shift_invariant else (y == 1).astype(float)
    m = 3 if loss.shift_invariant else 1
    groups = np.repeat(np.append(np.arange(13) % (2 + free) - free, [-1] * fit_intercept), m)
    rng = np.random.default_rng(0)
    weights = rng.random((2, len(y), 2))
    penalty = GroupedPenalty(groups.astype(np.intp), 2.0)
    return LinearProblems(X, y, loss, penalty, *weights, fit_intercept=fit_intercept)


# --- what is right passes ----------------------------------------------------------------------


@pytest.mark.parametrize("largest", [1.0, 30.0, 1e3])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_our_losses_pass(loss, largest):
    check_loss(loss, largest=largest)


def test_pointwise_losses_take_several_outputs():
    for loss in (LogisticLoss(), SquaredLoss(), SigmoidSquaredLoss()):
        check_loss(loss, n_outputs=4)
    check_loss(MultinomialLoss(), n_outputs=7)
    check_loss(SquaredLoss(), targets=np.arange(20.0))


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_our_problems_pass(loss, layout, fit_intercept):
    for free in (False, True):
        check_problem(linear_problems(loss, layout, fit_intercept=fit_intercept, free=free))


@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("kind", ["logistic", "squared"])
def test_the_problems_of_the_other_tests_pass(kind, n_groups):
    check_problem(make_case(kind, n_groups=n_groups).problems)
    check_problem(quadratic_with_minimum_at(np.zeros(n_groups), diagonal=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_our_methods_pass(loss, method):
    problem = linear_problems(loss)[0]
    check_hypergradient(method, problem, exact=method in ("exact", "cg"))


@pytest.mark.parametrize("method", ["exact", "cg"])
def test_exact_methods_are_exact_on_scikit_learns_models(method):
    problems = fold_problems(LogisticRegression(), *wine(), cv=3)
    check_hypergradient(method, problems[1], theta=[-1.0], exact=True)
    check_hypergradient(method, quadratic_with_minimum_at([0.3, -0.2]), exact=True)


# --- and what is wrong does not: losses ---------------------------------------------------------


class Wrong(Loss):
    """A right loss, (z - y)^4 / 4 + (z - y)^2 / 2, to spoil in one place."""

    def value(self, y, z):
        return (z - y) ** 4 / 4 + (z - y) ** 2 / 2

    def gradient(self, y, z):
        return (z - y) ** 3 + (z - y)

    def hessian(self, y, z):
        return 3 * (z - y) ** 2 + 1


def spoil(cls, **methods):
    return type(cls.__name__, (cls,), methods)


def changes_z(self, y, z):
    z -= y
    return z**3 + z


def only_the_first(self, y, z):
    """Forget all problems but the first."""
    return np.repeat(Wrong.gradient(self, y, z[:, :1]), z.shape[1], axis=1)


def test_the_loss_to_spoil_is_right():
    check_loss(Wrong())
    check_loss(spoil(Wrong, convex=True)())


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"gradient": lambda self, y, z: 2 * (z - y) ** 3 + (z - y)},
            "^gradient of .* is wrong in",
        ),
        ({"gradient": lambda self, y, z: -Wrong.gradient(self, y, z)}, r"relative error 2\)"),
        # 1 + 1e-4 times what is right is wrong, too.
        ({"gradient": lambda self, y, z: 1.0001 * Wrong.gradient(self, y, z)}, "^gradient"),
        ({"hessian": lambda self, y, z: 3 * (z - y) ** 2}, "^hessian of .* finite differences say"),
        ({"hessian": lambda self, y, z: np.ones_like(z)}, "^hessian of .* worst at y="),
        ({"value": lambda self, y, z: Wrong.value(self, y, z).sum(axis=0)}, r"value .* shape \(3"),
        ({"value": lambda self, y, z: np.where(z > 29, np.inf, 0)}, "value .* not finite .* z=30"),
        ({"gradient": lambda self, y, z: (z - y).astype(np.float32)}, "dtype float32"),
        ({"gradient": lambda self, y, z: 1.0}, "gradient .* is float, not an ndarray"),
        ({"gradient": changes_z}, "changes its argument z|compared with"),
        ({"gradient": only_the_first}, "for one problem beside others"),
        ({"value_and_gradient": lambda self, y, z: (0 * z, z)}, "compared with value, is wrong"),
        ({"inverse_link": lambda self, z: z[:, 0]}, "inverse_link .* has shape"),
        ({"target_range": (0.0, 1.0)}, r"inverse_link .* leaves target_range"),
        ({"__eq__": lambda self, other: self is other, "__hash__": Loss.__hash__}, "copy"),
    ],
)
def test_a_wrong_loss_is_caught(members, message):
    with pytest.raises(AssertionError, match=message):
        check_loss(spoil(Wrong, **members)())


def test_broken_promises_of_a_loss_are_caught():
    with pytest.raises(AssertionError, match=r"promises to be convex, but .* negative at z="):
        check_loss(spoil(SigmoidSquaredLoss, convex=True)())
    with pytest.raises(AssertionError, match="promises shift_invariant"):
        check_loss(spoil(Wrong, shift_invariant=True)())
    with pytest.raises(AssertionError, match="promises to be quadratic"):
        check_loss(spoil(Wrong, quadratic=True)())
    with pytest.raises(AssertionError, match=r"promises to be smooth, but .* jumps at z="):
        check_loss(spoil(SquaredHingeLoss, smooth=True)())
    with pytest.raises(AssertionError, match="promises to be smooth"):
        check_loss(spoil(HuberLoss, smooth=True)())

    def without_the_coupling(self, hessian, v):
        return hessian * v

    with pytest.raises(AssertionError, match=r"^hessian of Multinomial"):
        check_loss(spoil(MultinomialLoss, hessian_product=without_the_coupling)())


# --- problems ----------------------------------------------------------------------------------


class Ridge2(type(quadratic_with_minimum_at(0.0))):
    """The tests' quadratic problem with two groups, to spoil in one place."""

    convex = True

    def __init__(self):
        vars(self).update(vars(quadratic_with_minimum_at([0.2, -0.3], diagonal=True)))


Right = Ridge2.__mro__[1]


def asymmetric(self, w, theta):
    product = Right.hessp(self, w, theta)
    skew = np.triu(np.ones_like(self.A), 1) * 1e-6
    return lambda v: product(v) + skew @ v


def affine(self, w, theta):
    product = Right.hessp(self, w, theta)
    return lambda v: product(v) + 1e-8


def forgotten_factor(self, w, theta):
    value, grad = Right.value_and_grad(self, w, theta)
    return value + 0.5 * w @ (self._h(theta) * w), grad


def test_the_problem_to_spoil_is_right():
    check_problem(Ridge2())


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"value_and_grad": forgotten_factor}, "gradient in value_and_grad .* is wrong"),
        ({"hessp": asymmetric}, "not symmetric: u @ .* = .*, but"),
        ({"hessp": affine}, "hessp"),
        ({"hessp": lambda self, w, theta: lambda v: self.A @ v}, "hessp .* finite differences"),
        ({"cross_vjp": lambda *args: 2 * Right.cross_vjp(*args)}, "hyperparameter 0, is wrong"),
        ({"cross_vjp": lambda *args: Right.cross_vjp(*args)[::-1]}, "cross_vjp"),
        ({"cross_vjp": lambda *args: Right.cross_vjp(*args)[:1]}, r"shape \(1,\).* must be \(2,\)"),
        ({"cross_jvp": lambda self, w, theta, s: w}, "cross_jvp .* not the transpose"),
        ({"outer_value_and_grad": lambda self, w: (w @ w, w)}, "outer_value_and_grad .* is wrong"),
        ({"penalty_hessian": lambda *args: 2 * Right.penalty_hessian(*args)}, "penalty_hessian"),
        ({"penalty_hessian": lambda *args: -Right.penalty_hessian(*args)}, "is negative"),
        ({"data_diagonal": lambda *args: 2 * Right.data_diagonal(*args)}, "data_diagonal .* wrong"),
        ({"data_diagonal": lambda *args: -Right.data_diagonal(*args)}, "data_diagonal .* negative"),
        ({"data_diagonal": lambda self, w: np.full(12, np.nan)}, "not finite in 12 of 12 places"),
    ],
)
def test_a_wrong_problem_is_caught(members, message):
    with pytest.raises(AssertionError, match=message):
        check_problem(spoil(Ridge2, **members)())


def test_a_broken_promise_of_convexity_is_caught():
    problems = linear_problems(SigmoidSquaredLoss())
    problem = problems[0]
    problem.convex = True
    far = 3.0 * np.random.default_rng(0).normal(size=problem.n_params)
    with pytest.raises(AssertionError, match=r"promises to be convex|data_diagonal"):
        check_problem(problem, w=far)


def test_a_set_that_disagrees_with_its_members_is_caught():
    class Halved(LinearProblems):
        def outer_values_and_grads(self, ws):
            return [(0.5 * value, grad) for value, grad in super().outer_values_and_grads(ws)]

    problems = linear_problems(LogisticLoss())
    problems.__class__ = Halved
    with pytest.raises(AssertionError, match=r"outer_values_and_grads of Halved.* member 0"):
        check_problem(problems)


# --- hypergradient methods ---------------------------------------------------------------------


def direct(adjoint):
    """The right answer, as a plain function."""
    problem = adjoint.problem
    theta = adjoint.theta
    solution = adjoint.solution
    outer_grad = adjoint.outer_grad
    product = problem.hessp(solution.w, theta)
    H = np.column_stack([product(e) for e in np.eye(outer_grad.size)])
    return Hypergradient(np.linalg.solve(H, outer_grad), outer_grad.size, 0.0)


def by_requests(adjoint):
    """The same as a generator."""
    solution = adjoint.solution
    outer_grad = adjoint.outer_grad
    H = np.empty((outer_grad.size, outer_grad.size))
    for j, e in enumerate(np.eye(outer_grad.size)):
        H[:, j] = yield HessianProduct(solution.w, e)
    return Hypergradient(np.linalg.solve(H, outer_grad), outer_grad.size, 0.0)


def change(**fields):
    """Return the right method with some fields of its answer changed."""

    def method(adjoint):
        answer = vars(direct(adjoint))
        return Hypergradient(**answer | {k: f(answer[k]) for k, f in fields.items()})

    return method


@pytest.mark.parametrize("method", [direct, by_requests])
def test_methods_of_ones_own_pass(method):
    check_hypergradient(method, quadratic_with_minimum_at([0.3, -0.2]), exact=True)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (change(q=lambda q: 1.001 * q, residual=lambda r: np.nan), "the hypergradient by .* wrong"),
        (change(q=lambda q: 1.001 * q), r"reports residual=0, but it is 0\.001"),
        (change(n_hvp=lambda n: 0), "reports n_hvp=0, but took 12 Hessian products"),
        (change(q=lambda q: q[:-1]), r"q of method has shape \(11,\)"),
        (change(q=lambda q: np.full_like(q, np.nan)), "not finite"),
        ("jacobian-free", "the hypergradient by jacobian-free, without a start, is wrong"),
    ],
)
def test_a_wrong_method_is_caught(method, message):
    with pytest.raises(AssertionError, match=message):
        check_hypergradient(method, quadratic_with_minimum_at([0.3, -0.2]), exact=True)


def test_a_method_that_changes_its_arguments_is_caught():
    def careless(adjoint):
        outer_grad = adjoint.outer_grad
        outer_grad *= 2.0
        return Hypergradient(outer_grad.copy())

    with pytest.raises(AssertionError, match="careless changes its argument outer_grad in place"):
        check_hypergradient(careless, quadratic_with_minimum_at(0.3))


# --- penalties ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quartic(Penalty):
    """A right one."""

    def value(self, w):
        return 0.25 * w**4

    def gradient(self, w):
        return w**3

    def hessian(self, w):
        return 3.0 * w**2


def test_right_penalties_pass():
    check_penalty(L2())
    check_penalty(Quartic())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gradient": lambda self, w: 1.01 * w**3}, "gradient of .* is wrong"),
        ({"hessian": lambda self, w: w**2}, "hessian of .* is wrong"),
        ({"value": lambda self, w: 0.25 * w**4 + 1.0}, "must be zero"),
        ({"value": lambda self, w: w.sum()}, "value of .* not an ndarray"),
        ({"quadratic": True}, "promises to be quadratic"),
        ({"prox": lambda self, w, step: w}, "prox of .* is better"),
        (
            {
                "value": lambda self, w: -np.cos(w) + 1.0,
                "gradient": lambda self, w: np.sin(w),
                "hessian": lambda self, w: np.cos(w),
            },
            "promises to be convex",
        ),
    ],
)
def test_wrong_penalties_are_found(wrong, message):
    penalty = type("Wrong", (Quartic,), wrong)()
    with pytest.raises(AssertionError, match=message):
        check_penalty(penalty)


@pytest.mark.parametrize("wrong", [None, Quartic, "l2"])
def test_what_is_no_penalty_is_refused(wrong):
    with pytest.raises(TypeError, match="penalty must be"):
        check_penalty(wrong)


@pytest.mark.parametrize("wrong", [Quartic, "l2", 3])
def test_an_estimator_takes_no_other_penalty(wrong):
    with pytest.raises(TypeError, match="penalty must be an instance"):
        GeneralizedLinear(penalty=wrong).fit(np.eye(3), np.arange(3.0))


# --- inner solvers -----------------------------------------------------------------------------


def gradient_descent(start, *, tol, max_iter, **hints):
    w, value, grad, n_iter, length = start.w, start.value, start.grad, 0, 1e-3
    while np.linalg.norm(grad) > tol and n_iter < max_iter:
        ahead, slope = yield Evaluate(w - length * grad)
        if ahead < value:
            w, value, grad, length = w - length * grad, ahead, slope, 2.0 * length
        else:
            length *= 0.5
        n_iter += 1
    status = Status.CONVERGED if np.linalg.norm(grad) <= tol else Status.MAX_ITER
    return Solution(w, value, grad, start.inverse_hessian, n_iter, n_iter, status)


def a_problem():
    X, y = load_diabetes(return_X_y=True)
    return fold_problems(Ridge(), scale(X), y, cv=3)[0]


def test_right_inner_solvers_pass():
    check_inner_solver("lbfgs", a_problem())
    check_inner_solver(gradient_descent, a_problem())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s: s.w, "no Solution"),
        (lambda s: replace(s, value=s.value + 1.0), "value of .* is wrong"),
        (lambda s: replace(s, grad=2.0 * s.grad), "grad of .* is wrong"),
        (lambda s: replace(s, n_iter=s.n_iter + 10**6), "iterations"),
        (lambda s: replace(s, inverse_hessian=None), "inverse_hessian of .* has shape"),
        (lambda s: replace(s, status=Status.MAX_ITER), "ends with a gradient"),
    ],
)
def test_wrong_inner_solvers_are_found(wrong, message):
    def solver(start, **options):
        return wrong((yield from gradient_descent(start, **options)))

    with pytest.raises(AssertionError, match=message):
        check_inner_solver(solver, a_problem())


@pytest.mark.parametrize("wrong", [None, 3, "newton", ["lbfgs"]])
def test_what_is_no_inner_solver_is_refused(wrong):
    with pytest.raises(ValueError, match="solver must be one of"):
        check_inner_solver(wrong, a_problem())
    X, y = load_diabetes(return_X_y=True)
    with pytest.raises(ValueError, match="inner_solver must be one of"):
        ShineCV(Ridge(), inner_solver=wrong).fit(X, y)
