"""The default hypergradient: what it says of its own error, against a dense solve."""

import re

import numpy as np
import pytest
from helpers import LAYOUTS, TIMES, Quadratic, ask, breast_cancer, make_case, solve_tightly
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, StratifiedKFold
from sklearn.preprocessing import scale
from sklearn.svm import LinearSVC

from hoag_shine import ProblemSet, ShineCV, fold_problems, hoag, minimize_lbfgs
from hoag_shine.hypergradients import METHODS, auto, cg
from hoag_shine.hypergradients.linear_system import LinearSystem, Preconditioner, positive_definite
from hoag_shine.problems.linear import LinearProblems
from hoag_shine.problems.losses import LogisticLoss, SquaredLoss
from hoag_shine.problems.penalties import GroupedPenalty
from hoag_shine.problems.requests import HessianProduct


def hessian(problem, theta, w):
    product = problem.hessp(w, theta)
    return np.stack([product(e) for e in np.eye(w.size)])


def exact_hypergradient(problem, theta, w):
    """Return the hypergradient at w by Cholesky and two refinements in extended precision."""
    H = hessian(problem, theta, w)
    factor, g = cho_factor((H + H.T) / 2), problem.outer_value_and_grad(w)[1]
    q = cho_solve(factor, g)
    for _ in range(2):
        residual = g.astype(np.longdouble) - H.astype(np.longdouble) @ q
        q = q + cho_solve(factor, residual.astype(np.float64))
    return -problem.cross_vjp(w, theta, q)


@st.composite
def problems(draw):
    """A random problem of one fold, with penalties, at a random point of its inner solve."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, p = draw(st.integers(4, 60)), draw(st.integers(1, 40))
    condition = 10.0 ** draw(st.floats(0.0, 8.0))
    X = rng.standard_normal((n, p)) * condition ** (-rng.random(p) / 2)
    if draw(st.booleans()):
        X = np.where(rng.random((n, p)) < 0.7, 0.0, X)
    logistic = draw(st.booleans())
    z = X @ rng.standard_normal(p) + rng.standard_normal(n)
    y = (z > 0).astype(float) if logistic else z
    weight = rng.exponential(size=(n, 1)) if draw(st.booleans()) else np.ones((n, 1))
    held_out = np.arange(n)[:, None] % 3 == 0
    n_groups = draw(st.integers(1, min(p, 4)))
    groups = np.arange(p) % n_groups
    if draw(st.booleans()) and p > n_groups:
        groups[-1] = -1
    intercept = draw(st.booleans())
    groups = np.append(groups, -1) if intercept else groups
    return (
        LinearProblems(
            LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](X),
            y,
            LogisticLoss() if logistic else SquaredLoss(),
            GroupedPenalty(groups),
            np.where(held_out, 0.0, weight),
            np.where(held_out, weight, 0.0) / weight[held_out[:, 0]].sum(),
            fit_intercept=intercept,
        )[0],
        rng.uniform(-6.0, 2.0, n_groups),
        10.0 ** draw(st.floats(-9.0, -1.0)),
        10.0 ** draw(st.floats(-6.0, 0.0)),
    )


def test_the_error_never_exceeds_the_bound_and_the_cost_is_below_that_of_cg():
    costs, n_examples = [], 2 * TIMES * settings.default.max_examples

    @settings(
        max_examples=n_examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(problems())
    def holds(case):
        problem, theta, inner_tol, share = case
        scale = np.linalg.norm(problem.value_and_grad(np.zeros(problem.n_params), theta)[1])
        solution = minimize_lbfgs(problem, theta, tol=inner_tol * scale, max_iter=200)
        outer_grad = problem.outer_value_and_grad(solution.w)[1]
        # Where an unpenalised column has no data, there is no hypergradient; and beyond this,
        # rounding in the products with H decides, for the reference too.
        assume(np.linalg.cond(hessian(problem, theta, solution.w)) < 1e10)
        true = exact_hypergradient(problem, theta, solution.w)
        accuracy = share * float(np.linalg.norm(true))
        passes = []
        for method, arguments in ((cg, {"tol": 1e-4}), (auto, {"accuracy": accuracy})):
            before = problem.n_passes
            answer = ask(method, problem, theta, solution, outer_grad, **arguments)
            passes.append(problem.n_passes - before)
        costs.append(passes)
        found = -problem.cross_vjp(solution.w, theta, answer.q)
        error = np.linalg.norm(found - true)
        assert np.isfinite(answer.bound)
        assert error <= answer.bound
        assert answer.error <= answer.bound

    holds()
    assert len(costs) >= n_examples
    by_cg, by_auto = np.median(costs, axis=0)
    assert by_auto < by_cg


def solved(case_problem, theta):
    solution = solve_tightly(case_problem, theta)
    return solution, case_problem.outer_value_and_grad(solution.w)[1]


@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("kind", ["logistic", "squared"])
def test_it_works_until_it_is_as_accurate_as_asked_and_no_further(kind, n_groups):
    problem, theta = make_case(kind, n_groups=n_groups).problems[0], np.full(n_groups, 1.0)
    solution, outer_grad = solved(problem, theta)
    true = exact_hypergradient(problem, theta, solution.w)
    spent = []
    for share in (1e-1, 1e-4, 1e-8):
        solution = solve_tightly(problem, theta)  # with pairs that know nothing of the last call
        accuracy = share * float(np.linalg.norm(true))
        answer = ask(auto, problem, theta, solution, outer_grad, accuracy=accuracy)
        found = -problem.cross_vjp(solution.w, theta, answer.q)
        assert np.linalg.norm(found - true) <= accuracy
        spent.append(answer.n_hvp)
    assert spent[0] < spent[1] < spent[2]


def test_any_error_will_do_where_nothing_is_asked():
    problem, theta = make_case("logistic").problems[0], np.zeros(1)
    solution, outer_grad = solved(problem, theta)
    answer = ask(auto, problem, theta, solution, outer_grad, accuracy=np.inf)
    assert answer.used == "shine"
    assert answer.n_hvp == 3  # along the adjoint, the tangent and the intercept


def test_it_says_how_many_steps_it_took_and_what_they_were_worth():
    problem, theta = make_case("logistic").problems[0], np.full(1, -2.0)
    solution, outer_grad = solved(problem, theta)
    free = -problem.cross_vjp(solution.w, theta, solution.inverse_hessian @ outer_grad)
    first = ask(auto, problem, theta, solution, outer_grad, accuracy=np.inf)
    change = np.linalg.norm(-problem.cross_vjp(solution.w, theta, first.q) - free)
    assert first.error >= min(first.bound, change * (1.0 - 1e-12))
    last = ask(auto, problem, theta, solution, outer_grad, accuracy=1e-9, start=first.state)
    steps = int(re.fullmatch(r"shine, (\d+) steps of cg", last.used)[1])
    spent = last.n_hvp - first.n_hvp  # a first look again, no longer in single precision
    assert steps < spent <= 2 * steps  # for two systems, or one when the other is done


def recorded(call, requests):
    """Run a hypergradient's generator, and note what it asks for."""
    answer = None
    while True:
        try:
            request = call.send(answer)
        except StopIteration as stop:
            return stop.value
        requests.append(request)
        answer = yield request


@pytest.mark.parametrize("layout", LAYOUTS)
def test_single_precision_does_as_long_as_nothing_more_is_asked(layout):
    problem, theta = make_case("logistic", layout).problems[0], np.full(1, -2.0)
    solution, outer_grad = solved(problem, theta)
    true = exact_hypergradient(problem, theta, solution.w)
    start = None
    for accuracy, single in [(np.inf, True), (0.5, True), (1e-6, False), (1e-9, False)]:
        accuracy *= float(np.linalg.norm(true))
        requests: list[HessianProduct] = []

        def method(adjoint, requests=requests):
            return recorded(auto(adjoint), requests)

        answer = ask(method, problem, theta, solution, outer_grad, accuracy=accuracy, start=start)
        assert {request.single for request in requests} <= {single}
        found = -problem.cross_vjp(solution.w, theta, answer.q)
        assert np.linalg.norm(found - true) <= min(answer.bound, accuracy)
        start = answer.state


@pytest.mark.parametrize("share", [0.3, 0.1, 0.03, 0.01, 1e-3, 1e-6])
def test_what_is_asked_is_reached_whatever_the_number_of_rows(share):
    """Of many rows, sums in single precision may be rounded by more than is asked for."""
    problem, theta = make_case("logistic").problems[0], np.full(1, -2.0)
    problem.n_summed = 400_000_000
    solution, outer_grad = solved(problem, theta)
    accuracy = share * float(np.linalg.norm(exact_hypergradient(problem, theta, solution.w)))
    first = ask(auto, problem, theta, solution, outer_grad, accuracy=np.inf)
    answer = ask(auto, problem, theta, solution, outer_grad, accuracy=accuracy, start=first.state)
    assert answer.error <= accuracy


@pytest.mark.parametrize("unit", [1e-60, 1e-25, 1e25, 1e60])
def test_numbers_beyond_the_range_of_single_precision_are_not_lost(unit):
    """The unit of the columns, and of the penalty with them, changes no hypergradient."""
    X, y = breast_cancer()
    held_out = np.arange(y.size)[:, None] % 2.0
    found = []
    for factor in (1.0, unit):
        problem = LinearProblems(
            csr_array(X * factor),
            y.astype(float),
            LogisticLoss(),
            GroupedPenalty(np.zeros(30, int)),
            1.0 - held_out,
            held_out,
            fit_intercept=False,
        )[0]
        theta = np.full(1, 2.0 * np.log(factor) - 2.0)
        scale = float(np.linalg.norm(problem.value_and_grad(np.zeros(30), theta)[1]))
        solution = minimize_lbfgs(problem, theta, tol=1e-3 * scale)
        outer_grad = problem.outer_value_and_grad(solution.w)[1]
        answer = ask(auto, problem, theta, solution, outer_grad, accuracy=np.inf)
        found.append(-problem.cross_vjp(solution.w, theta, answer.q))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


@pytest.mark.parametrize(("n_free", "certain"), [(16, True), (17, False)])
def test_few_variables_without_a_penalty_are_eliminated(n_free, certain):
    X, y = breast_cancer()
    groups = np.where(np.arange(31) < 31 - n_free, 0, -1)
    problem = LinearProblems(
        X,
        y.astype(float),
        LogisticLoss(),
        GroupedPenalty(groups),
        np.ones((569, 1)),
        np.full((569, 1), 1 / 569),
    )[0]
    theta = np.zeros(1)
    solution = minimize_lbfgs(problem, theta, tol=1e-3)
    outer_grad = problem.outer_value_and_grad(solution.w)[1]
    answer = ask(auto, problem, theta, solution, outer_grad, accuracy=np.inf)
    assert np.isfinite(answer.bound) == certain
    assert answer.n_hvp == 2 + n_free * certain


def radau(diagonal, off_diagonal, smallest):
    """Return the Gauss-Radau estimate of e' A^-1 e, by the extended matrix of Lanczos.

    Golub and Meurant, Matrices, Moments and Quadrature, section 6.2.
    """
    k = len(diagonal)
    T = np.diag(diagonal) + np.diag(off_diagonal[:-1], 1) + np.diag(off_diagonal[:-1], -1)
    e = np.eye(k)[-1]
    delta = np.linalg.solve(T - smallest * np.eye(k), off_diagonal[-1] ** 2 * e)
    extended = np.zeros((k + 1, k + 1))
    extended[:k, :k] = T
    extended[k, k - 1] = extended[k - 1, k] = off_diagonal[-1]
    extended[k, k] = smallest + delta[-1]
    return np.linalg.inv(extended)[0, 0] - np.linalg.inv(T)[0, 0]


@pytest.mark.parametrize(
    ("block", "is_it"),
    [([[2.0, 1.0], [1.0, 2.0]], True), ([[1.0, 2.0], [2.0, 1.0]], False), ([[np.nan]], False)],
)
def test_what_is_eliminated_must_be_positive_definite(block, is_it):
    assert positive_definite(np.array(block)) == is_it


def test_the_bound_is_that_of_gauss_radau_quadrature():
    rng = np.random.default_rng(0)
    n, smallest = 30, 0.5
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    H = (Q * np.geomspace(smallest, 100.0, n)) @ Q.T
    rhs = rng.normal(size=n)
    none = np.empty(0, dtype=np.intp)
    preconditioner = Preconditioner(np.ones(n), np.full(n, smallest), none, np.empty((0, n)), none)
    system = LinearSystem(rhs, np.zeros(n), np.zeros(n), preconditioner)
    solution = np.linalg.solve(H, rhs)
    # Lanczos, with all vectors kept orthogonal.
    V, diagonal, off_diagonal = [rhs / np.linalg.norm(rhs)], [], []
    for _ in range(12):
        u = H @ V[-1]
        diagonal.append(V[-1] @ u)
        for v in V * 2:
            u = u - (v @ u) * v
        off_diagonal.append(np.linalg.norm(u))
        V.append(u / off_diagonal[-1])
        system.advance(H @ system.direction)
        error = system.x - solution
        error = np.sqrt(error @ H @ error)
        expected = np.linalg.norm(rhs) * np.sqrt(radau(diagonal, off_diagonal, smallest))
        np.testing.assert_allclose(system.bound, expected, rtol=1e-6)
        # It knows more than the residual and strong convexity do.
        assert error <= system.bound <= np.linalg.norm(system.residual) / np.sqrt(smallest)


def test_asked_again_it_goes_on_where_it_was():
    problem, theta = make_case("logistic").problems[0], np.full(1, -2.0)
    solution, outer_grad = solved(problem, theta)
    first = ask(auto, problem, theta, solution, outer_grad, accuracy=1e3)
    again = ask(auto, problem, theta, solution, outer_grad, accuracy=1e-12, start=first.state)
    solution, outer_grad = solved(problem, theta)
    at_once = ask(auto, problem, theta, solution, outer_grad, accuracy=1e-12)
    assert first.n_hvp + again.n_hvp == at_once.n_hvp
    np.testing.assert_allclose(again.q, at_once.q, rtol=1e-10)
    assert again.bound < first.bound


def test_the_pairs_that_it_leaves_make_the_next_estimate_better():
    problem, theta = make_case("logistic").problems[0], np.zeros(1)
    solution, outer_grad = solved(problem, theta)
    true = exact_hypergradient(problem, theta, solution.w)

    def error_of_shine():
        q = ask(METHODS["shine"], problem, theta, solution, outer_grad).q
        return float(np.abs(-problem.cross_vjp(solution.w, theta, q) - true)[0])

    before = error_of_shine()
    ask(auto, problem, theta, solution, outer_grad, accuracy=1e-10)
    assert error_of_shine() < 1e-3 * before


def test_nothing_is_certain_where_nothing_is_known_to_be_convex():
    n = 6
    problem = Quadratic(np.diag(np.arange(1.0, n + 1)), np.ones(n), np.zeros(n), np.zeros(n, int))
    assert not problem.convex
    theta = np.zeros(1)
    solution, outer_grad = solved(problem, theta)
    answer = ask(auto, problem, theta, solution, outer_grad, accuracy=1e-9)
    assert answer.bound == np.inf
    true = exact_hypergradient(problem, theta, solution.w)
    np.testing.assert_allclose(-problem.cross_vjp(solution.w, theta, answer.q), true, atol=1e-9)


def test_an_intercept_that_nothing_holds_has_no_part():
    """Where all rows lie beyond the hinge of a class, its intercept has no curvature."""
    X, y = load_iris(return_X_y=True)
    X, theta = scale(X), np.zeros(2)
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    problems = fold_problems(LinearSVC(), X, y, cv=cv, penalty=np.arange(4) % 2)
    flat = 0
    for problem, (train, _) in zip(problems, cv.split(X, y), strict=True):
        w = minimize_lbfgs(problem, theta, tol=1e-4).w.copy()
        margins = np.where(y == 0, 1.0, -1.0) * (X @ w[0:-3:3] + w[-3])
        w[0::3] *= (1.0 + 1e-9) / margins[train].min()
        solution = minimize_lbfgs(problem, theta, w, tol=np.inf)
        outer_grad = problem.outer_value_and_grad(solution.w)[1]
        H = hessian(problem, theta, solution.w)
        flat += H[-3, -3] == 0.0 and outer_grad[-3] != 0.0
        q = np.linalg.pinv(H, hermitian=True) @ outer_grad
        true = -problem.cross_vjp(solution.w, theta, q)
        answer = ask(auto, problem, theta, solution, outer_grad, accuracy=1e-9)
        error = np.linalg.norm(-problem.cross_vjp(solution.w, theta, answer.q) - true)
        assert error <= min(answer.bound, 1e-8)
    assert flat > 0


def test_the_search_says_what_it_did_and_how_wrong_it_may_be():
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), cv=5).fit(X, y)
    for record in search.history_:
        assert record["method"] == "newton"
        assert 0.0 <= record["hypergradient_error"] <= record["hypergradient_bound"] < 1e-6
    # A set that answers for its members one by one has no Hessians to factorise.
    members = ProblemSet(list(fold_problems(LogisticRegression(), X, y, cv=5)))
    for record in hoag(members).history:
        assert record["method"].startswith("shine")
        assert 0.0 <= record["hypergradient_error"] <= record["hypergradient_bound"]


def test_it_settles_in_fewer_passes_than_conjugate_gradient():
    X, y = breast_cancer()
    held_out = PredefinedSplit(np.where(np.arange(len(y)) % 3 == 0, 0, -1))
    spent, ends = {}, {}
    for method in ("auto", "cg"):
        problems = fold_problems(LogisticRegression(), X, y, cv=held_out)
        ends[method] = hoag(problems, hypergradient=method).value
        spent[method] = problems.n_passes
    assert spent["auto"] < 0.7 * spent["cg"]
    np.testing.assert_allclose(ends["auto"], ends["cg"], rtol=1e-5)
