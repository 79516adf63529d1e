"""Hypergradients against finite differences of a criterion that shares no code with them.

The criterion is the mean held-out loss after Newton's method on each fold's own rows, solved until
the gradient is rounding. Its values are then good to about 1e-14, so that central differences with
a step of 1e-4 in log alpha err by 1e-10 from rounding and by 1e-9 from the third derivative, where
the derivatives themselves are 1e-3 and more.
"""

from functools import partial

import numpy as np
import pytest
from helpers import (
    LAYOUTS,
    MODELS,
    Quadratic,
    ask,
    breast_cancer,
    finite_difference,
    logistic_formula,
    make_case,
    quadratic_with_minimum_at,
    solve_tightly,
)
from scipy.linalg import LinAlgError
from sklearn.linear_model import LogisticRegression

from hoag_shine import (
    Hypergradient,
    Outcome,
    Solution,
    Status,
    fold_problems,
    hoag,
    minimize_lbfgs,
)
from hoag_shine.hypergradients import (
    METHODS,
    ShineOPA,
    auto,
    cg,
    exact,
    jacobian_free,
    resolve_method,
    shine,
)
from hoag_shine.inner.inverse_hessian import InverseHessian
from hoag_shine.problems.requests import HessianProduct

STEP = 1e-4


def hypergradient_of(problems, theta, method):
    """Return the mean hypergradient of tightly solved problems, and the largest residual."""
    total, residual = np.zeros_like(theta), 0.0
    for problem in problems:
        solution = solve_tightly(problem, theta)
        outer_grad = problem.outer_value_and_grad(solution.w)[1]
        answer = ask(method, problem, theta, solution, outer_grad)
        total -= problem.cross_vjp(solution.w, theta, answer.q) / len(problems)
        residual = max(residual, answer.residual)
    return total, residual


def assert_close_to_differences(found, criterion, theta):
    expected = finite_difference(criterion, theta, STEP)
    assert np.linalg.norm(expected) > 1e-4  # far enough from the optimum to say something
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.linalg.norm(expected))


@pytest.mark.parametrize("method", [exact, cg])
@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", MODELS)
def test_they_are_the_derivatives_of_the_criterion(
    kind, layout, fit_intercept, weighted, n_groups, method
):
    case = make_case(
        kind, layout, fit_intercept=fit_intercept, weighted=weighted, n_groups=n_groups
    )
    theta = np.linspace(1.0, 3.0, n_groups)
    found, residual = hypergradient_of(case.problems, theta, method)
    assert residual <= 1e-10
    assert_close_to_differences(
        found, lambda t: np.mean([fold.criterion(t) for fold in case.folds]), theta
    )


@pytest.mark.parametrize("method", [exact, cg])
def test_class_weights_weigh_the_training_losses_only(method):
    """As in scikit-learn: the criterion that GridSearchCV computes knows no class weights."""
    X, y = breast_cancer()
    y = y.astype(float)
    rng = np.random.default_rng(0)
    sample_weight, part = rng.random(y.size), rng.integers(0, 2, y.size)
    splits = [(np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in range(2)]
    problems = fold_problems(
        LogisticRegression(class_weight={0: 5.0, 1: 0.5}),
        X,
        y,
        cv=splits,
        sample_weight=sample_weight,
    )

    def criterion(theta):
        total = 0.0
        for train, test in splits:
            A, B = (np.column_stack([X[rows], np.ones(rows.size)]) for rows in (train, test))
            s = sample_weight[train] * np.where(y[train] == 1.0, 0.5, 5.0)
            h = np.append(np.full(X.shape[1], np.exp(theta[0])), 0.0)
            w = np.zeros(h.size)
            for _ in range(30):
                _, slope, curvature = logistic_formula(y[train], A @ w)
                w -= np.linalg.solve(
                    (A.T * (s * curvature)) @ A + np.diag(h), A.T @ (s * slope) + h * w
                )
            loss = logistic_formula(y[test], B @ w)[0]
            total += np.average(loss, weights=sample_weight[test]) / len(splits)
        return total

    theta = np.array([2.0])
    found, _ = hypergradient_of(problems, theta, method)
    assert_close_to_differences(found, criterion, theta)


@pytest.mark.parametrize("method", ["exact", "cg"])
def test_the_outer_loop_reports_them(method):
    case = make_case("logistic", "csr", n_groups=2)
    theta = np.array([2.0, 0.5])
    result = hoag(
        case.problems,
        theta,
        hypergradient=method,
        tolerance="exact",
        callback=lambda record, solutions: True,
    )
    assert result.outcome is Outcome.CALLBACK
    record = result.history[0]
    assert_close_to_differences(
        record["hypergradient"],
        lambda t: np.mean([fold.criterion(t) for fold in case.folds]),
        theta,
    )
    np.testing.assert_allclose(
        record["hypergradient_norm"], np.linalg.norm(record["hypergradient"]), rtol=1e-14
    )
    assert record["residual"] <= 1e-10
    assert record["hessian_products"] > 0


# --- each method -------------------------------------------------------------------------------


@pytest.fixture
def quadratic():
    return quadratic_with_minimum_at([0.7, -0.3])


THETA = np.array([1.5, 0.2])


@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_shine_is_exact_where_the_pairs_span_the_space(layout, n_groups):
    """BFGS updates with n conjugate steps make the inverse of a quadratic's Hessian.

    (Nocedal and Wright, 2nd ed., theorem 6.4.) Steps of inexact line searches are not conjugate, so
    a probe adds n directions that are; the steps after them keep what is known.
    """
    case = make_case("squared", layout, n_groups=n_groups)
    theta = np.linspace(1.0, 3.0, n_groups)
    gradient = np.zeros(n_groups)
    for problem, fold in zip(case.problems, case.folds, strict=True):
        H = fold.hessian(np.zeros(problem.n_params), theta)
        conjugate = np.linalg.eigh(H)[1].T

        def probe(n_iter, w, inverse_hessian, directions=conjugate):
            return directions if n_iter == 1 else ()

        solution = solve_tightly(problem, theta, memory=problem.n_params + 20, probe=probe)
        outer_grad = problem.outer_value_and_grad(solution.w)[1]
        answer = ask(shine, problem, theta, solution, outer_grad)
        np.testing.assert_allclose(
            answer.q, np.linalg.solve(H, outer_grad), rtol=0, atol=1e-10 * np.linalg.norm(answer.q)
        )
        assert answer.n_hvp == 0
        assert np.isnan(answer.residual)
        gradient -= problem.cross_vjp(solution.w, theta, answer.q) / len(case.folds)
    assert_close_to_differences(
        gradient, lambda t: np.mean([fold.criterion(t) for fold in case.folds]), theta
    )


@pytest.mark.parametrize("diagonal", [False, True])
def test_shine_comes_close_with_the_solvers_own_steps(diagonal):
    problem = quadratic_with_minimum_at([0.7, -0.3], diagonal=diagonal)
    solution = solve_tightly(problem, THETA, memory=100)
    outer_grad = problem.outer_value_and_grad(solution.w)[1]
    answer = ask(shine, problem, THETA, solution, outer_grad)
    found, expected = -problem.cross_vjp(solution.w, THETA, answer.q), problem.hypergradient(THETA)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.1 * np.linalg.norm(expected))


def test_shine_applies_the_estimate_that_it_is_given(quadratic):
    B = InverseHessian(quadratic.n_params)
    rng = np.random.default_rng(0)
    for s in rng.normal(size=(4, quadratic.n_params)):
        B.append(s, quadratic.A @ s)
    solution = solve_tightly(quadratic, THETA)
    solution = Solution(solution.w, 0.0, solution.grad, B, 0, 0, Status.CONVERGED)
    outer_grad = rng.normal(size=quadratic.n_params)
    answer = ask(shine, quadratic, THETA, solution, outer_grad)
    np.testing.assert_allclose(answer.q, B.todense() @ outer_grad, rtol=1e-10)


def opa_solution(problem, theta, every):
    method = ShineOPA(every) if every else None
    probe = method and partial(method.probe(problem), theta, np.ones_like(theta))
    return minimize_lbfgs(problem, theta, tol=1e-4, memory=60, probe=probe)


def test_opa_inverts_the_hessian_along_the_cross_derivative():
    """Where plain L-BFGS is far from it."""
    problem, theta = make_case("logistic").problems[0], np.array([-3.0])
    errors = []
    for every in (None, 1):
        solution = opa_solution(problem, theta, every)
        c = problem.cross_jvp(solution.w, theta, np.ones(1))
        product = problem.hessp(solution.w, theta)
        H = np.column_stack([product(e) for e in np.eye(c.size)])
        exact_solution = np.linalg.solve(H, c)
        error = solution.inverse_hessian @ c - exact_solution
        errors.append(np.linalg.norm(error) / np.linalg.norm(exact_solution))
    plain, aware = errors
    assert aware < 0.1 * plain


def test_opa_takes_a_schedule():
    problem, theta = make_case("logistic").problems[0], np.array([-3.0])
    asked = []

    def third(n):
        asked.append(n)
        return n % 3 == 0

    by_number, by_schedule = (opa_solution(problem, theta, every) for every in (3, third))
    np.testing.assert_array_equal(by_schedule.w, by_number.w)
    assert by_schedule.n_passes == by_number.n_passes
    assert asked == list(range(1, by_number.n_iter + 1))


def test_opa_refuses_less_than_one_iteration():
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        ShineOPA(0)


def test_jacobian_free_takes_the_identity(quadratic):
    solution = solve_tightly(quadratic, THETA)
    outer_grad = np.arange(1.0, quadratic.n_params + 1)
    answer = ask(jacobian_free, quadratic, THETA, solution, outer_grad)
    np.testing.assert_array_equal(answer.q, outer_grad)
    assert not np.shares_memory(answer.q, outer_grad)


@pytest.mark.parametrize("tol", [1e-1, 1e-4, 1e-10])
def test_cg_stops_at_its_tolerance_and_says_so(quadratic, tol):
    solution = solve_tightly(quadratic, THETA)
    outer_grad = quadratic.outer_value_and_grad(solution.w)[1]
    before = quadratic.n_passes
    answer = ask(cg, quadratic, THETA, solution, outer_grad, tol=tol)
    assert answer.n_hvp == quadratic.n_passes - before
    H = quadratic.A + np.diag(np.exp(THETA)[quadratic.groups])
    residual = np.linalg.norm(H @ answer.q - outer_grad) / np.linalg.norm(outer_grad)
    assert residual <= tol * (1 + 1e-6)
    np.testing.assert_allclose(answer.residual, residual, rtol=1e-3, atol=1e-14)


def test_a_looser_cg_is_cheaper_and_a_warm_one_cheaper_still(quadratic):
    solution = solve_tightly(quadratic, THETA)
    outer_grad = quadratic.outer_value_and_grad(solution.w)[1]

    def cost(**options):
        return ask(cg, quadratic, THETA, solution, outer_grad, **options)

    loose, tight = cost(tol=1e-2), cost(tol=1e-9)
    assert 0 < loose.n_hvp < tight.n_hvp <= 2 * quadratic.n_params
    assert cost(tol=1e-9, start=tight.q).n_hvp == 1  # the product that shows it is right
    nearly = tight.q * (1 + 1e-6 * np.random.default_rng(0).normal(size=tight.q.size))
    assert cost(tol=1e-9, start=nearly).n_hvp < tight.n_hvp


def test_cg_reports_the_residual_of_its_last_product(quadratic):
    solution = solve_tightly(quadratic, THETA)
    outer_grad = quadratic.outer_value_and_grad(solution.w)[1]

    def two_products(adjoint):
        return cg(adjoint, max_iter=2)

    answer = ask(two_products, quadratic, THETA, solution, outer_grad, tol=1e-12)
    assert answer.n_hvp == 2
    H = quadratic.A + np.diag(np.exp(THETA)[quadratic.groups])
    residual = np.linalg.norm(H @ answer.q - outer_grad) / np.linalg.norm(outer_grad)
    np.testing.assert_allclose(answer.residual, residual, rtol=1e-8)
    assert residual > 1e-12


def test_cg_is_preconditioned_by_the_diagonal():
    rng = np.random.default_rng(0)
    n = 60
    scales = np.logspace(-3, 3, n)
    M = rng.normal(size=(n, 2 * n))
    A = scales[:, None] * (M @ M.T / n) * scales
    products = {}
    for diagonal in (False, True):
        problem = Quadratic(
            A, A @ np.ones(n), np.zeros(n), np.zeros(n, dtype=int), diagonal=diagonal
        )
        theta = np.array([-12.0])
        B = InverseHessian(n, data_diagonal=problem.data_diagonal(np.zeros(n)))
        B.set_penalty(problem.penalty_hessian(theta))
        solution = Solution(np.zeros(n), 0.0, -problem.b, B, 0, 0, Status.MAX_ITER)
        outer_grad = rng.normal(size=n)
        products[diagonal] = ask(cg, problem, theta, solution, outer_grad, tol=1e-6).n_hvp
    assert products[True] < 0.2 * products[False]


@pytest.mark.parametrize("method", METHODS.values())
def test_nothing_to_solve_is_solved(quadratic, method):
    solution = solve_tightly(quadratic, THETA)
    answer = ask(method, quadratic, THETA, solution, np.zeros(quadratic.n_params))
    np.testing.assert_array_equal(answer.q, 0.0)


@pytest.mark.parametrize("method", METHODS.values())
def test_methods_leave_their_arguments_alone(quadratic, method):
    solution = solve_tightly(quadratic, THETA)
    outer_grad, start = np.ones(quadratic.n_params), np.full(quadratic.n_params, 0.1)
    pairs = solution.inverse_hessian.n_pairs
    for array in (outer_grad, start, solution.w, solution.grad):
        array.flags.writeable = False
    ask(method, quadratic, THETA, solution, outer_grad, start=start)
    learnt = solution.inverse_hessian.n_pairs - pairs
    assert 0 <= learnt <= 2 if method is auto else learnt == 0


def test_exact_says_when_the_hessian_is_singular():
    problem = Quadratic(np.diag([1.0, 1.0, -5.0]), np.ones(3), np.zeros(3), np.zeros(3, dtype=int))
    theta = np.zeros(1)
    B = InverseHessian(3)
    solution = Solution(np.zeros(3), 0.0, np.ones(3), B, 0, 0, Status.CONVERGED)
    with pytest.raises(LinAlgError, match="hypergradient='exact' needs a positive definite"):
        ask(exact, problem, theta, solution, np.ones(3))


@pytest.mark.parametrize("spoiled", ["Hessian", "outer gradient"])
def test_exact_says_what_is_not_finite(quadratic, spoiled):
    solution = solve_tightly(quadratic, THETA)
    outer_grad = np.ones(quadratic.n_params)
    if spoiled == "Hessian":
        quadratic.A[0, 0] = np.inf
    else:
        outer_grad[0] = np.nan
    finite = pytest.raises(ValueError, match="needs a finite inner Hessian and outer gradient")
    with np.errstate(invalid="ignore"), finite:
        ask(exact, quadratic, THETA, solution, outer_grad)


@pytest.mark.parametrize("name", ["cg", "cg-limited"])
def test_conjugate_gradient_starts_from_the_last_answer(quadratic, name):
    solution, outer_grad = solve_tightly(quadratic, THETA), np.ones(quadratic.n_params)
    first = ask(METHODS[name], quadratic, THETA, solution, outer_grad, tol=1e-9)
    again = ask(METHODS[name], quadratic, THETA, solution, outer_grad, tol=1e-8, start=first.q)
    assert first.n_hvp > 3
    assert again.n_hvp == 1  # to see that nothing is left to do


def test_cg_ends_where_the_hessian_is_not_positive():
    problem = Quadratic(np.diag([1.0, 1.0, -5.0]), np.ones(3), np.zeros(3), np.zeros(3, dtype=int))
    theta = np.zeros(1)
    B = InverseHessian(3)
    solution = Solution(np.zeros(3), 0.0, np.ones(3), B, 0, 0, Status.CONVERGED)
    answer = ask(cg, problem, theta, solution, np.ones(3), tol=1e-8)
    assert np.isfinite(answer.q).all()
    assert answer.residual > 1e-8


# --- a method of one's own ---------------------------------------------------------------------


def dense_solve(adjoint):
    """A plain function that calls the problem itself."""
    problem = adjoint.problem
    theta = adjoint.theta
    solution = adjoint.solution
    outer_grad = adjoint.outer_grad
    product = problem.hessp(solution.w, theta)
    H = np.column_stack([product(e) for e in np.eye(problem.n_params)])
    q = np.linalg.solve(H, outer_grad)
    return Hypergradient(q, n_hvp=problem.n_params, residual=0.0)


def dense_solve_by_requests(adjoint):
    """A generator, whose products are served together with those of the other folds."""
    problem = adjoint.problem
    solution = adjoint.solution
    outer_grad = adjoint.outer_grad
    H = np.empty((problem.n_params, problem.n_params))
    for j, e in enumerate(np.eye(problem.n_params)):
        H[:, j] = yield HessianProduct(solution.w, e)
    return Hypergradient(np.linalg.solve(H, outer_grad), n_hvp=problem.n_params, residual=0.0)


def test_a_method_of_ones_own_works_like_the_named_one():
    theta = [2.0]
    results = {
        method: hoag(make_case("logistic").problems, theta, hypergradient=method, tol=1e-4)
        for method in ("exact", dense_solve, dense_solve_by_requests)
    }
    reference = results["exact"]
    for result in results.values():
        assert result.outcome is Outcome.CONVERGED
        np.testing.assert_allclose(result.theta, reference.theta, atol=1e-6)
        np.testing.assert_allclose(
            result.history[0]["hypergradient"], reference.history[0]["hypergradient"], rtol=1e-8
        )
    # The generator's products cost a pass for all three folds together, the function's one each.
    plain, shared = (results[m].history[0] for m in (dense_solve, dense_solve_by_requests))
    assert plain["hessian_products"] == shared["hessian_products"] > 0
    difference = plain["data_passes"] - shared["data_passes"]
    assert difference == 2 * shared["hessian_products"]


def test_a_method_is_told_the_tolerance_and_its_last_answer():
    heard = []

    def listening(adjoint):
        tol = adjoint.tol
        start = adjoint.start
        heard.append((tol, start))
        return exact(adjoint)

    problem = quadratic_with_minimum_at(0.5)
    hoag(problem, [3.0], hypergradient=listening, tolerance=lambda k: 10.0**-k, step="adaptive")
    assert heard[0] == (0.1, None)
    np.testing.assert_allclose([tol for tol, _ in heard[:4]], [1e-1, 1e-2, 1e-3, 1e-4])
    assert all(start is not None for _, start in heard[1:])


@pytest.mark.parametrize("name", METHODS)
def test_methods_go_by_name(name):
    assert resolve_method(name) is METHODS[name]


@pytest.mark.parametrize("wrong", ["newton", "SHINE", None, 3, ["cg"]])
def test_an_unknown_method_is_refused(wrong):
    with pytest.raises(ValueError, match=r"hypergradient must be one of .*'shine'.* or a callable"):
        resolve_method(wrong)


def test_a_residual_too_small_to_be_squared_ends_conjugate_gradient():
    problem = Quadratic(1e12 * np.eye(3), np.ones(3), np.zeros(3), np.zeros(3, int))
    theta, estimate = np.zeros(1), InverseHessian(3, data_diagonal=np.full(3, 1e5))
    solution = minimize_lbfgs(problem, theta, tol=np.inf, inverse_hessian=estimate)
    answer = ask(METHODS["cg"], problem, theta, solution, np.full(3, 1e-160))
    np.testing.assert_allclose(answer.q, 0.0, atol=1e-160)
