"""The loss that is not convex: its formula, and solvers that must live with negative curvature."""

import numpy as np
import pytest
from helpers import ask, breast_cancer, finite_difference, solve_tightly
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from sklearn.model_selection import StratifiedKFold

from hoag_shine import LogisticLoss, SigmoidSquaredLoss, SquaredLoss, hoag, minimize_lbfgs
from hoag_shine.hypergradients import METHODS
from hoag_shine.problems.linear import LinearProblems
from hoag_shine.problems.penalties import GroupedPenalty


def folds(n_folds=2):
    """Return problems of real data with the rows that each fold trains on and holds out."""
    X, y = breast_cancer()
    splits = list(StratifiedKFold(n_folds).split(X, y))
    train, test = np.zeros((2, y.size, n_folds))
    for k, (rows, held_out) in enumerate(splits):
        train[rows, k] = 1.0
        test[held_out, k] = 1.0 / held_out.size
    penalty = GroupedPenalty(np.append(np.zeros(X.shape[1], dtype=np.intp), -1))
    problems = LinearProblems(X, y.astype(float), SigmoidSquaredLoss(), penalty, train, test)
    return problems, splits


def reference(w, theta, rows):
    """Return the inner objective, its gradient and its Hessian, in textbook formulas."""
    X, y = breast_cancer()
    A, y = np.column_stack([X, np.ones(y.size)])[rows], y[rows]
    h = np.append(np.full(X.shape[1], np.exp(theta[0])), 0.0)
    p = expit(A @ w)
    d = p * (1 - p)
    residual = p - y
    value = 0.5 * residual @ residual + 0.5 * h @ w**2
    H = (A.T * (d**2 + residual * d * (1 - 2 * p))) @ A + np.diag(h)
    return value, A.T @ (residual * d) + h * w, H


def test_only_the_losses_that_are_convex_say_so():
    assert LogisticLoss.convex
    assert SquaredLoss.convex
    assert not SigmoidSquaredLoss.convex
    assert not folds()[0][0].convex


def test_the_loss_is_half_the_squared_distance_to_the_sigmoid():
    loss = SigmoidSquaredLoss()
    y = np.array([[0.0], [1.0], [1.0]])
    z = np.array([[0.0], [0.0], [np.log(3.0)]])
    np.testing.assert_allclose(loss.value(y, z), [[1 / 8], [1 / 8], [1 / 32]], rtol=1e-15)
    np.testing.assert_allclose(loss.inverse_link(z), [[0.5], [0.5], [0.75]], rtol=1e-15)
    for far in (-1e300, 1e300):
        z = np.full_like(y, far)
        assert set(loss.value(y, z).ravel()) <= {0.0, 0.5}
        assert not loss.gradient(y, z).any()
        assert not loss.hessian(y, z).any()


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_the_problem_is_that_of_the_textbook_and_not_convex(scale):
    problems, splits = folds()
    rng = np.random.default_rng(0)
    w, v, theta = scale * rng.normal(size=31), rng.normal(size=31), np.array([-4.0])
    value, grad, H = reference(w, theta, splits[1][0])
    found = problems[1].value_and_grad(w, theta)
    np.testing.assert_allclose(found[0], value, rtol=1e-12)
    np.testing.assert_allclose(found[1], grad, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(problems[1].hessp(w, theta)(v), H @ v, rtol=1e-9, atol=1e-10)
    numeric = finite_difference(lambda w: reference(w, theta, splits[1][0])[0], w, 1e-5)
    np.testing.assert_allclose(grad, numeric, rtol=1e-6, atol=1e-7)
    assert np.linalg.eigvalsh(H)[0] < -1e-2
    # What scales the variables stays positive where the diagonal itself does not.
    diagonal = problems[1].data_diagonal(w)
    assert (diagonal >= np.abs(np.diag(H) - problems[1].penalty_hessian(theta)) - 1e-12).all()


@pytest.mark.parametrize("scale", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("theta", [2.0, -3.0, -8.0])
def test_lbfgs_goes_down_to_a_stationary_point_from_anywhere(theta, scale):
    problems, splits = folds()
    w, theta = scale * np.random.default_rng(1).normal(size=31), np.array([theta])
    value = reference(w, theta, splits[0][0])[0]
    unit = np.linalg.norm(reference(np.zeros(31), theta, splits[0][0])[1])
    solution = minimize_lbfgs(problems[0], theta, w, tol=1e-7 * unit)
    assert solution.converged
    end, slope, H = reference(solution.w, theta, splits[0][0])
    assert end < value
    assert np.linalg.norm(slope) <= 1.001e-7 * unit
    assert np.linalg.eigvalsh(H)[0] > 0.0  # a minimum, not a saddle point
    B = solution.inverse_hessian.todense()
    assert np.linalg.eigvalsh(0.5 * (B + B.T))[0] > 0.0


def test_lbfgs_finds_what_a_trust_region_finds():
    problems, splits = folds()
    theta = np.array([0.0])
    found = solve_tightly(problems[0], theta)
    expected = minimize(
        lambda w: reference(w, theta, splits[0][0])[0],
        np.zeros(31),
        jac=lambda w: reference(w, theta, splits[0][0])[1],
        hess=lambda w: reference(w, theta, splits[0][0])[2],
        method="trust-exact",
        options={"gtol": 1e-9},
    )
    np.testing.assert_allclose(found.w, expected.x, atol=1e-7)


@pytest.mark.parametrize("method", ["exact", "cg"])
def test_hypergradients_are_those_of_finite_differences(method):
    problems, _ = folds()
    problem, theta = problems[0], np.array([-1.0])
    solution = solve_tightly(problem, theta)

    def criterion(theta):
        # From this minimum, so that it is followed and not another one found.
        solution_there = minimize_lbfgs(problem, theta, solution.w, tol=1e-10, max_iter=5000)
        return problem.outer_value_and_grad(solution_there.w)[0]

    outer_grad = problem.outer_value_and_grad(solution.w)[1]
    q = ask(METHODS[method], problem, theta, solution, outer_grad).q
    hypergradient = -problem.cross_vjp(solution.w, theta, q)
    expected = finite_difference(criterion, theta, 1e-3)
    np.testing.assert_allclose(hypergradient, expected, rtol=1e-5)


def test_hoag_finds_the_best_penalty():
    problems, _ = folds()

    def criterion(theta):
        ws = [minimize_lbfgs(problem, np.array([theta]), tol=1e-7).w for problem in problems]
        return np.mean([value for value, _ in problems.outer_values_and_grads(ws)])

    found = hoag(problems, hypergradient="cg")
    grid = np.linspace(-6.0, 6.0, 25)
    near = grid[np.argmin([criterion(theta) for theta in grid])]
    best = minimize_scalar(criterion, bounds=(near - 0.5, near + 0.5), method="bounded")
    assert found.value <= best.fun * (1 + 1e-4)
    np.testing.assert_allclose(found.value, criterion(found.theta[0]), rtol=1e-4)
