"""The outer loop on bilevel problems whose solution is known, and in bad company."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import (
    MODELS,
    Quadratic,
    breast_cancer,
    make_case,
    quadratic_with_minimum_at,
)
from scipy import sparse
from scipy.optimize import minimize_scalar
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import scale

from hoag_shine import (
    Hypergradient,
    Outcome,
    ProblemSet,
    Status,
    fold_problems,
    hoag,
)
from hoag_shine.hypergradients import METHODS
from hoag_shine.inner import lbfgs
from hoag_shine.outer.inexact_oracle import InexactOracle
from hoag_shine.outer.inner_state import InnerState
from hoag_shine.outer.steps.base import Ask
from hoag_shine.problems.linear import LinearProblems
from hoag_shine.problems.losses import LogisticLoss
from hoag_shine.problems.penalties import GroupedPenalty

SCHEDULES = {
    "quadratic": lambda k: 0.1 / k**2,
    "cubic": lambda k: 0.1 / k**3,
    "exponential": lambda k: 0.1 * 0.9**k,
    "exact": lambda k: 1e-12,
}
CONVERGENT = ("shine", "cg", "exact")

every_schedule = pytest.mark.parametrize("tolerance", SCHEDULES)


class Watch:
    """A callback that keeps what it is told, and stops a search that would never end."""

    def __init__(self, lower=-18.0, upper=18.0, limit=500):
        self.lower, self.upper, self.limit = lower, upper, limit
        self.records = []

    def __call__(self, record, solutions):
        self.records.append((record["theta"].copy(), dict(record), list(solutions)))
        assert (record["theta"] >= self.lower).all()
        assert (record["theta"] <= self.upper).all()
        assert len(self.records) < self.limit
        return False


def gap(problem, result):
    """Return by how much the result's criterion, solved exactly, exceeds the lowest."""
    lowest = minimize_scalar(
        lambda t: problem.criterion(np.array([t])), bounds=(-18, 18), options={"xatol": 1e-9}
    )
    return problem.criterion(result.theta) / lowest.fun - 1


@pytest.fixture(scope="module")
def lowest():
    """The lowest mean criterion of the folds of each kind of model, by independent formulas."""
    found = {}
    for kind in MODELS:
        folds = make_case(kind).folds
        found[kind] = minimize_scalar(
            lambda t, folds=folds: np.mean([fold.criterion(np.array([t])) for fold in folds]),
            bounds=(-6, 8),
            options={"xatol": 1e-6},
        ).fun
    return found


def criterion_of(case, theta):
    return np.mean([fold.criterion(theta) for fold in case.folds])


# --- it finds the optimum ----------------------------------------------------------------------


@pytest.mark.parametrize("start", [-6.0, 0.0, 8.0])
@pytest.mark.parametrize("promise", [True, False])
@pytest.mark.parametrize("hypergradient", METHODS)
def test_the_default_finds_the_minimum_of_a_problem_of_ones_own(hypergradient, promise, start):
    problem = quadratic_with_minimum_at(0.7, promise=promise)
    if hypergradient == "shine-opa":
        problem.cross_jvp = lambda w, theta, s: problem._h(theta) * w * s[problem.groups]
    watch = Watch()
    result = hoag(problem, [start], hypergradient=hypergradient, callback=watch)
    assert result.outcome is Outcome.CONVERGED
    assert gap(problem, result) <= 1e-5
    np.testing.assert_allclose(result.theta, 0.7, atol=0.05)


@pytest.mark.parametrize("hypergradient", CONVERGENT)
@pytest.mark.parametrize("layout", ["C", "csr"])
@pytest.mark.parametrize("kind", MODELS)
def test_the_default_finds_the_minimum_over_folds(lowest, kind, layout, hypergradient):
    case = make_case(kind, layout)
    result = hoag(case.problems, [5.0], hypergradient=hypergradient, callback=Watch())
    assert result.outcome is Outcome.CONVERGED
    assert criterion_of(case, result.theta) / lowest[kind] - 1 <= 1e-5


@every_schedule
@pytest.mark.parametrize("hypergradient", ["cg", "exact"])
@pytest.mark.parametrize("kind", MODELS)
def test_hoag_as_published_finds_the_minimum(lowest, kind, hypergradient, tolerance):
    case = make_case(kind)
    result = hoag(
        case.problems,
        [5.0],
        hypergradient=hypergradient,
        step="adaptive",
        tolerance=tolerance,
        max_iter=300,
        callback=Watch(),
    )
    assert result.outcome is Outcome.CONVERGED
    assert criterion_of(case, result.theta) / lowest[kind] - 1 <= 1e-3


@pytest.mark.parametrize("tolerance", ["adjoint", *SCHEDULES])
@pytest.mark.parametrize("step", ["secant", "adaptive"])
@pytest.mark.parametrize("hypergradient", ["shine", "cg", "jacobian-free"])
@pytest.mark.parametrize("start", [-3.0, 2.0, 6.0])
@pytest.mark.filterwarnings("ignore:The outer search ended")
def test_every_combination_ends_no_worse_than_it_started(start, hypergradient, step, tolerance):
    case = make_case("logistic")
    watch = Watch(-7.0, 7.0)
    result = hoag(
        case.problems,
        [start],
        hypergradient=hypergradient,
        step=step,
        tolerance=tolerance,
        bounds=(-7.0, 7.0),
        max_iter=50,
        callback=watch,
    )
    assert len(result.history) <= 50
    end, begin = criterion_of(case, result.theta), criterion_of(case, np.array([start]))
    assert end <= begin * (1 + 2e-6)
    np.testing.assert_allclose(result.value, end, rtol=2e-5)
    for fold, solution in zip(case.folds, result.solutions, strict=True):
        grad = fold.grad(solution.w, result.theta)
        np.testing.assert_allclose(solution.grad, grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("promise", [True, False])
@pytest.mark.parametrize("step", ["auto", "adaptive"])
@pytest.mark.parametrize("hypergradient", ["cg", "exact"])
def test_several_hyperparameters_are_tuned_together(hypergradient, step, promise):
    optimum = np.array([0.7, -0.5, 1.5])
    problem = quadratic_with_minimum_at(optimum, n=24, promise=promise)
    result = hoag(
        problem,
        np.zeros(3),
        hypergradient=hypergradient,
        step=step,
        max_iter=300,
        callback=Watch(),
    )
    assert result.outcome is Outcome.CONVERGED
    lowest = problem.criterion(optimum)
    assert lowest < problem.criterion(np.zeros(3))
    assert problem.criterion(result.theta) / lowest - 1 <= 1e-3


@pytest.mark.parametrize("hypergradient", CONVERGENT)
def test_the_value_and_the_solutions_are_those_of_the_result(hypergradient):
    case = make_case("logistic")
    result = hoag(case.problems, [5.0], hypergradient=hypergradient)
    np.testing.assert_allclose(result.value, criterion_of(case, result.theta), rtol=2e-6)
    record = result.history[result.best_index]
    np.testing.assert_array_equal(record["theta"], result.theta)
    assert record["criterion"] == result.value
    assert len(result.solutions) == len(case.folds)
    for fold, solution in zip(case.folds, result.solutions, strict=True):
        start = np.linalg.norm(fold.grad(np.zeros(solution.w.size), result.theta))
        assert np.linalg.norm(fold.grad(solution.w, result.theta)) <= 1e-4 * start
        np.testing.assert_allclose(solution.value, fold.value(solution.w, result.theta), rtol=1e-9)
    # Each fold's inner error is corrected for.
    reached = [fold.outer(s.w) for fold, s in zip(case.folds, result.solutions, strict=True)]
    np.testing.assert_allclose(record["fold_criteria"], reached, rtol=1e-5)
    np.testing.assert_allclose(record["fold_criteria"].mean(), result.value, rtol=1e-14)


def test_the_criterion_of_a_set_is_the_mean_of_its_members():
    members = [quadratic_with_minimum_at(t, seed=s) for s, t in enumerate((0.0, 1.0, 2.0))]
    result = hoag(ProblemSet(members), [5.0], hypergradient="cg")
    lowest = minimize_scalar(
        lambda t: np.mean([m.criterion(np.array([t])) for m in members]), bounds=(-9, 9)
    )
    mean = np.mean([m.criterion(result.theta) for m in members])
    assert mean / lowest.fun - 1 <= 1e-5
    np.testing.assert_allclose(result.value, mean, rtol=2e-6)


def test_what_one_iteration_leaves_to_the_next_saves_passes():
    """Against fresh solves at every theta that the search looks at, to the same tolerances."""
    case = make_case("logistic")
    result = hoag(case.problems, [5.0], hypergradient="shine")
    spent = case.problems.n_passes
    cold = make_case("logistic").problems
    for record in result.history:
        hoag(
            cold,
            record["theta"],
            tolerance=lambda k, tol=record["inner_tolerance"]: tol,
            hypergradient="jacobian-free",
            callback=lambda record, solutions: True,
        )
    assert spent < 0.7 * cold.n_passes


# --- tolerances --------------------------------------------------------------------------------


def sparse_oracle(theta):
    """Return an oracle of three folds with thousands of columns, which no factor is made of."""
    rng, (n, p) = np.random.default_rng(0), (2000, 5000)
    X = sparse.random_array((n, p), density=0.05, rng=rng, format="csr")
    score = X @ rng.normal(size=p)
    y = (score - score.mean() + rng.logistic(size=n) > 0.0).astype(np.float64)
    held_out = (np.arange(n)[:, None] % 3 == np.arange(3)).astype(np.float64)
    groups = np.append(np.zeros(p, int), -1)
    problems = LinearProblems(
        X,
        y,
        LogisticLoss(),
        GroupedPenalty(groups),
        1.0 - held_out,
        held_out / held_out.sum(axis=0),
        fit_intercept=True,
    )
    return InexactOracle(problems, lbfgs, METHODS["auto"], np.array([theta]), 30, 1000, 0.0, map)


@pytest.mark.parametrize("relative", [0.05, 0.01])
@pytest.mark.parametrize("theta", [-6.0, -3.0, 0.0, 3.0])
def test_an_evaluation_is_as_accurate_as_asked_relative_to_its_value(theta, relative):
    evaluation = sparse_oracle(theta).evaluate(Ask(np.array([theta]), relative=relative))
    assert evaluation.error <= relative * evaluation.value


def test_what_gradients_are_worth_counts_where_their_norms_do_not_fall():
    """Euclid's norms depend on units, and bounce along directions that hardly matter."""
    theta, tolerance = np.zeros(1), 3e-4
    oracle = sparse_oracle(0.0)
    at_start = [np.linalg.norm(s.grad) for s in oracle.solutions]
    oracle.evaluate(Ask(theta, relative=0.05))
    evaluation = oracle.evaluate(Ask(theta, tolerance=tolerance))
    reached = [np.linalg.norm(s.grad) for s in oracle.solutions]
    assert evaluation.tolerance <= tolerance < np.max(np.divide(reached, at_start))
    # As results ask: a tolerance of ten times the accuracy.
    accuracy = 0.1 * tolerance * evaluation.value
    value = oracle.evaluate(Ask(theta, accuracy, tolerance)).value
    exact = oracle.evaluate(Ask(theta, 1e-10, 1e-10)).value
    assert abs(value - exact) <= accuracy


def test_inner_gradients_are_measured_where_the_criterion_is_zero():
    """Nothing is small beside it, so that norms alone tell."""
    problem, theta = quadratic_with_minimum_at(0.7), np.zeros(1)
    problem.outer_value_and_grad = lambda w: (0.0, np.zeros_like(w))
    members, method = ProblemSet([problem]), METHODS["auto"]
    oracle = InexactOracle(members, lbfgs, method, theta, 30, 1000, 0.0, map)
    start = np.linalg.norm(oracle.solutions[0].grad)
    oracle.evaluate(Ask(theta))
    oracle.evaluate(Ask(theta, tolerance=1e-6))
    assert np.linalg.norm(oracle.solutions[0].grad) <= 1e-6 * start


@every_schedule
@pytest.mark.filterwarnings("ignore:The outer search ended")
def test_schedules_are_hoags(tolerance):
    """Relative to the norm of the first inner gradient, which is b at w = 0."""
    problem = quadratic_with_minimum_at(0.7)
    watch = Watch()
    hoag(problem, [6.0], hypergradient="cg", step="adaptive", tolerance=tolerance, callback=watch)
    assert len(watch.records) >= 4
    for k, (theta, record, (solution,)) in enumerate(watch.records, start=1):
        bound = max(SCHEDULES[tolerance](k), 1e-12) * np.linalg.norm(problem.b)
        w = solution.w
        grad = problem.A @ w + problem._h(theta) * w - problem.b
        if solution.status is not Status.STALLED:
            assert np.linalg.norm(grad) <= bound * (1 + 1e-9)
        np.testing.assert_allclose(
            record["inner_tolerance"],
            np.linalg.norm(grad) / np.linalg.norm(problem.b),
            rtol=1e-3,
            atol=1e-13,
        )


def test_a_schedule_of_ones_own_is_asked_for_each_iteration():
    asked = []

    def schedule(k):
        asked.append(k)
        return 0.5**k

    problem = quadratic_with_minimum_at(0.7)
    result = hoag(problem, [4.0], hypergradient="cg", step="adaptive", tolerance=schedule)
    assert asked == list(range(1, len(result.history) + 1))


@pytest.mark.parametrize("hypergradient", ["cg", "exact"])
def test_the_adjoint_prices_the_inner_error(hypergradient):
    """The reported error covers most of what the criterion still lacks, and correcting helps."""
    case = make_case("logistic")
    watch = Watch()
    hoag(case.problems, [5.0], hypergradient=hypergradient, callback=watch)
    for theta, record, _ in watch.records:
        if record["look"]:
            continue  # whose penalties may be so weak that the reference fails
        truth = criterion_of(case, theta)
        raw, corrected = record["fold_criteria"].mean() - truth, record["criterion"] - truth
        if record["error"] > 1e-9:
            assert abs(raw) <= 3 * record["error"]
        assert abs(corrected) <= abs(raw) + 1e-9


# --- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hypergradient", CONVERGENT)
@pytest.mark.parametrize("step", ["secant", "adaptive"])
@pytest.mark.parametrize("bounds", [(1.5, 9.0), (-9.0, -1.0)])
def test_an_optimum_on_a_bound_is_reported(bounds, step, hypergradient):
    problem = quadratic_with_minimum_at(0.7)
    watch = Watch(*bounds)
    with pytest.warns(ConvergenceWarning, match="lies on a bound.*widen bounds"):
        result = hoag(
            problem,
            [np.mean(bounds)],
            bounds=bounds,
            step=step,
            hypergradient=hypergradient,
            callback=watch,
            max_iter=200,
        )
    assert result.outcome is Outcome.BOUND
    nearest = min(bounds, key=lambda b: abs(b - 0.7))
    np.testing.assert_array_equal(result.theta, [nearest])


def test_bounds_may_differ_from_one_hyperparameter_to_another():
    problem = quadratic_with_minimum_at([0.7, -0.5], n=24)
    lower, upper = np.array([-1.0, -0.2]), np.array([0.3, 1.0])
    with pytest.warns(ConvergenceWarning, match="lies on a bound"):
        result = hoag(
            problem,
            [0.0, 0.5],
            hypergradient="cg",
            bounds=(lower, upper),
            callback=Watch(lower, upper),
            max_iter=200,
        )
    assert result.outcome is Outcome.BOUND


def test_a_start_outside_of_the_bounds_is_brought_inside():
    problem = quadratic_with_minimum_at(0.7)
    result = hoag(problem, [11.0], bounds=(-2.0, 3.0), callback=Watch(-2.0, 3.0))
    np.testing.assert_array_equal(result.history[0]["theta"], [3.0])
    assert gap(problem, result) <= 1e-5


def test_the_start_is_zero_unless_given():
    result = hoag(quadratic_with_minimum_at(0.7), callback=lambda record, solutions: True)
    np.testing.assert_array_equal(result.theta, [0.0])


# --- how it ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["secant", "adaptive"])
@pytest.mark.parametrize("max_iter", [1, 2])
def test_the_limit_of_iterations_is_kept_and_warned_of(max_iter, step):
    problem = quadratic_with_minimum_at(0.7)
    with pytest.warns(ConvergenceWarning, match="limit of outer iterations.*increase max_iter"):
        result = hoag(problem, [9.0], step=step, max_iter=max_iter, hypergradient="cg")
    assert result.outcome is Outcome.MAX_ITER
    assert len(result.history) == max_iter
    assert problem.criterion(result.theta) <= problem.criterion(np.array([9.0]))


@pytest.mark.parametrize("stop_at", [0, 2])
def test_a_callback_can_end_the_search(stop_at):
    heard = []

    def callback(record, solutions):
        heard.append(record["iteration"])
        assert len(solutions) == 1
        return record["iteration"] == stop_at

    result = hoag(quadratic_with_minimum_at(0.7), [6.0], callback=callback)
    assert result.outcome is Outcome.CALLBACK
    assert len(result.history) == stop_at + 1
    assert heard[-1] == stop_at
    assert sorted(set(heard)) == list(range(stop_at + 1))


def test_an_interrupted_callback_keeps_the_best_so_far():
    problem = quadratic_with_minimum_at(0.7)

    def callback(record, solutions):
        if record["iteration"] == 3:
            raise KeyboardInterrupt

    with pytest.warns(ConvergenceWarning, match="interrupted.*best .* are kept"):
        result = hoag(problem, [6.0], callback=callback)
    assert result.outcome is Outcome.INTERRUPTED
    assert len(result.history) == 4
    criteria = [problem.criterion(record["theta"]) for record in result.history]
    assert problem.criterion(result.theta) == min(criteria) < criteria[0]


class Interrupted(Quadratic):
    """Raises KeyboardInterrupt at one of its evaluations, as a user at the keyboard would."""

    countdown = np.inf

    def value_and_grad(self, w, theta):
        self.countdown -= 1
        if self.countdown == 0:
            raise KeyboardInterrupt
        return super().value_and_grad(w, theta)


def interrupted_at(evaluation):
    other = quadratic_with_minimum_at(0.7)
    problem = Interrupted(other.A, other.b, other.target, other.groups)
    problem.countdown = evaluation
    return problem


@pytest.mark.parametrize("hypergradient", ["shine", "cg"])
def test_an_interrupt_anywhere_keeps_what_there_is(hypergradient):
    complete = interrupted_at(np.inf)
    full = hoag(complete, [6.0], hypergradient=hypergradient)
    evaluations = int(complete.n_passes) - sum(r["hessian_products"] for r in full.history)
    with pytest.raises(KeyboardInterrupt):
        hoag(interrupted_at(2), [6.0], hypergradient=hypergradient)  # nothing to keep yet
    for evaluation in range(20, evaluations + 1, 7):
        problem = interrupted_at(evaluation)
        with pytest.warns(ConvergenceWarning, match="interrupted"):
            result = hoag(problem, [6.0], hypergradient=hypergradient)
        assert result.outcome is Outcome.INTERRUPTED
        problem.countdown = np.inf
        assert problem.criterion(result.theta) <= problem.criterion(np.array([6.0]))
        assert np.isfinite(result.value)
        assert len(result.solutions) == 1


@pytest.mark.parametrize("max_inner_iter", [1, 3, 7])
def test_unsolved_inner_problems_are_warned_of(max_inner_iter):
    # One by one, they have no Hessians to factorise, by which the result would be solved after all.
    problems = ProblemSet(list(make_case("logistic").problems))
    with pytest.warns(ConvergenceWarning, match="not solved at the best.*scale the features"):
        result = hoag(
            problems,
            max_inner_iter=max_inner_iter,
            tolerance="exponential",  # whose samples are not refined
            bounds=(-0.1, 0.1),
            callback=lambda record, solutions: True,
        )
    assert result.history[0]["inner_iterations"] <= 2 * max_inner_iter


# --- hypergradients that lie -------------------------------------------------------------------


def lying(kind):
    rng = np.random.default_rng(0)

    def method(adjoint):
        solution = adjoint.solution
        outer_grad = adjoint.outer_grad
        q = solution.inverse_hessian @ outer_grad
        size = np.linalg.norm(outer_grad)
        return Hypergradient(
            {
                "wrong sign": lambda: -q,
                "zero": lambda: 0.0 * q,
                "noise": lambda: size * rng.normal(size=q.size),
                "wild": lambda: 1e8 * rng.normal(size=q.size),
                "tiny": lambda: 1e-8 * q,
            }[kind]()
        )

    return method


@pytest.mark.parametrize("start", [-4.0, 0.5, 6.0])
@pytest.mark.parametrize("kind", ["wrong sign", "zero", "noise", "wild", "tiny"])
def test_values_decide_where_hypergradients_lie(lowest, kind, start):
    """In one dimension, within a thousandth of the lowest criterion."""
    case = make_case("logistic")
    result = hoag(case.problems, [start], hypergradient=lying(kind), callback=Watch())
    assert result.outcome is Outcome.CONVERGED
    assert criterion_of(case, result.theta) / lowest["logistic"] - 1 <= 1e-3
    np.testing.assert_allclose(result.value, criterion_of(case, result.theta), rtol=1e-4)


@pytest.mark.parametrize("tolerance", ["adjoint", "quadratic"])
@pytest.mark.parametrize("step", ["adaptive", "secant"])
@pytest.mark.parametrize("kind", ["wrong sign", "zero", "noise", "wild", "tiny"])
@pytest.mark.filterwarnings("ignore:The outer search ended")
def test_no_lie_leads_to_anything_worse_than_the_start(kind, step, tolerance):
    case = make_case("logistic")
    for start in (0.0, 3.0):
        result = hoag(
            case.problems,
            [start],
            hypergradient=lying(kind),
            step=step,
            tolerance=tolerance,
            callback=Watch(),
        )
        begin = criterion_of(case, np.array([start]))
        assert criterion_of(case, result.theta) <= begin * (1 + 1e-5)
        for fold, solution in zip(case.folds, result.solutions, strict=True):
            grad = fold.grad(solution.w, result.theta)
            np.testing.assert_allclose(solution.grad, grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_hypergradient_that_is_not_finite_is_refused(bad):
    def method(adjoint):
        outer_grad = adjoint.outer_grad
        return Hypergradient(np.full_like(outer_grad, bad))

    with (
        np.errstate(invalid="ignore"),
        pytest.raises(ValueError, match=r"hypergradient is not finite at theta=\[0\.\]"),
    ):
        hoag(quadratic_with_minimum_at(0.7), hypergradient=method)


def test_a_problem_that_is_not_finite_is_refused():
    problem = quadratic_with_minimum_at(0.7)
    problem.b = np.full_like(problem.b, np.nan)
    with pytest.raises(ValueError, match=r"criterion .* is not finite at theta=\[0\.\]"):
        hoag(problem)


# --- determinism, and the record of it all -----------------------------------------------------


def path(result):
    keys = ("theta", "criterion", "fold_criteria", "hypergradient", "data_passes")
    return [np.concatenate([np.ravel(record[key]) for key in keys]) for record in result.history]


@pytest.mark.parametrize("hypergradient", CONVERGENT)
@pytest.mark.parametrize("layout", ["C", "csr"])
def test_the_same_search_gives_the_same_bits_on_any_number_of_threads(layout, hypergradient):
    results = [
        hoag(make_case("logistic", layout).problems, hypergradient=hypergradient, n_jobs=n_jobs)
        for n_jobs in (None, None, 2)
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(path(results[0]), path(other))
        for mine, yours in zip(results[0].solutions, other.solutions, strict=True):
            np.testing.assert_array_equal(mine.w, yours.w)


@pytest.mark.parametrize("hypergradient", CONVERGENT)
def test_the_history_tells_what_was_done_and_what_it_cost(hypergradient):
    case = make_case("logistic")
    before = case.problems.n_passes
    watch = Watch()
    result = hoag(case.problems, [5.0], hypergradient=hypergradient, callback=watch)
    for i, record in enumerate(result.history):
        assert set(record) >= {
            "iteration",
            "theta",
            "criterion",
            "fold_criteria",
            "error",
            "hypergradient",
            "hypergradient_norm",
            "residual",
            "inner_tolerance",
            "inner_iterations",
            "hessian_products",
            "data_passes",
            "seconds",
        }
        assert record["iteration"] == i
        assert record["theta"].shape == record["hypergradient"].shape == (1,)
        assert record["fold_criteria"].shape == (3,)
        assert record["hypergradient_norm"] == abs(record["hypergradient"][0])
        assert record["seconds"] > 0
        assert record["error"] >= 0
        assert np.isnan(record["residual"]) == (hypergradient == "shine")
        assert (record["hessian_products"] == 0) == (hypergradient == "shine")
    spent = sum(record["data_passes"] for record in result.history)
    # All but what was read before the first iteration could begin.
    assert case.problems.n_passes - 3 <= before + spent <= case.problems.n_passes


def test_records_at_a_theta_say_what_was_found_most_accurately():
    def there_and_back(theta, *arguments, **options):
        rough = yield Ask(theta, relative=0.1)
        yield Ask(theta + 1.0, relative=0.1)
        accurate = yield Ask(theta, 1e-9, grad_accuracy=1e-9)
        assert accurate.error < 0.1 * rough.error
        return Outcome.CONVERGED

    X, y = load_digits(return_X_y=True)
    problems = fold_problems(LogisticRegression(), scale(X), y, cv=3)
    history = hoag(problems, step=there_and_back).history
    first, last = (history[i] for i in (0, 2))
    assert first["theta"] == last["theta"] != history[1]["theta"]
    assert (first["criterion"], first["error"]) == (last["criterion"], last["error"])


@pytest.mark.parametrize("share", [1e-2, 1e-3])
def test_errors_of_folds_that_cancel_are_not_claimed_to_be_small(share):
    """The folds' corrections have both signs; their sum is small by chance, and no error is."""
    X, y = load_digits(return_X_y=True)
    ratios = []

    def roughly_and_accurately(theta, *arguments, **options):
        rough = dict.fromkeys((0.0, -2.0, -0.6, -0.4, 1.0, 3.0))
        for place in rough:
            rough[place] = yield Ask(theta + place, relative=share)
        for place, evaluation in rough.items():
            accurate = yield Ask(theta + place, 1e-8)
            ratios.append(abs(evaluation.value - accurate.value) / evaluation.error)
        return Outcome.CONVERGED

    problems = fold_problems(LogisticRegression(), scale(X), y, cv=5)
    hoag(problems, step=roughly_and_accurately)
    assert max(ratios) < 5.0  # an estimate, which had been off by 11 to 14 times


def test_a_start_that_is_far_too_weak_is_left_soon():
    """Pixels from 0 to 16, by whose penalty of 1 a class is told from others by every detail."""
    X, y = load_digits(return_X_y=True)
    problems = fold_problems(LogisticRegression(), X, y, cv=5)
    result = hoag(problems, tol=2e-2)
    assert result.outcome is Outcome.CONVERGED
    assert result.theta[0] > 2.0
    at_start = sum(r["data_passes"] for r in result.history if r["theta"] == 0.0)
    assert at_start < 100  # a solve that decides by values takes half as many again


def test_a_start_is_solved_only_until_it_is_told_from_the_result():
    X, y = load_digits(return_X_y=True)
    start = np.zeros(1)

    def leaves_at_once(theta, *arguments, **options):
        rough = yield Ask(start, relative=0.01)
        better = yield Ask(start - 0.1, 1e-4)
        assert better.value < rough.value
        assert better.value > rough.value - 2.0 * rough.error  # it is not known to be lower
        return Outcome.CONVERGED

    cv = StratifiedKFold(5, shuffle=True, random_state=0)
    result = hoag(fold_problems(LogisticRegression(), scale(X), y, cv=cv), step=leaves_at_once)
    first, last = result.history
    assert result.best_index == 1
    assert last["error"] < 1e-5 * last["criterion"]
    assert 1e-5 * first["criterion"] < first["error"] < 0.2 * (first["criterion"] - result.value)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_search_in_single_precision_ends_in_double(stopped):
    """It is led by rounded evaluations; the result is none, and what comes after it is not."""
    X, y = load_digits(return_X_y=True)
    problems = fold_problems(LogisticRegression(), scale(X), y, cv=5)
    precise = fold_problems(LogisticRegression(), scale(X), y, cv=5)
    asked = []
    single = problems.evaluate_in_single
    problems.evaluate_in_single = lambda wanted: asked.append(wanted) or single(wanted)
    result = hoag(problems, tol=2e-2, callback=lambda record, solutions: stopped)
    assert asked[0]
    assert not asked[-1]
    assert (result.outcome is Outcome.CALLBACK) == stopped
    theta, ws = result.theta, [solution.w for solution in result.solutions]
    for k, w in enumerate(ws):
        value, grad = problems[k].value_and_grad(w, theta)
        wanted, wanted_grad = precise[k].value_and_grad(w, theta)
        assert value == pytest.approx(wanted, rel=1e-13)
        np.testing.assert_allclose(grad, wanted_grad, atol=1e-11 * np.abs(w).max())
        if not stopped:
            np.testing.assert_allclose(result.solutions[k].grad, wanted_grad, atol=1e-8)


def test_theta_is_left_as_it_was():
    theta = np.array([5.0])
    theta.flags.writeable = False
    hoag(quadratic_with_minimum_at(0.7), theta)
    np.testing.assert_array_equal(theta, [5.0])


def test_it_is_what_shinecv_solves():
    X, y = breast_cancer()
    problems = fold_problems(LogisticRegression(), X, y, cv=4)
    assert len(problems) == 4
    result = hoag(problems, hypergradient="cg")
    assert result.outcome is Outcome.CONVERGED


# --- bad arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": "newton"}, "step must be"),
        ({"tolerance": "linear"}, "tolerance must be one of .*'adjoint'"),
        ({"tolerance": None}, "tolerance must be one of"),
        ({"hypergradient": "bfgs"}, "hypergradient must be one of"),
        ({"bounds": (1.0, -1.0)}, "bounds must be finite and increasing"),
        ({"bounds": (1.0, 1.0)}, "bounds must be finite and increasing"),
        ({"bounds": (-np.inf, 1.0)}, "bounds must be finite and increasing"),
        ({"bounds": (0.0, np.nan)}, "bounds must be finite and increasing"),
        ({"theta": [1.0, 2.0]}, "theta must hold 1 finite"),
        ({"theta": np.nan}, "theta must hold 1 finite"),
        ({"theta": [np.inf]}, "theta must hold 1 finite"),
        ({"step": ["secant"]}, "step must be"),
        ({"bounds": (1.0, 2.0, 3.0)}, "bounds must be a pair"),
        ({"bounds": 3.0}, "bounds must be a pair"),
        ({"bounds": ("a", "b")}, "bounds must be a pair"),
        ({"bounds": ([0.0, 1.0], [2.0, 3.0])}, "bounds must be a pair"),
        ({"memory": 0}, "memory must be at least 1"),
        ({"max_iter": 0}, "max_iter must be at least 1"),
        ({"max_iter": 2.5}, "max_iter must be a positive integer"),
        ({"max_inner_iter": 0}, "max_inner_iter must be at least 1"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"tol": np.nan}, "tol must be positive"),
        ({"tol": None}, "tol must be a positive number"),
        ({"shrinkage": "small"}, "shrinkage must be a positive number"),
        ({"selection": "best"}, "selection must be 'min' or 'one-se', got 'best'"),
        ({"shrinkage": -1.0}, "shrinkage must be at least 0"),
        ({"hypergradient": lambda adjoint: None}, "hypergradient must return a Hyper"),
        (
            {"hypergradient": lambda adjoint: Hypergradient(np.zeros(3))},
            r"hypergradient must return a q of shape \(12,\), got \(3,\)",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        hoag(quadratic_with_minimum_at(0.7), **arguments)


@pytest.mark.parametrize("problem", [3, None, [quadratic_with_minimum_at(0.7)]])
def test_a_problem_is_needed(problem):
    with pytest.raises(TypeError, match="problem must be a Problem or a ProblemSet"):
        hoag(problem)


def test_several_hyperparameters_cannot_be_searched_by_secants():
    with pytest.raises(ValueError, match="step='secant' tunes one hyperparameter"):
        hoag(quadratic_with_minimum_at([0.0, 1.0]), step="secant")


@pytest.mark.parametrize("tolerance", ["quadratic", "cubic", "exponential", lambda k: 0.1 / k**2])
def test_a_schedule_comes_with_hoags_own_step(tolerance):
    """Its loose first derivatives would send a search the wrong way for good."""
    X, y = load_breast_cancer(return_X_y=True)
    problems = fold_problems(LogisticRegression(), scale(X), y, cv=5)
    best = hoag(problems, [2.0], hypergradient="cg").value
    result = hoag(problems, [2.0], hypergradient="cg", tolerance=tolerance, max_iter=500, memory=10)
    assert result.value <= 1.001 * best


def test_a_second_search_of_the_same_problems_is_the_same():
    """What looks may cost is a share of this search's passes, whatever others have spent."""
    rng = np.random.default_rng(0)
    X = sparse.random(2000, 1500, density=0.1, random_state=0, format="csr")
    y = (X @ rng.standard_normal(1500) + 5.0 * rng.standard_normal(2000) > 0.0).astype(int)
    problems = fold_problems(LogisticRegression(), X, y, cv=3)
    assert problems.direct is None
    searches = [[record["theta"][0] for record in hoag(problems).history] for _ in range(4)]
    for other in searches[1:]:
        np.testing.assert_allclose(other, searches[0], rtol=1e-6)


@pytest.mark.parametrize("n_iter", [0, 1])
def test_an_inner_solver_that_gets_nowhere_ends(n_iter):
    """Whether or not it counts its idle iterations."""

    def idle(start, *, tol, max_iter, **hints):
        return replace(start, n_iter=n_iter, status=Status.MAX_ITER)
        yield

    problems = ProblemSet(list(make_case("logistic").problems))
    with pytest.warns(ConvergenceWarning, match="inner problems are not solved"):
        result = hoag(problems, inner_solver=idle, max_inner_iter=5)
    assert sum(record["inner_iterations"] for record in result.history) <= 4 * 5


def test_a_change_that_is_not_a_number_is_infinite():
    """A maximum of errors would pass over it."""
    iterates = SimpleNamespace(outer_grads=[np.ones(2), np.full(2, np.nan)])
    solution = SimpleNamespace(grad=np.ones(2), inverse_hessian=np.eye(2))
    adjoints = SimpleNamespace(weights=[np.ones(2)] * 2, iterates=iterates)
    state = InnerState(np.zeros(1), SimpleNamespace(solutions=[solution] * 2), adjoints=adjoints)
    np.testing.assert_allclose(state.largest_changes, [2.0, np.inf])
