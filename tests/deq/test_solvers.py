from functools import partial

import pytest
import torch
from deq.problems import broyden_by_the_book, linear_problem, tanh_problem

from hoag_shine.deq import SOLVERS, FlatMap, Layout, LowRank, Status, Stopping, fixed_point
from hoag_shine.deq.solvers import adjoint_broyden, anderson, broyden, picard


def solve(solver, f, z0, *inputs, outer_grad=None, **stopping):
    flat = FlatMap(f, Layout.of(z0), inputs, outer_grad)
    with torch.no_grad():
        return solver(flat, z0, Stopping(**stopping))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_every_solver_finds_the_solution(name, mode):
    f, x, solution, _ = linear_problem()
    found = solve(SOLVERS[name], f, torch.zeros_like(x), x, max_iter=200, tol=1e-10, mode=mode)
    assert (found.status == Status.CONVERGED).all()
    torch.testing.assert_close(found.z, solution, rtol=1e-7, atol=1e-7)
    residual = (found.z - f(found.z, x)).norm(dim=1)
    torch.testing.assert_close(found.residual, residual, rtol=1e-3, atol=1e-13)
    relative = residual / f(found.z, x).norm(dim=1)
    torch.testing.assert_close(found.relative_residual, relative, rtol=1e-3, atol=1e-13)


@pytest.mark.parametrize("damping", [1.0, 0.5])
def test_picard_is_damped(damping):
    f, x, _W = tanh_problem()
    found = solve(partial(picard, damping=damping), f, x, x, max_iter=4, tol=0)
    z = x
    for _ in range(4):
        z = (1 - damping) * z + damping * f(z, x)
    torch.testing.assert_close(found.z, z)


def test_anderson_on_a_linear_problem_is_gmres():
    # With full memory, after k + 1 steps it stands one Picard step behind the k-th GMRES iterate
    # (Walker and Ni, 2011), here found by dense least squares in the Krylov space.
    f, x, _, inverse = linear_problem(batch=1, n=8)
    A = torch.linalg.inv(inverse)
    k = 4
    krylov = torch.stack([torch.linalg.matrix_power(A, i) @ x[0] for i in range(k)], dim=1)
    z = krylov @ torch.linalg.lstsq(A @ krylov, x[0]).solution
    anderson_k = partial(anderson, memory=20, regularization=0.0)
    found = solve(anderson_k, f, torch.zeros_like(x), x, max_iter=k + 1, tol=0)
    torch.testing.assert_close(found.z[0], f(z[None], x)[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n_steps", [1, 3, 6])
def test_broyden_is_the_textbook_method(n_steps):
    f, x, _ = tanh_problem()
    found = solve(broyden, f, torch.zeros_like(x), x, max_iter=n_steps, tol=0)
    for i in range(len(x)):
        zs, Bs = broyden_by_the_book(lambda z, i=i: z - f(z, x[i]), torch.zeros_like(x[i]), n_steps)
        best = int(found.n_steps[i])
        torch.testing.assert_close(found.z[i], zs[best])
        torch.testing.assert_close(found.inverse_jacobian.dense()[i], Bs[best])


def growing_residual(z, x):
    """Contracts near x and expands elsewhere, so that residuals go up and down."""
    return x + torch.sin(3 * (z - x)) * 0.8


@pytest.mark.parametrize("solver", [broyden, adjoint_broyden])
def test_factors_belong_to_the_chosen_iterate(solver):
    """A run that is stopped at the chosen iterate has the same factors."""
    x = torch.randn(16, 4, dtype=torch.float64)
    start = x + 1.5 * torch.randn_like(x)
    found = solve(solver, growing_residual, start, x, max_iter=7, tol=0)
    early = found.n_steps < 7
    assert early.any()
    for i in early.nonzero().ravel().tolist():
        steps = int(found.n_steps[i])
        if steps == 0:
            expected = torch.eye(4, dtype=torch.float64)
        else:
            again = solve(
                solver, growing_residual, start[i : i + 1], x[i : i + 1], max_iter=steps, tol=0
            )
            assert int(again.n_steps[0]) == steps
            expected = again.inverse_jacobian.dense()[0]
        torch.testing.assert_close(found.inverse_jacobian.dense()[i], expected)


@pytest.mark.parametrize(
    ("memory", "damping"), [(1, 1), (2, 1), (3, 1), (5, 1), (2, 0.4), (5, 0.4)]
)
def test_broyden_keeps_the_secant_equation_and_the_memory(memory, damping):
    f, x, _ = tanh_problem(norm=0.5)
    iterates = []

    def recorded(z, x):
        iterates.append(z.clone())
        return f(z, x)

    limited = partial(broyden, memory=memory, damping=damping)
    found = solve(limited, recorded, torch.zeros_like(x), x, max_iter=9, tol=0)
    assert found.inverse_jacobian.rank <= memory
    for i, last in enumerate(found.n_steps.tolist()):
        if last % (memory + 1) == 0:
            continue  # found where the memory was full: the last pair had no room
        new, old = iterates[last][i], iterates[last - 1][i]
        y = (new - f(new, x[i])) - (old - f(old, x[i]))
        product = found.inverse_jacobian.matvec(y.expand_as(x))[i]
        torch.testing.assert_close(product, new - old)


def test_damped_broyden_solves_a_stiff_layer():
    """The derivatives of f are as large as 30: a step by the identity goes thirty times too far."""
    basis = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0]
    weight = basis * torch.linspace(0, 30, 40, dtype=torch.float64) @ basis.T
    x = torch.randn(4, 40, dtype=torch.float64)
    budget = {"max_iter": 80, "tol": 1e-6}
    found = {
        damping: solve(
            partial(broyden, damping=damping),
            lambda z, x: x - torch.tanh(z) @ weight,
            torch.zeros_like(x),
            x,
            **budget,
        )
        for damping in (1, 0.1)
    }
    assert not found[1].status.eq(Status.CONVERGED).any()
    assert found[0.1].status.eq(Status.CONVERGED).all()


def test_the_estimate_of_damped_broyden_is_that_of_the_inverse():
    """In one dimension two steps know it all; the identity that it starts from is damped, too."""
    solver, damping = partial(broyden, damping=0.25), 0.25
    x = torch.randn(3, 1, dtype=torch.float64)
    start = solve(solver, lambda z: x - 3 * z, torch.zeros_like(x), max_iter=1, tol=10.0)
    torch.testing.assert_close(start.inverse_jacobian.rmatvec(x), damping * x)
    found = solve(solver, lambda z: x - 2 * z, torch.zeros_like(x), max_iter=3, tol=0)
    torch.testing.assert_close(found.z, x / 3)
    torch.testing.assert_close(found.inverse_jacobian.rmatvec(x), x / 3)
    torch.testing.assert_close(
        found.inverse_jacobian.dense(), torch.full((3, 1, 1), 1 / 3).double()
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_a_batch_may_stop_by_the_norm_of_all(name):
    """At the first step after which that is small enough, for all samples."""
    f, x, _ = tanh_problem()
    x[1] *= 100
    found = solve(SOLVERS[name], f, torch.zeros_like(x), x, max_iter=60, tol=1e-3, mode="batch")
    assert (found.status == Status.CONVERGED).all()
    assert len(set(found.n_steps.tolist())) == 1
    assert found.residual.norm() <= 1e-3
    assert (found.trace[:-1] > 1e-3).all()
    torch.testing.assert_close(found.trace[-1], found.residual.norm().expand(3))


@pytest.mark.parametrize("memory", [2, 3])
def test_adjoint_broyden_with_little_memory(memory):
    f, x, solution, _ = linear_problem(norm=0.5)
    limited = partial(adjoint_broyden, memory=memory)
    found = solve(limited, f, torch.zeros_like(x), x, max_iter=60, tol=1e-9)
    assert found.inverse_jacobian.rank <= memory
    torch.testing.assert_close(found.z, solution, rtol=1e-7, atol=1e-7)


def test_adjoint_broyden_learns_a_linear_problem_exactly():
    f, x, solution, inverse = linear_problem()
    found = solve(adjoint_broyden, f, torch.zeros_like(x), x, max_iter=20, tol=1e-12)
    assert (found.n_steps <= x.shape[1] + 1).all()
    torch.testing.assert_close(found.z, solution)
    torch.testing.assert_close(found.inverse_jacobian.dense(), inverse.expand(3, -1, -1))


def test_opa_makes_the_estimate_exact_for_the_outer_gradient():
    """After an extra pair in the direction B^T grad, B^T (J^T B^T grad) = B^T grad."""
    f, x, _, inverse = linear_problem(batch=4, n=40)
    target = torch.randn(4, 40, dtype=torch.float64)
    plain = solve(adjoint_broyden, f, torch.zeros_like(x), x, max_iter=8, tol=0)
    aware = solve(
        partial(adjoint_broyden, opa_every=2),
        f,
        torch.zeros_like(x),
        x,
        outer_grad=lambda z: target,
        max_iter=8,
        tol=0,
    )

    def error(found):
        return (found.inverse_jacobian.rmatvec(target) - target @ inverse).norm(dim=1)

    assert (error(aware) < 0.7 * error(plain)).all()


def test_opa_needs_the_outer_gradient():
    f, x, _, _ = linear_problem()
    with pytest.raises(ValueError, match="opa_every needs outer_grad"):
        solve(partial(adjoint_broyden, opa_every=2), f, x, x)


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_stop_one_by_one(name):
    """A sample's result does not depend on what it is batched with, or on when one looks."""
    f, x, _ = tanh_problem(batch=4)
    x[0] = 0  # solved at the start
    x[1] *= 10
    together = solve(SOLVERS[name], f, torch.zeros_like(x), x, max_iter=60, tol=1e-6)
    assert together.n_steps[0] == 0
    assert len(together.n_steps.unique()) > 1
    rarely = solve(SOLVERS[name], f, torch.zeros_like(x), x, max_iter=60, tol=1e-6, check_every=7)
    for i in range(4):
        alone = solve(
            SOLVERS[name], f, torch.zeros_like(x[i : i + 1]), x[i : i + 1], max_iter=60, tol=1e-6
        )
        assert alone.n_steps[0] == together.n_steps[i] == rarely.n_steps[i]
        torch.testing.assert_close(alone.z[0], together.z[i])
    # The same operations on the same shapes, and after that steps of zero.
    assert torch.equal(rarely.z, together.z)
    # The same pairs, but multiplied among more that do not count.
    found, expected = rarely.inverse_jacobian, together.inverse_jacobian
    difference = (found.dense() - expected.dense()).abs()
    assert (difference <= rounding(found) + rounding(expected)).all()


def rounding(operator):
    """A bound on the rounding errors of the entries of ``operator.dense()``, in any order of sums.

    A sum of r products has an error of at most r eps times the sum of their sizes (to first order);
    here are two such sums, one after the other, and the addition of the identity.
    """
    sizes = LowRank(operator.left.abs(), operator.right.abs(), operator.core.abs()).dense()
    return (2 * operator.rank + 1) * torch.finfo(sizes.dtype).eps * sizes


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("mode", ["relative", "absolute"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_that_runs_away_has_not_converged(name, mode, dtype):
    """z -> z + 1 has no fixed point, however small 1 is beside z."""
    z0 = torch.zeros(2, 3, dtype=dtype)
    for steps in (5, 9, 18, 60):
        found = solve(SOLVERS[name], lambda z: z + 1, z0, max_iter=steps, tol=1e-4, mode=mode)
        assert not (found.status == Status.CONVERGED).any()
        assert found.z.abs().max() <= 1


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solution_far_from_the_start_is_one(name):
    """Growth counts as far as the residual has fallen: here both by a factor of 100."""
    z0 = torch.zeros(2, 3, dtype=torch.float64)
    found = solve(SOLVERS[name], lambda z: 0.99 * z + 1, z0, max_iter=600, tol=1e-4)
    assert (found.status == Status.CONVERGED).all()
    assert (found.relative_residual <= 1e-4).all()
    torch.testing.assert_close(found.z, torch.full_like(z0, 100), rtol=0.011, atol=0)


def test_adjoint_broyden_keeps_the_determinant():
    """An update that would make the estimate of the Jacobian singular is damped."""
    # From z = 0 the first step learns a Jacobian of g of 1 - 0.999 = 0.001 in every direction.
    found = solve(
        adjoint_broyden, lambda z: 0.999 * z + 1, torch.zeros(1, 4).double(), max_iter=1, tol=0
    )
    determinant = torch.linalg.det(found.inverse_jacobian.dense())
    torch.testing.assert_close(determinant, torch.full_like(determinant, 10.0))


@pytest.mark.parametrize("name", SOLVERS)
def test_divergence_is_flagged_and_contained(name):
    f, x, _ = tanh_problem(batch=3)

    def poisoned(z, x):
        value = f(z, x)
        value[1] = z[1] + torch.exp(z[1] ** 2)  # the residual has no root
        return value

    found = solve(SOLVERS[name], poisoned, torch.zeros_like(x), x, max_iter=60, tol=1e-6)
    assert found.status.tolist() == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    assert torch.isfinite(found.z).all()
    assert torch.isfinite(found.inverse_jacobian.dense()).all()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("after", [0, 3])
def test_nan_is_flagged_and_contained(name, after):
    f, x, _ = tanh_problem(batch=3)
    calls = []

    def poisoned(z, x):
        calls.append(0)
        mask = torch.zeros(3, 1, dtype=x.dtype)
        mask[2] = torch.nan if len(calls) > after else 0
        return f(z, x) + mask

    found = solve(SOLVERS[name], poisoned, torch.zeros_like(x), x, max_iter=60, tol=1e-6)
    assert found.status.tolist() == [Status.CONVERGED, Status.CONVERGED, Status.DIVERGED]
    assert torch.isfinite(found.z).all()
    assert torch.isfinite(found.inverse_jacobian.matvec(x)).all()
    assert torch.isfinite(found.inverse_jacobian.rmatvec(x)).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_a_fixed_budget_never_waits_for_the_device(name, monkeypatch):
    def waits(self):
        raise AssertionError("a tensor's value was asked for")

    f, x, _ = tanh_problem()
    for module in ("execution", "solvers.base"):  # as where reading has a price
        monkeypatch.setattr(f"hoag_shine.deq.{module}.reads_are_free", lambda x: False)
    monkeypatch.setattr(torch.Tensor, "__bool__", waits)
    monkeypatch.setattr(torch.Tensor, "item", waits)
    found = solve(SOLVERS[name], f, torch.zeros_like(x), x, max_iter=6, tol=0)
    monkeypatch.undo()
    assert found.trace.shape == (7, 3)
    assert (found.status == Status.BUDGET).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_without_a_monitor_the_last_iterate_is_the_result(name, monkeypatch):
    """It is that of a solver that looks, where no sample stops before."""
    f, x, _ = tanh_problem(norm=0.5)
    expected = solve(SOLVERS[name], f, torch.zeros_like(x), x, max_iter=5, tol=0)
    assert (expected.n_steps == 5).all()
    monkeypatch.setattr("hoag_shine.deq.solvers.base.Monitor.update", None)
    found = solve(SOLVERS[name], f, torch.zeros_like(x), x, max_iter=5, monitor=False)
    torch.testing.assert_close(found.z, expected.z)
    torch.testing.assert_close(found.residual, expected.residual)
    torch.testing.assert_close(found.relative_residual, expected.relative_residual)
    torch.testing.assert_close(found.inverse_jacobian.dense(), expected.inverse_jacobian.dense())
    assert found.trace.shape == (1, 3)
    assert found.n_steps.tolist() == [5, 5, 5]
    assert (found.status == Status.BUDGET).all()


@pytest.mark.parametrize("solver", [broyden, adjoint_broyden])
@pytest.mark.parametrize("memory", [2, 3, 5])
def test_without_a_monitor_and_with_little_memory(solver, memory):
    f, x, _ = tanh_problem(norm=0.5)
    limited = partial(solver, memory=memory)
    expected = solve(limited, f, torch.zeros_like(x), x, max_iter=6, tol=0)
    found = solve(limited, f, torch.zeros_like(x), x, max_iter=6, monitor=False)
    torch.testing.assert_close(found.inverse_jacobian.dense(), expected.inverse_jacobian.dense())


@pytest.mark.parametrize("name", SOLVERS)
def test_without_a_monitor_what_is_not_finite_is_told_and_contained(name):
    f, x, _ = tanh_problem(batch=3)
    x[1] = torch.inf
    found = solve(SOLVERS[name], f, torch.zeros_like(x), x, max_iter=4, monitor=False)
    assert found.status.tolist() == [Status.BUDGET, Status.DIVERGED, Status.BUDGET]
    assert torch.isfinite(found.z[[0, 2]]).all()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("monitor", [True, False])
def test_iterates_are_kept_as_they_were(name, monitor):
    f, x, _ = tanh_problem(norm=0.5)
    seen = []

    def recorded(z, x):
        seen.append(z.detach().clone())
        return f(z, x)

    options = {"max_iter": 6, "tol": 0, "monitor": monitor, "indexing": (4, 0, 6)}
    found = solve(SOLVERS[name], recorded, torch.zeros_like(x), x, **options)
    for iterate, step in zip(found.iterates, (4, 0, 6), strict=True):
        assert torch.equal(iterate, seen[step])
    early = solve(SOLVERS[name], f, torch.zeros_like(x), x, max_iter=40, tol=1e-2, indexing=(39,))
    torch.testing.assert_close(early.iterates[0], early.z)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(name, batch):
    f, x, _ = tanh_problem(batch=batch)
    found = solve(SOLVERS[name], f, torch.zeros_like(x), x, max_iter=60, tol=1e-8)
    assert found.z.shape == x.shape
    torch.testing.assert_close(found.z, f(found.z, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["broyden", "adjoint-broyden", "anderson"])
def test_a_fixed_point_hit_exactly_needs_no_care(name):
    z0 = torch.randn(2, 3)
    found = solve(SOLVERS[name], lambda z: z0, z0, max_iter=5, tol=0)
    assert torch.equal(found.z, z0)
    assert torch.isfinite(found.inverse_jacobian.dense()).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iter": 0}, "max_iter must be"),
        ({"tol": -1.0}, "tol must be"),
        ({"tol": float("nan")}, "tol must be"),
        ({"tol": "1e-3"}, "tol must be"),
        ({"stop": "rel"}, "stop must be"),
        ({"divergence": 0.5}, "divergence must be"),
        ({"check_every": 0}, "check_every must be"),
        ({"indexing": [3, 19]}, r"from 0 to max_iter=18, got \(3, 19\)"),
        ({"solver": "newton"}, "solver must be one of adjoint-broyden, anderson, broyden, picard"),
        ({"solver": partial(broyden, memory=0)}, "memory must be"),
        ({"solver": partial(adjoint_broyden, memory=0)}, "memory must be"),
        ({"solver": partial(anderson, memory=0), "backward": "implicit"}, "memory must be"),
        ({"solver": partial(anderson, damping=0), "backward": "implicit"}, "damping must be"),
        ({"solver": partial(picard, damping=2), "backward": "implicit"}, "damping must be"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        fixed_point(lambda z: z / 2, torch.ones(2, 3), **options)
