"""The inverse-Hessian operator against its definition, written out with dense matrices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator

from hoag_shine import InverseHessian
from hoag_shine.linalg.costs import LONG_VECTOR_NUMBERS


def dense_estimate(pairs, diagonal=None):
    """Return B from its recursion, oldest pair first; ``diagonal`` is that of the Hessian.

    B_0 = gamma D^-1, where gamma makes the newest pair's secant equation hold in the least-squares
    sense of D (Nocedal and Wright, 2nd ed., equation 7.20, for D = I). D is the power 2/3 of the
    diagonal.
    """
    n = pairs[-1][0].size
    D_inv = np.eye(n) if diagonal is None else np.diag(diagonal ** (-2 / 3))
    s, y = pairs[-1]
    B = (s @ y) / (y @ D_inv @ y) * D_inv
    for s, y in pairs:
        rho = 1 / (y @ s)
        V = np.eye(n) - rho * np.outer(y, s)
        B = V.T @ B @ V + rho * np.outer(s, s)
    return B


def random_hessian(rng, n):
    M = rng.normal(size=(n, n))
    return M @ M.T / n + 0.1 * np.eye(n)


def filled(rng, n, count, *, memory=30, h=None, diagonal=None):
    """Return an operator with ``count`` pairs of a quadratic, and all these pairs."""
    A = random_hessian(rng, n)
    h = np.zeros(n) if h is None else h
    B = InverseHessian(n, memory, penalty_hessian=h, data_diagonal=diagonal)
    steps = rng.normal(size=(count, n))
    assert all(B.append(s, A @ s + h * s) for s in steps)
    return B, A, steps


def test_without_pairs_it_is_its_initial_matrix():
    rng = np.random.default_rng(0)
    v, d, h = rng.random((3, 5)) + 0.1
    np.testing.assert_array_equal(InverseHessian(5) @ v, v)
    scaled = InverseHessian(5, penalty_hessian=h, data_diagonal=d)
    middle = np.median(d + h)  # the variable whose scale is that of its curvature
    np.testing.assert_allclose(scaled @ v, v / middle * (middle / (d + h)) ** (2 / 3), rtol=1e-14)


def test_a_variable_without_any_curvature_counts_as_one_of_curvature_one():
    h, d = np.zeros(3), np.array([8.0, 0.0, 1.0])
    B = InverseHessian(3, penalty_hessian=h, data_diagonal=d)
    np.testing.assert_allclose(B.diagonal, [0.25, 1.0, 1.0], rtol=1e-14)


def test_the_initial_matrix_may_have_the_median_of_the_lengths_that_pairs_ask_for():
    rng = np.random.default_rng(1)
    d = rng.random(6) + 0.1
    B, A, steps = filled(rng, 6, 5, diagonal=d)
    shape = d ** (-2 / 3)
    lengths = [s @ A @ s / ((A @ s) @ (shape * (A @ s))) for s in steps]
    np.testing.assert_allclose(B.diagonal, lengths[-1] * shape, rtol=1e-12)
    B.use_median_scale()
    np.testing.assert_allclose(B.diagonal, np.median(lengths) * shape, rtol=1e-12)
    s, y = B.s[-1], B.y[-1]
    np.testing.assert_allclose(B @ y, s, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("with_diagonal", [False, True])
@pytest.mark.parametrize("count", [1, 4, 5, 6, 17])
def test_it_equals_the_dense_recursion_over_the_newest_pairs(count, with_diagonal):
    rng = np.random.default_rng(count)
    n, memory = 7, 5
    h, d = rng.random((2, n)) + 0.1
    B, A, steps = filled(rng, n, count, memory=memory, h=h, diagonal=d if with_diagonal else None)
    pairs = [(s, A @ s + h * s) for s in steps[-memory:]]
    expected = dense_estimate(pairs, d + h if with_diagonal else None)
    assert B.n_pairs == min(count, memory)
    np.testing.assert_allclose(B.todense(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("count", [3, 5, 6, 14])
def test_pairs_stand_in_time_order_however_often_the_memory_wraps(count):
    rng = np.random.default_rng(1)
    B, A, steps = filled(rng, 6, count, memory=5)
    np.testing.assert_array_equal(B.s, steps[-5:])
    np.testing.assert_allclose(B.y, steps[-5:] @ A, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("with_diagonal", [False, True])
def test_the_newest_pair_satisfies_the_secant_equation(with_diagonal):
    rng = np.random.default_rng(2)
    n = 40
    h = rng.random(n)
    diagonal = rng.random(n) + 0.1 if with_diagonal else None
    B = InverseHessian(n, 10, penalty_hessian=h, data_diagonal=diagonal)
    A = random_hessian(rng, n)
    for _ in range(25):
        s = rng.normal(size=n)
        y = A @ s + h * s
        assert B.append(s, y)
        np.testing.assert_allclose(B @ y, s, rtol=0, atol=1e-12 * np.linalg.norm(s))


@pytest.mark.parametrize("with_diagonal", [False, True])
def test_a_change_of_penalty_is_exact(with_diagonal):
    rng = np.random.default_rng(4)
    n, memory = 8, 5
    old, new, d = rng.random((3, n)) * np.array([[1.0], [30.0], [1.0]]) + 0.01
    diagonal = d if with_diagonal else None
    B, A, steps = filled(rng, n, 13, memory=memory, h=old, diagonal=diagonal)

    B.set_penalty(new)

    kept = steps[-memory:]
    np.testing.assert_allclose(B.y, kept @ A + new * kept, rtol=1e-10, atol=1e-12)
    fresh = InverseHessian(n, memory, penalty_hessian=new, data_diagonal=diagonal)
    for s in kept:
        fresh.append(s, A @ s + new * s)
    np.testing.assert_allclose(B.todense(), fresh.todense(), rtol=1e-10, atol=1e-12)
    y = A @ kept[-1] + new * kept[-1]
    np.testing.assert_allclose(B @ y, kept[-1], atol=1e-12 * np.linalg.norm(kept[-1]))


def test_pairs_appended_after_a_change_of_penalty_join_the_older_ones():
    rng = np.random.default_rng(5)
    n = 6
    old, new = rng.random((2, n)) + 0.1
    B, A, steps = filled(rng, n, 3, memory=4, h=old)
    B.set_penalty(new)
    more = rng.normal(size=(2, n))
    for s in more:
        B.append(s, A @ s + new * s)
    B.set_penalty(old)
    pairs = [(s, A @ s + old * s) for s in np.vstack([steps, more])[-4:]]
    np.testing.assert_allclose(B.todense(), dense_estimate(pairs), rtol=1e-9, atol=1e-12)


def test_no_penalty_is_a_penalty_of_zero():
    rng = np.random.default_rng(6)
    B, A, steps = filled(rng, 5, 3, h=np.ones(5))
    B.set_penalty(None)
    pairs = [(s, A @ s) for s in steps]
    np.testing.assert_allclose(B.todense(), dense_estimate(pairs), rtol=1e-10)


@pytest.mark.parametrize(
    "y",
    [
        [-1.0, -2.0, -3.0, -4.0],
        [1.0, -1.0, 1.0, -1.0],  # orthogonal to s
        [1e8, -1e8, 1e8, 1e-7 - 1e8],  # orthogonal up to rounding
        [0.0, 0.0, 0.0, 0.0],
        [1.0, 1.0, 1.0, np.nan],
        [1.0, 1.0, 1.0, np.inf],
    ],
)
@pytest.mark.parametrize("count", [0, 2, 3, 5])
def test_a_pair_without_positive_curvature_changes_nothing(y, count):
    B, _, _ = filled(np.random.default_rng(8), 4, count, memory=3)
    before, pairs = B.todense(), B.n_pairs
    assert not B.append(np.ones(4), np.array(y))
    assert B.n_pairs == pairs
    np.testing.assert_array_equal(B.todense(), before)


def test_a_pair_whose_curvature_has_no_reciprocal_is_not_kept():
    B = InverseHessian(2)
    assert not B.append(np.array([1e-160, 0.0]), np.array([1e-150, 0.0]))
    assert B.append(np.array([1e-150, 0.0]), np.array([1e-150, 0.0]))
    assert np.isfinite(B @ np.ones(2)).all()


def test_a_pair_that_loses_its_curvature_is_passed_over_until_it_is_back():
    strong, weak = np.ones(4), np.full(4, 0.1)
    B, A, steps = filled(np.random.default_rng(9), 4, 2, h=strong)
    s = np.array([1.0, -2.0, 0.0, 1.0])
    assert B.append(s, -0.5 * s + strong * s)  # the data term bends down along s
    before = B.todense()

    B.set_penalty(weak)
    expected = dense_estimate([(s, A @ s + weak * s) for s in steps])
    np.testing.assert_allclose(B.todense(), expected, rtol=1e-10, atol=1e-13)

    B.set_penalty(strong)
    np.testing.assert_allclose(B.todense(), before, rtol=1e-12, atol=1e-14)


def test_a_copy_lives_on_its_own():
    rng = np.random.default_rng(10)
    B, A, steps = filled(rng, 5, 4, memory=3, h=np.ones(5), diagonal=np.ones(5))
    twin = B.copy()
    before = B.todense()
    np.testing.assert_array_equal(twin.todense(), before)
    twin.append(steps[0], A @ steps[0] + steps[0])
    twin.set_penalty(np.full(5, 9.0))
    np.testing.assert_array_equal(B.todense(), before)
    changed = twin.todense()
    B.append(steps[1], A @ steps[1] + steps[1])
    np.testing.assert_array_equal(twin.todense(), changed)


def test_it_is_a_scipy_linear_operator():
    rng = np.random.default_rng(11)
    B, _, _ = filled(rng, 6, 4)
    dense = B.todense()
    V = rng.normal(size=(6, 3))
    assert isinstance(B, LinearOperator)
    assert B.shape == (6, 6)
    assert B.dtype == np.float64
    np.testing.assert_allclose(B @ V, dense @ V, rtol=1e-12)
    np.testing.assert_allclose(B.T @ V[:, 0], dense.T @ V[:, 0], rtol=1e-12)
    np.testing.assert_allclose(B.rmatvec(V[:, 0]), dense.T @ V[:, 0], rtol=1e-12)
    np.testing.assert_allclose((2.0 * B) @ V[:, 0], 2.0 * dense @ V[:, 0], rtol=1e-12)
    assert "4 of 30 pairs" in repr(B)


def test_what_it_is_applied_to_is_not_changed():
    B, _, _ = filled(np.random.default_rng(12), 4, 3)
    v = np.arange(4)  # integers, at that
    np.testing.assert_allclose(B @ v, B.todense() @ v, rtol=1e-12)
    np.testing.assert_array_equal(v, np.arange(4))
    s, y = np.ones(4), np.full(4, 2.0)
    B.append(s, y)
    before = B.todense()
    s[:], y[:] = 7.0, 7.0
    np.testing.assert_array_equal(B.todense(), before)


@pytest.mark.parametrize("memory", [0, -1])
def test_it_needs_room_for_a_pair(memory):
    with pytest.raises(ValueError, match="memory must be at least 1"):
        InverseHessian(3, memory)


def diagonal_quadratic(n, memory, count, scale=1.0):
    """Return an operator of long vectors with pairs of a diagonal Hessian, its h and diagonal."""
    rng = np.random.default_rng(13)
    a, h, d = np.exp(rng.normal(size=(3, n)))
    B = InverseHessian(n, memory, penalty_hessian=h, data_diagonal=d)
    for s in scale * rng.normal(size=(count, n)) * np.exp(rng.normal(size=n)):
        assert B.append(s, (a + h) * s)
    return B, a, h, d


def apply_recursion(pairs, B_0, v):
    """Return the product with the estimate by its definition, from the newest pair inwards."""
    if not pairs:
        return B_0 * v
    *older, (s, y) = pairs
    rho = 1 / (s @ y)
    inner = apply_recursion(older, B_0, v - rho * (s @ v) * y)
    return inner - rho * (y @ inner) * s + rho * (s @ v) * s


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
def test_long_pairs_are_rounded_and_the_estimate_is_theirs(scale):
    n, memory = LONG_VECTOR_NUMBERS + 7, 4
    B, a, h, d = diagonal_quadratic(n, memory, 6, scale)
    v = np.random.default_rng(14).normal(size=n)
    for new in (h, 20.0 * h, h):
        B.set_penalty(new)
        pairs = list(zip(B.s, B.y, strict=True))
        for s, y in pairs:
            size = np.linalg.norm((a + new) * s)
            np.testing.assert_allclose(y, (a + new) * s, rtol=3e-3, atol=1e-8 * size)
        s, y = pairs[-1]
        shape = (d + new) ** (-2 / 3)
        expected = apply_recursion(pairs, (s @ y) / (y @ (shape * y)) * shape, v)
        np.testing.assert_allclose(B @ v, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        np.testing.assert_allclose(B @ y, s, rtol=0, atol=1e-12 * np.linalg.norm(s))
        assert (B @ v) @ v > 0.0


@pytest.mark.parametrize(("n", "size"), [(LONG_VECTOR_NUMBERS - 1, 8), (LONG_VECTOR_NUMBERS, 2)])
def test_it_tells_the_memory_of_its_pairs(n, size):
    assert InverseHessian(n, 20).nbytes == 3 * 21 * n * size


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_a_long_pair_that_is_not_finite_changes_nothing(bad):
    B, a, h, _ = diagonal_quadratic(LONG_VECTOR_NUMBERS, 3, 3)
    v = np.ones(LONG_VECTOR_NUMBERS)
    before = B @ v
    third = np.arange(v.size) == 3
    for s, y in ((v, bad * v), (bad * v, v), (v, np.where(third, bad, 1.0))):
        assert not B.append(s, y)
    np.testing.assert_array_equal(B @ v, before)
    assert B.append(v, (a + h) * v)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 6),
    memory=st.integers(1, 5),
    count=st.integers(1, 12),
    strengths=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4),
    with_diagonal=st.booleans(),
)
def test_whatever_the_pairs_and_penalties(seed, n, memory, count, strengths, with_diagonal):
    """Pairs come at changing penalties; at each, B is symmetric, positive and the recursion's."""
    rng = np.random.default_rng(seed)
    A = random_hessian(rng, n)
    diagonal = np.diag(A).copy() if with_diagonal else None
    B = InverseHessian(n, memory, data_diagonal=diagonal)
    steps = []
    for i in range(count):
        h = strengths[i % len(strengths)] * rng.random(n)
        B.set_penalty(h)
        steps.append(rng.normal(size=n))
        assert B.append(steps[-1], A @ steps[-1] + h * steps[-1])

        dense = B.todense()
        pairs = [(s, A @ s + h * s) for s in steps[-memory:]]
        expected = dense_estimate(pairs, diagonal + h if with_diagonal else None)
        size = np.abs(expected).max()
        np.testing.assert_allclose(dense, expected, rtol=0, atol=1e-8 * size)
        np.testing.assert_allclose(dense, dense.T, rtol=0, atol=1e-10 * size)
        np.linalg.cholesky(dense + dense.T)
        s, y = pairs[-1]
        np.testing.assert_allclose(B @ y, s, rtol=0, atol=1e-8 * np.linalg.norm(s))
