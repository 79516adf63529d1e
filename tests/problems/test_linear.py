"""All folds in one pass against each fold on rows of its own, in textbook formulas."""

import gc
import weakref

import numpy as np
import pytest
from helpers import LAYOUTS, MODELS, breast_cancer, diabetes, finite_difference, make_case, thinned
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold
from sklearn.preprocessing import scale

from hoag_shine import ProblemSet, ShineCV, SquaredLoss, fold_problems
from hoag_shine.linalg.design import BLOCK_BYTES, as_design
from hoag_shine.problems.linear import LinearProblems
from hoag_shine.problems.penalties import GroupedPenalty
from hoag_shine.problems.requests import Evaluate, HessianProduct, Line


def points(case, seed=0):
    """Return a w and a direction for each fold, and a theta."""
    rng = np.random.default_rng(seed)
    p = case.problems[0].n_params
    theta = rng.normal(size=case.problems.n_hyperparameters)
    return rng.normal(size=(len(case.folds), p)) / np.sqrt(p), rng.normal(size=p), theta


every_kind = pytest.mark.parametrize("kind", MODELS)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_intercept = pytest.mark.parametrize("fit_intercept", [True, False])
every_weighting = pytest.mark.parametrize("weighted", [True, False])
every_grouping = pytest.mark.parametrize("n_groups", [1, 3])


@every_grouping
@every_weighting
@every_intercept
@every_layout
@every_kind
def test_every_fold_is_the_problem_of_its_own_rows(kind, layout, fit_intercept, weighted, n_groups):
    case = make_case(
        kind, layout, fit_intercept=fit_intercept, weighted=weighted, n_groups=n_groups
    )
    ws, v, theta = points(case)
    for problem, fold, w in zip(case.problems, case.folds, ws, strict=True):
        value, grad = problem.value_and_grad(w, theta)
        np.testing.assert_allclose(value, fold.value(w, theta), rtol=1e-12)
        np.testing.assert_allclose(grad, fold.grad(w, theta), rtol=1e-10, atol=1e-10)
        H = fold.hessian(w, theta)
        np.testing.assert_allclose(problem.hessp(w, theta)(v), H @ v, rtol=1e-10, atol=1e-9)
        np.testing.assert_allclose(
            problem.data_diagonal(w) + problem.penalty_hessian(theta), np.diag(H), rtol=1e-10
        )
        outer, outer_grad = problem.outer_value_and_grad(w)
        np.testing.assert_allclose(outer, fold.outer(w), rtol=1e-12)
        np.testing.assert_allclose(outer_grad, fold.outer_grad(w), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(problem.penalty_hessian(theta), fold.h(theta), rtol=1e-14)


@every_grouping
@every_layout
@every_kind
def test_derivatives_are_those_of_the_values(kind, layout, n_groups):
    case = make_case(kind, layout, n_groups=n_groups)
    ws, v, theta = points(case)
    problem, w, step = case.problems[1], ws[1], 1e-5
    grad = finite_difference(lambda w: problem.value_and_grad(w, theta)[0], w, step)
    np.testing.assert_allclose(problem.value_and_grad(w, theta)[1], grad, rtol=1e-6, atol=1e-5)
    outer_grad = finite_difference(lambda w: problem.outer_value_and_grad(w)[0], w, step)
    np.testing.assert_allclose(problem.outer_value_and_grad(w)[1], outer_grad, rtol=1e-6, atol=1e-8)
    H = finite_difference(lambda w: problem.value_and_grad(w, theta)[1], w, step)
    np.testing.assert_allclose(problem.hessp(w, theta)(v), H @ v, rtol=1e-6, atol=1e-4)
    cross = finite_difference(lambda t: problem.value_and_grad(w, t)[1], theta, step)
    np.testing.assert_allclose(problem.cross_vjp(w, theta, v), cross.T @ v, rtol=1e-7, atol=1e-8)


def held_out_share(fold):
    """Return the share of all rows that a fold holds out, with a weight."""
    return np.count_nonzero(fold.v) / (fold.s.size + fold.v.size)


@every_layout
@every_kind
def test_one_pass_serves_all_folds(kind, layout):
    case = make_case(kind, layout)
    ws, v, theta = points(case)
    evaluations = case.problems.answer({k: Evaluate(w) for k, w in enumerate(ws)}, theta)
    assert case.problems.n_passes == 1.0
    products = case.problems.answer({k: HessianProduct(w, v) for k, w in enumerate(ws)}, theta)
    assert case.problems.n_passes == 2.0
    outer = case.problems.outer_values_and_grads(list(ws))
    held_out = sum(held_out_share(fold) for fold in case.folds)
    np.testing.assert_allclose(case.problems.n_passes, 2.0 + held_out / 2)
    diagonals = case.problems.data_diagonals(list(ws))
    np.testing.assert_allclose(case.problems.n_passes, 2.5 + held_out / 2)
    for k, (fold, w) in enumerate(zip(case.folds, ws, strict=True)):
        np.testing.assert_allclose(evaluations[k][0], fold.value(w, theta), rtol=1e-12)
        np.testing.assert_allclose(evaluations[k][1], fold.grad(w, theta), rtol=1e-10, atol=1e-10)
        H = fold.hessian(w, theta)
        np.testing.assert_allclose(products[k], H @ v, rtol=1e-10, atol=1e-9)
        np.testing.assert_allclose(outer[k][0], fold.outer(w), rtol=1e-12)
        np.testing.assert_allclose(outer[k][1], fold.outer_grad(w), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(diagonals[k] + fold.h(theta), np.diag(H), rtol=1e-10)


@every_kind
@every_layout
def test_a_third_point_on_a_line_takes_half_a_pass(kind, layout):
    """The way back: its linear predictors follow from those of the other two."""
    case = make_case(kind, layout)
    starts, v, theta = points(case)
    ends = [w + (k + 1) / 3 * v for k, w in enumerate(starts)]
    for ws in (starts, ends):
        case.problems.answer({k: Evaluate(w) for k, w in enumerate(ws)}, theta)
    for share in (0.25, 3.0, 0.5):
        lines = [Line(a, b, share) for a, b in zip(starts, ends, strict=True)]
        ws = [a + share * (b - a) for a, b in zip(starts, ends, strict=True)]
        spent = case.problems.n_passes
        answers = case.problems.answer(
            {k: Evaluate(w, line) for k, (w, line) in enumerate(zip(ws, lines, strict=True))}, theta
        )
        assert case.problems.n_passes == spent + 0.5
        for k, (fold, w) in enumerate(zip(case.folds, ws, strict=True)):
            np.testing.assert_allclose(answers[k][0], fold.value(w, theta), rtol=1e-12)
            grad = fold.grad(w, theta)
            np.testing.assert_allclose(answers[k][1], grad, rtol=1e-10, atol=1e-10)
        ends = ws


def test_predictors_that_are_not_finite_lead_nowhere():
    case = make_case("logistic")
    ws, v, theta = points(case)
    case.problems.answer({k: Evaluate(w) for k, w in enumerate(ws)}, theta)
    with np.errstate(all="ignore"):
        far = [w + 1e308 * v for w in ws]
        case.problems.answer({k: Evaluate(w) for k, w in enumerate(far)}, theta)
        near = {
            k: Evaluate(w, Line(w, b, 0.0)) for k, (w, b) in enumerate(zip(ws, far, strict=True))
        }
        answers = case.problems.answer(near, theta)
    for k, w in enumerate(ws):
        np.testing.assert_allclose(answers[k][0], case.folds[k].value(w, theta), rtol=1e-12)


@every_layout
def test_what_is_said_of_a_line_is_used_only_where_both_points_are_known(layout):
    case = make_case("logistic", layout)
    ws, v, theta = points(case)
    v = v / 3.0
    case.problems.answer({k: Evaluate(w) for k, w in enumerate(ws)}, theta)
    case.problems.answer({k: Evaluate(w + v) for k, w in enumerate(ws)}, theta)
    requests = {
        0: Evaluate(ws[0] + 0.5 * v, Line(ws[0], ws[0] + v, 0.5)),
        1: Evaluate(ws[1] + 2.0 * v),
        2: Evaluate(ws[2] + 0.5 * v, Line(ws[2] - v, ws[2] + 2.0 * v, 0.5)),
    }
    spent = case.problems.n_passes
    answers = case.problems.answer(requests, theta)
    assert case.problems.n_passes == spent + 1.0
    for k, request in requests.items():
        fold = case.folds[k]
        np.testing.assert_allclose(answers[k][0], fold.value(request.w, theta), rtol=1e-12)
        grad = fold.grad(request.w, theta)
        np.testing.assert_allclose(answers[k][1], grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("single", [True, False])
@every_layout
@every_kind
def test_vectors_of_intercepts_alone_join_others(kind, layout, single):
    """Their linear predictors are known without a product with X; the result is the same."""
    case = make_case(kind, layout)
    ws, v, theta = points(case)
    unit = np.zeros_like(v)
    unit[-1] = 1.0
    stacks = {0: [v, unit], 1: [unit, v], 2: [2.0 * v, -v, 3.0 * unit]}
    requests = {k: HessianProduct(ws[k], np.stack(own), single) for k, own in stacks.items()}
    for k, products in case.problems.answer(requests, theta).items():
        expected = np.stack(stacks[k]) @ case.folds[k].hessian(ws[k], theta)
        atol = (1e-5 if single else 1e-10) * np.abs(expected).max()
        np.testing.assert_allclose(products, expected, rtol=0, atol=atol)


@every_kind
@every_layout
def test_products_in_single_precision(kind, layout):
    """To its rounding errors; and in double precision as soon as one fold asks for that."""
    case = make_case(kind, layout)
    ws, v, theta = points(case)
    exact = case.problems.answer({k: HessianProduct(w, v) for k, w in enumerate(ws)}, theta)
    rough = case.problems.answer({k: HessianProduct(w, v, True) for k, w in enumerate(ws)}, theta)
    mixed = case.problems.answer({k: HessianProduct(w, v, k > 0) for k, w in enumerate(ws)}, theta)
    for k, product in exact.items():
        assert rough[k].dtype == np.float64
        np.testing.assert_allclose(rough[k], product, rtol=0, atol=1e-5 * np.abs(product).max())
        np.testing.assert_array_equal(mixed[k], product)


def test_evaluations_in_single_precision():
    """Of many columns; what is kept of them is forgotten when double precision is wanted."""
    X, y = load_digits(return_X_y=True)
    problems = fold_problems(LogisticRegression(), scale(X), y, cv=5)
    rng, theta = np.random.default_rng(0), np.zeros(1)
    requests = {k: Evaluate(0.1 * rng.normal(size=problems[k].n_params)) for k in range(5)}
    ws = [request.w for request in requests.values()]
    exact, outer = problems.answer(requests, theta), problems.outer_values_and_grads(ws)
    assert problems.evaluate_in_single(True)
    for k, request in requests.items():
        shifted = {k: Evaluate(request.w + 1.0)}  # so that nothing is known of the others
        problems.answer(shifted, theta)
    rounded = problems.answer(requests, theta)
    for (value, grad), (wanted, wanted_grad) in zip(rounded.values(), exact.values(), strict=True):
        assert grad.dtype == np.float64
        np.testing.assert_allclose(value, wanted, rtol=1e-5)
        np.testing.assert_allclose(grad, wanted_grad, atol=1e-5 * np.abs(wanted_grad).max())
        assert not np.array_equal(grad, wanted_grad)
    assert not problems.evaluate_in_single(False)
    again = problems.answer(requests, theta)
    for (value, grad), (wanted, wanted_grad) in zip(again.values(), exact.values(), strict=True):
        assert value == wanted
        np.testing.assert_array_equal(grad, wanted_grad)
    for (value, _), (wanted, _) in zip(problems.outer_values_and_grads(ws), outer, strict=True):
        assert value == wanted


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
def test_few_columns_are_evaluated_in_double_precision(convert):
    X, y = breast_cancer()
    assert not fold_problems(LogisticRegression(), convert(X), y, cv=5).evaluate_in_single(True)


@every_layout
def test_some_folds_may_ask_while_others_are_done(layout):
    """Of different things at that, and in any order."""
    case = make_case("logistic", layout, n_folds=4)
    ws, v, theta = points(case)
    answers = case.problems.answer(
        {3: Evaluate(ws[3]), 0: HessianProduct(ws[0], v), 1: Evaluate(ws[1])}, theta
    )
    assert set(answers) == {0, 1, 3}
    for k in (1, 3):
        np.testing.assert_allclose(answers[k][0], case.folds[k].value(ws[k], theta), rtol=1e-12)
        np.testing.assert_allclose(
            answers[k][1], case.folds[k].grad(ws[k], theta), rtol=1e-10, atol=1e-10
        )
    product = case.folds[0].hessian(ws[0], theta) @ v
    np.testing.assert_allclose(answers[0], product, rtol=1e-10, atol=1e-9)


def test_what_is_kept_from_one_call_to_the_next_belongs_to_its_point():
    """Each fold remembers its last linear predictor; another w, changed in place, is another."""
    case = make_case("logistic")
    ws, v, theta = points(case)
    problem, fold = case.problems[0], case.folds[0]
    w = ws[0].copy()
    problem.value_and_grad(w, theta)
    problem.hessp(w, theta)(v)
    case.problems[1].value_and_grad(ws[1], theta)
    w *= -2.0
    np.testing.assert_allclose(problem.outer_value_and_grad(w)[0], fold.outer(w), rtol=1e-12)
    H = fold.hessian(w, theta)
    np.testing.assert_allclose(problem.hessp(w, theta)(v), H @ v, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(
        problem.hessp(ws[0], theta)(v), fold.hessian(ws[0], theta) @ v, rtol=1e-10, atol=1e-9
    )


@every_kind
def test_folds_may_join_those_whose_curvatures_are_known(kind):
    """In any order, with or without lines between that want the memory for other things."""
    case = make_case(kind, "csr", n_folds=3)
    ws, v, theta = points(case)
    for asked in ([0], [0, 1], [2], [0, 2], [1, 0, 2]):
        requests = {k: HessianProduct(ws[k], v) for k in asked}
        for k, product in case.problems.answer(requests, theta).items():
            expected = case.folds[k].hessian(ws[k], theta) @ v
            np.testing.assert_allclose(product, expected, rtol=1e-9, atol=1e-8)
    case.problems.answer({1: Evaluate(ws[1] + v)}, theta)
    case.problems.answer({1: Evaluate(ws[1] + 0.5 * v, Line(ws[1], ws[1] + v, 0.5))}, theta)
    answers = case.problems.answer({k: HessianProduct(ws[k], v) for k in (0, 1)}, theta)
    for k, product in answers.items():
        expected = case.folds[k].hessian(ws[k], theta) @ v
        np.testing.assert_allclose(product, expected, rtol=1e-9, atol=1e-8)


def test_passes_are_counted():
    """One for both products with X, a half for one; a predictor that is known costs nothing.

    Of the rows that the fold does not hold out, the outer loss reads none.
    """
    case = make_case("logistic")
    problem, held_out = case.problems[0], held_out_share(case.folds[0])
    theta, w, v = np.zeros(1), np.full(31, 0.1), np.ones(31)
    costs = []
    for call in (
        lambda: problem.value_and_grad(w, theta),
        lambda: problem.outer_value_and_grad(w),  # w's predictor is known
        lambda: problem.outer_value_and_grad(2 * w),  # and this one is not
        lambda: problem.hessp(2 * w, theta)(v),
        lambda: problem.hessp(2 * w, theta)(v),
        lambda: problem.hessp(w, theta)(v),
        lambda: problem.data_diagonal(w),
        lambda: problem.cross_vjp(w, theta, v),
        lambda: problem.penalty_hessian(theta),
    ):
        before = problem.n_passes
        call()
        costs.append(problem.n_passes - before)
    outer = held_out / 2
    expected = [1.0, outer, outer + 0.5, 1.0, 1.0, 1.5, 0.5, 0.0, 0.0]
    np.testing.assert_allclose(costs, expected, atol=1e-12)


@pytest.fixture
def no_garbage_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_the_data_go_with_the_last_of_the_folds(no_garbage_collection):
    problems = make_case("logistic").problems
    known, fold = weakref.ref(problems), problems[1]
    del problems
    assert fold.value_and_grad(np.zeros(fold.n_params), np.zeros(1))[0] > 0.0
    del fold
    assert known() is None


def test_nothing_large_stays_of_a_search(no_garbage_collection):
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), cv=3)
    clone(search).fit(X, y)  # numba, when it compiles, keeps what calls it
    gc.collect()
    before = {id(o) for o in gc.get_objects()}
    search.fit(X, y)
    del search
    left = [o for o in gc.get_objects() if id(o) not in before]
    ours = {type(o) for o in left if type(o).__module__.startswith("hoag_shine")}
    assert not ours


def test_many_blocks_of_rows_give_what_one_gives():
    """X is read in blocks that fit into a cache; this one has several, and a short last one."""
    rng = np.random.default_rng(0)
    n, p = 12_000, 60
    X = thinned(rng.normal(size=(n, p)))
    y, w, theta = rng.normal(size=n), rng.normal(size=p), np.zeros(1)
    weight = rng.random((n, 1))
    expected_grad = 2 * X.T @ (weight[:, 0] * (X @ w - y)) + 2 * w
    for layout, make in LAYOUTS.items():
        design = as_design(make(X))
        assert len(design.blocks) > 1, layout
        assert design.blocks[-1].stop == n
        assert X[design.blocks[0]].nbytes <= 2 * BLOCK_BYTES
        penalty = GroupedPenalty(np.zeros(p, dtype=np.intp), 2.0)
        problem = LinearProblems(
            make(X), y, SquaredLoss(), penalty, weight, weight, fit_intercept=False
        )[0]
        np.testing.assert_allclose(problem.value_and_grad(w, theta)[1], expected_grad, rtol=1e-9)


# --- kinds of X --------------------------------------------------------------------------------


@every_layout
@every_kind
def test_float32_is_how_x_is_stored_and_not_how_it_is_computed_with(kind, layout):
    case = make_case(kind, layout, dtype=np.float32)
    ws, v, theta = points(case)
    for problem, fold, w in zip(case.problems, case.folds, ws, strict=True):
        assert fold.A.dtype == np.float64
        value, grad = problem.value_and_grad(w, theta)
        np.testing.assert_allclose(value, fold.value(w, theta), rtol=1e-12)
        np.testing.assert_allclose(grad, fold.grad(w, theta), rtol=1e-10, atol=1e-10)
        H = fold.hessian(w, theta)
        np.testing.assert_allclose(problem.hessp(w, theta)(v), H @ v, rtol=1e-10, atol=1e-9)
        np.testing.assert_allclose(problem.data_diagonal(w) + fold.h(theta), np.diag(H), rtol=1e-10)
        np.testing.assert_allclose(
            problem.outer_value_and_grad(w)[1], fold.outer_grad(w), rtol=1e-10, atol=1e-12
        )


def evaluate_everything(X, y, w):
    """Return all that depends on X."""
    problems = fold_problems(Ridge(), X, y, cv=3)
    theta, v = np.zeros(1), np.linspace(-1, 1, w.size)
    return np.concatenate(
        [
            np.concatenate(
                [
                    [problem.value_and_grad(w, theta)[0], problem.outer_value_and_grad(w)[0]],
                    problem.value_and_grad(w, theta)[1],
                    problem.outer_value_and_grad(w)[1],
                    problem.hessp(w, theta)(v),
                    problem.data_diagonal(w),
                ]
            )
            for problem in problems
        ]
    )


def int64_indices(X):
    X = sparse.csr_matrix(X)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def int64_row_pointers(X):
    X = sparse.csr_matrix(X)
    X.indptr = X.indptr.astype(np.int64)
    return X


def unsorted_entries(X):
    X = sparse.csr_matrix(X)
    for i, j in zip(X.indptr, X.indptr[1:], strict=False):
        X.indices[i:j], X.data[i:j] = X.indices[i:j][::-1].copy(), X.data[i:j][::-1].copy()
    X.has_sorted_indices = False
    return X


def duplicate_entries(X):
    """Store every entry in two parts, which the format adds up."""
    X = sparse.csr_matrix(X)
    return sparse.csr_matrix(
        (
            np.column_stack([0.25 * X.data, 0.75 * X.data]).ravel(),
            np.repeat(X.indices, 2),
            2 * X.indptr,
        ),
        shape=X.shape,
    )


def explicit_zeros(X):
    full = sparse.csr_matrix(np.ones_like(X))
    full.data[:] = X.ravel()
    return full


@pytest.mark.parametrize(
    "convert",
    [
        sparse.csr_matrix,
        sparse.csr_array,
        sparse.csc_matrix,
        sparse.coo_array,
        sparse.lil_matrix,
        sparse.dok_matrix,
        sparse.bsr_array,
        int64_indices,
        int64_row_pointers,
        unsorted_entries,
        duplicate_entries,
        explicit_zeros,
        np.asfortranarray,
        lambda X: np.repeat(X, 2, axis=0)[::2],
        lambda X: np.ascontiguousarray(X[:, ::-1])[:, ::-1],
        lambda X: X.tolist(),
    ],
)
def test_every_way_to_hold_a_matrix_gives_the_same(convert):
    X, y = diabetes()
    X = thinned(X)
    w = np.random.default_rng(0).normal(size=11)
    expected = evaluate_everything(X, y, w)
    found = evaluate_everything(convert(X), y, w)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("convert", [np.array, sparse.csr_array])
def test_empty_rows_and_columns_are_like_any_other(convert):
    X, y = diabetes()
    X = thinned(X)
    X[::7], X[:, 4], X[-1], X[:, -1] = 0.0, 0.0, 0.0, 0.0
    w = np.random.default_rng(0).normal(size=11)
    (train, _), *_ = KFold(3).split(X)
    problem = fold_problems(Ridge(), convert(X), y, cv=3)[0]
    residual = X[train] @ w[:-1] + w[-1] - (y - np.median(y))[train]
    value, grad = problem.value_and_grad(w, np.zeros(1))
    np.testing.assert_allclose(value, residual @ residual + w[:-1] @ w[:-1], rtol=1e-12)
    np.testing.assert_allclose(
        grad[:-1], 2 * X[train].T @ residual + 2 * w[:-1], rtol=1e-10, atol=1e-10
    )
    diagonal = problem.data_diagonal(w)
    np.testing.assert_allclose(
        diagonal, np.append(2 * (X[train] ** 2).sum(axis=0), 2 * train.size), rtol=1e-12
    )
    assert diagonal[4] == diagonal[9] == 0.0


def parts(X):
    return (X.data, X.indices, X.indptr) if sparse.issparse(X) else (X,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_layout
def test_x_is_neither_copied_nor_changed_and_may_be_read_only(layout, dtype):
    X, y = breast_cancer()
    X = LAYOUTS[layout](thinned(X).astype(dtype))
    for part in parts(X):
        part.flags.writeable = False
    copies = [part.copy() for part in parts(X)]
    problems = fold_problems(LogisticRegression(), X, y, cv=5)
    design = problems.design
    held = design._csr if layout == "csr" else (design._X,)
    for part, mine in zip(parts(X), held, strict=True):
        assert np.shares_memory(part, mine)
    w = np.ones(31)
    for problem in problems:
        problem.value_and_grad(w, np.zeros(1))
        problem.outer_value_and_grad(w)
        problem.hessp(w, np.zeros(1))(w)
        problem.data_diagonal(w)
    for part, copy in zip(parts(X), copies, strict=True):
        np.testing.assert_array_equal(part, copy)


# --- the penalty, and sets of problems ---------------------------------------------------------


def test_every_group_has_a_penalty_of_its_own():
    penalty = GroupedPenalty(np.array([1, 0, -1, 1, 2]), scale=3.0)
    theta = np.log([2.0, 5.0, 7.0])
    assert penalty.n_groups == 3
    np.testing.assert_allclose(penalty.strength(theta), [15.0, 6.0, 0.0, 15.0, 21.0])
    w, q = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([1.0, -1.0, 9.0, 2.0, 0.5])
    np.testing.assert_allclose(
        penalty.cross_vjp(w, theta, q), [6 * -2.0, 15 * (1.0 + 8.0), 21 * 2.5]
    )


def test_a_set_has_problems_that_share_theta():
    one, three = make_case("squared").problems[0], make_case("squared", n_groups=3).problems[0]
    with pytest.raises(ValueError, match="problems is empty"):
        ProblemSet([])
    with pytest.raises(ValueError, match=r"share theta.*\[1, 3\]"):
        ProblemSet([one, three])


def test_a_plain_set_answers_as_its_members_do():
    cases = [make_case("squared"), make_case("squared", "csr")]
    members = [case.problems[0] for case in cases]
    together = ProblemSet(members)
    ws, v, theta = points(cases[0])
    answers = together.answer({0: Evaluate(ws[0]), 1: HessianProduct(ws[0], v)}, theta)
    fold = cases[0].folds[0]
    np.testing.assert_allclose(answers[0][0], fold.value(ws[0], theta), rtol=1e-12)
    np.testing.assert_allclose(answers[1], fold.hessian(ws[0], theta) @ v, rtol=1e-10)
    assert together.n_passes == sum(member.n_passes for member in members)
    assert len(together) == 2
    assert list(together[:1]) == members[:1]
    with pytest.raises(TypeError, match="not a known request"):
        together.answer({0: "everything"}, theta)
