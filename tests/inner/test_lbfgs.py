"""The inner solver: its solutions, why it stops, and what its steps satisfy."""

from itertools import pairwise

import numpy as np
import pytest
from helpers import LAYOUTS, Quadratic, breast_cancer, diabetes, make_case, solve_tightly
from scipy import optimize
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold

from hoag_shine import InverseHessian, Problem, Status, fold_problems, minimize_lbfgs
from hoag_shine.inner import Solution, lbfgs, quasi_newton_step


class Function(Problem):
    """Any function of w, for what depends on neither theta nor an outer loss."""

    n_hyperparameters = 1

    def __init__(self, n_params, function, hessian=None):
        self.n_params, self.function, self.hessian = n_params, function, hessian
        self.n_passes = 0.0
        self.points = []

    def value_and_grad(self, w, theta):
        self.n_passes += 1
        self.points.append(w.copy())
        value, grad = self.function(w)
        return float(value), np.asarray(grad, dtype=float)

    def hessp(self, w, theta):
        def product(v):
            self.n_passes += 1
            return self.hessian(w) @ v

        return product

    def cross_vjp(self, w, theta, q):
        raise NotImplementedError

    def outer_value_and_grad(self, w):
        raise NotImplementedError


def rosenbrock():
    return Function(
        6,
        lambda w: (optimize.rosen(w), optimize.rosen_der(w)),
        optimize.rosen_hess,
    )


NO_THETA = np.zeros(1)
ROSENBROCK_START = np.array([-1.2, 1.0, -0.5, 2.0, -1.0, 0.7])


# --- what it asks for --------------------------------------------------------------------------


def at(w, value, grad, estimate):
    return Solution(w, value, grad, estimate, 0, 0, Status.MAX_ITER)


def at_rosenbrocks_start(estimate):
    value, grad = optimize.rosen(ROSENBROCK_START), optimize.rosen_der(ROSENBROCK_START)
    return at(ROSENBROCK_START, value, grad, estimate)


def first_request(start, **options):
    return next(lbfgs(start, tol=1e-6, max_iter=10, **options)).w


def test_a_step_that_is_known_is_the_one_that_is_tried():
    here = at_rosenbrocks_start(InverseHessian(6, data_diagonal=np.arange(1.0, 7.0)))
    step = quasi_newton_step(here)
    asked = first_request(here)
    np.testing.assert_array_equal(asked, ROSENBROCK_START + step)
    np.testing.assert_array_equal(first_request(here, step=step), asked)
    shorter = first_request(here, step=0.5 * step)
    np.testing.assert_allclose(shorter, ROSENBROCK_START + 0.5 * step, rtol=1e-15)


def test_a_value_and_gradient_that_are_known_are_not_asked_for():
    here = at_rosenbrocks_start(InverseHessian(6))
    assert not np.array_equal(first_request(here), ROSENBROCK_START)
    with pytest.raises(StopIteration) as stop:
        next(lbfgs(here, tol=1e6, max_iter=10))
    assert stop.value.value.n_passes == 0


@pytest.mark.parametrize(("size", "length"), [(50.0, 1.0), (0.3, 0.3)])
def test_the_first_step_is_no_longer_than_one_where_nothing_is_known(size, length):
    grad = size * np.array([0.6, -0.8])
    asked = first_request(at(np.zeros(2), 1.0, grad, InverseHessian(2)))
    np.testing.assert_allclose(asked, -length * grad / size)
    informed = InverseHessian(2, data_diagonal=np.full(2, 4.0))
    np.testing.assert_allclose(first_request(at(np.zeros(2), 1.0, grad, informed)), -grad / 4.0)


# --- solutions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [-4.0, 0.0, 5.0])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["logistic", "squared"])
def test_solutions_are_those_of_newtons_method(kind, layout, fit_intercept, theta):
    case = make_case(kind, layout, fit_intercept=fit_intercept)
    theta = np.array([theta])
    for problem, fold in zip(case.problems, case.folds, strict=True):
        expected = fold.solve(theta)
        solution = solve_tightly(problem, theta)
        np.testing.assert_allclose(
            solution.w, expected, rtol=0, atol=1e-9 * np.linalg.norm(expected)
        )
        np.testing.assert_allclose(solution.value, fold.value(expected, theta), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ridge_is_that_of_scikit_learn(layout, dtype):
    X, y = diabetes()
    X = LAYOUTS[layout](X.astype(dtype))
    weight = np.random.default_rng(0).random(y.size)
    alpha = 7.3
    used, held_out = next(KFold(2).split(y))
    problem = fold_problems(Ridge(), X, y, cv=[(used, held_out)], sample_weight=weight)[0]
    solution = solve_tightly(problem, np.log([alpha]))
    # In double precision for both: scikit-learn computes in the precision of X.
    dense = np.asarray(X.toarray() if layout == "csr" else X, dtype=np.float64)
    ridge = Ridge(alpha=alpha, solver="cholesky").fit(dense[used], y[used], weight[used])
    np.testing.assert_allclose(solution.w[:-1], ridge.coef_, rtol=1e-8, atol=1e-10)
    intercept = solution.w[-1] + np.median(y)  # which the problem takes out of the targets
    np.testing.assert_allclose(intercept, ridge.intercept_, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
def test_logistic_regression_is_that_of_scikit_learn(class_weight):
    X, y = breast_cancer()
    weight = np.random.default_rng(0).random(y.size)
    estimator = LogisticRegression(
        C=0.7, class_weight=class_weight, solver="newton-cholesky", tol=1e-12
    )
    rows = np.arange(300)
    problem = fold_problems(
        estimator, X, y, cv=[(rows, np.arange(300, y.size))], sample_weight=weight
    )[0]
    solution = solve_tightly(problem, -np.log([0.7]))
    if class_weight == "balanced":  # to scikit-learn before 1.7, without the sample weights
        mass = np.bincount(y[rows], weight[rows])
        estimator.set_params(class_weight=dict(enumerate(mass.sum() / (2 * mass))))
    fitted = estimator.fit(X[rows], y[rows], weight[rows])
    np.testing.assert_allclose(solution.w[:-1], fitted.coef_[0], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(solution.w[-1], fitted.intercept_[0], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("memory", [1, 3, 30])
def test_any_memory_leads_to_the_solution(memory):
    case = make_case("logistic")
    theta = np.zeros(1)
    solution = solve_tightly(case.problems[0], theta, memory=memory)
    np.testing.assert_allclose(solution.w, case.folds[0].solve(theta), atol=1e-9)
    assert solution.inverse_hessian.memory == memory
    assert solution.inverse_hessian.n_pairs <= memory


def test_the_solution_tells_what_it_is():
    case = make_case("logistic")
    theta = np.zeros(1)
    solution = minimize_lbfgs(case.problems[0], theta, tol=1e-3)
    assert solution.converged
    assert np.linalg.norm(solution.grad) <= 1e-3
    np.testing.assert_allclose(solution.grad, case.folds[0].grad(solution.w, theta), atol=1e-9)
    np.testing.assert_allclose(solution.value, case.folds[0].value(solution.w, theta), rtol=1e-12)


# --- why it stops ------------------------------------------------------------------------------


def test_it_stops_at_once_at_a_solution():
    case = make_case("logistic")
    theta = np.zeros(1)
    w = case.folds[0].solve(theta)
    solution = minimize_lbfgs(case.problems[0], theta, w, tol=1e-6)
    assert solution.status is Status.CONVERGED
    assert solution.n_iter == 0
    np.testing.assert_array_equal(solution.w, w)


@pytest.mark.parametrize("max_iter", [0, 1, 4])
def test_it_stops_at_the_limit_of_iterations(max_iter):
    solution = minimize_lbfgs(make_case("logistic").problems[0], np.zeros(1), max_iter=max_iter)
    assert solution.status is Status.MAX_ITER
    assert solution.n_iter == max_iter
    assert not solution.converged


@pytest.mark.parametrize("kind", ["logistic", "squared"])
def test_it_stops_where_only_rounding_is_left(kind):
    case = make_case(kind)
    theta = np.zeros(1)
    start = case.folds[0].grad(np.zeros(case.problems[0].n_params), theta)
    solution = minimize_lbfgs(case.problems[0], theta, tol=0.0, max_iter=5000)
    assert solution.status is Status.STALLED
    assert np.linalg.norm(solution.grad) <= 1e-12 * np.linalg.norm(start)
    assert solution.n_passes < 500


def test_it_stalls_where_the_gradient_is_wrong():
    problem = Function(3, lambda w: (w @ w, -2.0 * w))
    solution = minimize_lbfgs(problem, NO_THETA, np.ones(3))
    assert solution.status is Status.STALLED
    np.testing.assert_array_equal(solution.w, np.ones(3))


def test_it_stalls_where_all_is_rounding():
    """Every step is acceptable there, since none changes anything, and none leads anywhere."""
    rng = np.random.default_rng(0)
    problem = Function(3, lambda w: (1.0, 1e-15 * rng.normal(size=3)))
    solution = minimize_lbfgs(problem, NO_THETA, np.ones(3), tol=0.0)
    assert solution.status is Status.STALLED
    assert solution.n_iter <= 100


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_it_stops_where_the_objective_is_not_finite(value):
    solution = minimize_lbfgs(Function(2, lambda w: (value, w)), NO_THETA, np.ones(2))
    assert solution.status is Status.NON_FINITE
    assert solution.n_iter == 0


def test_it_stops_where_the_gradient_is_not_finite():
    solution = minimize_lbfgs(Function(2, lambda w: (1.0, w * np.nan)), NO_THETA, np.ones(2))
    assert solution.status is Status.NON_FINITE


@pytest.mark.parametrize("outside", [np.inf, np.nan])
def test_it_steps_back_from_where_the_objective_is_not_finite(outside):
    """x - log x has its minimum at 1 and ends at 0, where the first step goes."""

    def barrier(w):
        if not (w > 0).all():
            return outside, np.full_like(w, np.nan)
        return (w - np.log(w)).sum(), 1 - 1 / w

    problem = Function(2, barrier)
    solution = minimize_lbfgs(problem, NO_THETA, np.array([4.0, 0.3]), tol=1e-9)
    assert any((w <= 0).any() for w in problem.points)
    assert solution.converged
    np.testing.assert_allclose(solution.w, 1.0, rtol=1e-8)


def test_it_ends_on_a_function_without_a_minimum():
    solution = minimize_lbfgs(Function(2, lambda w: (w.sum(), np.ones(2))), NO_THETA, max_iter=20)
    assert solution.status in (Status.MAX_ITER, Status.STALLED, Status.NON_FINITE)
    assert solution.value < -1e3


# --- its steps ---------------------------------------------------------------------------------


def recorded(problem, theta, start, **options):
    """Solve, and return the solution and the iterates, each with the estimate at that time."""
    iterates = [(start.copy(), None)]

    def probe(n_iter, w, inverse_hessian):
        assert n_iter == len(iterates)
        iterates.append((w.copy(), inverse_hessian.copy()))
        return ()

    return minimize_lbfgs(problem, theta, start, probe=probe, **options), iterates


@pytest.mark.parametrize("name", ["logistic", "squared", "rosenbrock"])
def test_accepted_steps_satisfy_the_strong_wolfe_conditions(name):
    if name == "rosenbrock":
        problem, start, theta = rosenbrock(), ROSENBROCK_START, NO_THETA
    else:
        case = make_case(name)
        problem, theta = case.problems[0], np.array([-2.0])
        start = np.random.default_rng(0).normal(size=problem.n_params)
    plain = InverseHessian(problem.n_params)
    solution, iterates = recorded(problem, theta, start, tol=1e-5, inverse_hessian=plain)
    assert solution.converged
    points = [w for w, _ in iterates]
    assert len(points) == solution.n_iter + 1 > 10
    for before, after in pairwise(points):
        step = after - before
        value, grad = problem.value_and_grad(before, theta)
        new_value, new_grad = problem.value_and_grad(after, theta)
        slope = grad @ step
        assert slope < 0
        assert new_value <= value + 1e-4 * slope + 1e-13 * abs(value)
        assert abs(new_grad @ step) <= 0.9 * abs(slope) * (1 + 1e-9)


def test_it_is_safe_on_a_function_that_is_not_convex():
    problem = rosenbrock()
    solution, iterates = recorded(problem, NO_THETA, ROSENBROCK_START, tol=1e-9)
    curvatures = [np.linalg.eigvalsh(optimize.rosen_hess(w)).min() for w, _ in iterates]
    assert min(curvatures) < 0  # it did go where the function is not convex
    assert solution.converged
    assert np.linalg.eigvalsh(optimize.rosen_hess(solution.w)).min() > 0
    for _, estimate in iterates[1:]:
        B = estimate.todense()
        np.testing.assert_allclose(B, B.T, rtol=0, atol=1e-10 * abs(B).max())
        assert np.linalg.eigvalsh(B).min() > 0


def test_the_estimate_comes_from_the_last_steps():
    """Its pairs are those of the iterates, in their order, with the true gradient differences."""
    case = make_case("logistic")
    theta = np.array([1.0])
    memory = 5
    solution, iterates = recorded(case.problems[0], theta, np.zeros(31), tol=1e-4, memory=memory)
    points = [w for w, _ in iterates][-memory - 1 :]
    grads = [case.folds[0].grad(w, theta) for w in points]
    np.testing.assert_allclose(solution.inverse_hessian.s, np.diff(points, axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        solution.inverse_hessian.y, np.diff(grads, axis=0), rtol=1e-7, atol=1e-9
    )


# --- passes, probes, warm starts ---------------------------------------------------------------


@pytest.mark.parametrize("start", [None, ROSENBROCK_START])
def test_passes_are_counted(start):
    problem = rosenbrock()

    def probe(n_iter, w, inverse_hessian):
        return [np.eye(6)[n_iter % 6]] if n_iter % 3 == 0 else []

    solution = minimize_lbfgs(problem, NO_THETA, start, tol=1e-9, probe=probe)
    assert solution.converged
    assert solution.n_passes == problem.n_passes > len(problem.points)


def test_passes_over_data_are_counted():
    problem = make_case("logistic").problems[0]
    theta = np.zeros(1)
    inverse_hessian = InverseHessian(problem.n_params)
    start = np.full(problem.n_params, 0.1)
    before = problem.n_passes
    solution = minimize_lbfgs(problem, theta, start, inverse_hessian=inverse_hessian)
    assert problem.n_passes - before == solution.n_passes


def test_a_start_at_zero_is_not_multiplied_with_the_data():
    problem = make_case("logistic").problems[0]
    zeros, theta = np.zeros(problem.n_params), np.zeros(1)
    before = problem.n_passes
    value, grad = problem.value_and_grad(zeros, theta)
    assert problem.n_passes - before == 0.5
    tiny = np.full(problem.n_params, 1e-12)
    expected_value, expected_grad = problem.value_and_grad(tiny, theta)
    assert problem.n_passes - before == 1.5
    assert value == pytest.approx(expected_value, rel=1e-9)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-9, atol=1e-9 * abs(grad).max())


def test_a_probe_adds_the_pairs_that_it_asks_for():
    rng = np.random.default_rng(0)
    problem = make_case("squared").problems[0]
    theta = np.zeros(1)
    directions = []

    def probe(n_iter, w, inverse_hessian):
        directions.append(rng.normal(size=w.size))
        return directions[-1:]

    solution = minimize_lbfgs(problem, theta, probe=probe, tol=1e-6)
    B = solution.inverse_hessian
    assert len(directions) == solution.n_iter
    assert B.n_pairs == min(2 * solution.n_iter, B.memory)
    np.testing.assert_allclose(B.s[1::2], directions[-(B.n_pairs // 2) :])
    # The last pair is that of the last direction, which the estimate thus inverts exactly.
    product = problem.hessp(solution.w, theta)(directions[-1])
    np.testing.assert_allclose(B.y[-1], product, rtol=1e-10)
    np.testing.assert_allclose(
        B @ product, directions[-1], atol=1e-12 * np.linalg.norm(directions[-1])
    )


def test_a_probe_of_negative_curvature_does_no_harm():
    problem = rosenbrock()
    refused = []

    def probe(n_iter, w, inverse_hessian):
        values, vectors = np.linalg.eigh(optimize.rosen_hess(w))
        refused.append(values[0] < 0)
        return [vectors[:, 0]]

    solution = minimize_lbfgs(problem, NO_THETA, ROSENBROCK_START, probe=probe, tol=1e-9)
    assert any(refused)
    assert solution.converged
    assert np.linalg.eigvalsh(solution.inverse_hessian.todense()).min() > 0


@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize("kind", ["logistic", "squared"])
def test_pairs_from_another_penalty_save_passes(kind, direction):
    """Along a path of penalties, both from the last solution, with and without its pairs."""
    case = make_case(kind)
    problem = case.problems[0]
    tol = 1e-4 * np.linalg.norm(case.folds[0].grad(np.zeros(problem.n_params), np.zeros(1)))
    path = direction * np.arange(0.0, 3.01, 0.5)[:, None]
    diagonal = problem.data_diagonal(np.zeros(problem.n_params))
    pairs = InverseHessian(problem.n_params, data_diagonal=diagonal)
    start = minimize_lbfgs(problem, path[0], tol=tol, inverse_hessian=pairs)
    pairs = start.inverse_hessian.copy()
    passes = {}
    for memory in (None, pairs):
        solution, passes[memory] = start, 0
        for theta in path[1:]:
            estimate = memory or InverseHessian(problem.n_params, data_diagonal=diagonal)
            solution = minimize_lbfgs(problem, theta, solution.w, tol=tol, inverse_hessian=estimate)
            assert solution.converged
            passes[memory] += solution.n_passes
            if memory is not None:
                assert solution.inverse_hessian is pairs
                np.testing.assert_array_equal(pairs.penalty_hessian, problem.penalty_hessian(theta))
    assert passes[pairs] < passes[None]


def test_knowing_the_diagonal_saves_passes_where_scales_differ():
    rng = np.random.default_rng(0)
    n = 40
    scales = np.logspace(-1, 1, n)
    M = rng.normal(size=(n, n))
    A = scales[:, None] * (M @ M.T / n + np.eye(n)) * scales
    b = scales * rng.normal(size=n)
    passes = {}
    for diagonal in (False, True):
        problem = Quadratic(A, b, np.zeros(n), np.zeros(n, dtype=int), diagonal=diagonal)
        solution = minimize_lbfgs(problem, np.array([-8.0]), tol=1e-6 * np.linalg.norm(b))
        assert solution.converged
        passes[diagonal] = solution.n_passes
    assert passes[True] < 0.5 * passes[False]


def test_arguments_are_left_as_they_were():
    case = make_case("logistic")
    theta, w = np.array([0.5]), np.random.default_rng(0).normal(size=31)
    theta.flags.writeable = w.flags.writeable = False
    before = w.copy()
    solution = minimize_lbfgs(case.problems[0], theta, w, tol=1e-8)
    assert solution.converged
    np.testing.assert_array_equal(w, before)
    assert not np.shares_memory(solution.w, w)


def test_a_later_solve_leaves_an_earlier_solution_alone():
    problem = make_case("logistic").problems[0]
    first = minimize_lbfgs(problem, np.zeros(1), tol=1e-3)
    w, grad, value = first.w.copy(), first.grad.copy(), first.value
    minimize_lbfgs(problem, np.ones(1), first.w, tol=1e-8, inverse_hessian=first.inverse_hessian)
    np.testing.assert_array_equal(first.w, w)
    np.testing.assert_array_equal(first.grad, grad)
    assert first.value == value


def test_the_same_solve_twice_gives_the_same_bits():
    problem = make_case("logistic", "csr").problems[0]
    first, second = (minimize_lbfgs(problem, np.zeros(1), tol=1e-8) for _ in range(2))
    np.testing.assert_array_equal(first.w, second.w)
    assert first.n_passes == second.n_passes
