import copy
import dataclasses
import io
import json
import pickle
from functools import partial
from typing import NamedTuple

import pytest
import torch
from deq.problems import linear_problem, tanh_problem
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hoag_shine.deq import (
    DEQ,
    METHODS,
    SOLVERS,
    Adjoint,
    LowRank,
    fixed_point,
    fixed_point_correction,
    jacobian_penalty,
    restored_options,
    spectral_radius,
    with_fallback,
    with_refinement,
)
from hoag_shine.deq.backward import auto, implicit, phantom, shine, unrolled_phantom
from hoag_shine.deq.backward.conjugate_residuals import ConjugateResiduals
from hoag_shine.deq.solvers import adjoint_broyden, anderson, broyden, picard

TIGHT = {"max_iter": 80, "tol": 1e-13}
EXACT = partial(implicit, tol=1e-13, max_iter=80)


def exact_adjoint(z, f, grad):
    """Dense solves of (I - J^T) u = grad, sample by sample."""
    rows = []
    for i in range(len(z)):
        J = torch.autograd.functional.jacobian(lambda v, i=i: f(v[None], i), z[i])[0]
        rows.append(torch.linalg.solve((torch.eye(len(J)).to(J) - J).T, grad[i]))
    return torch.stack(rows)


def x_gradient(f, x, grad, **options):
    """The gradient of grad . z with respect to x, which is u where f is something plus x."""
    x = x.clone().requires_grad_()
    options = {**TIGHT, "backward": "shine", **options}
    z, info = fixed_point(f, torch.zeros_like(x), x, **options)
    z.backward(grad)
    return x.grad, z.detach(), info


@pytest.mark.parametrize("solver", ["gmres", "broyden", "anderson", "picard"])
def test_gradcheck(solver):
    _, x, W = tanh_problem(norm=0.6)
    backward = partial(implicit, solver=solver, tol=1e-12, max_iter=200)

    def solve(x, W):
        z, _ = fixed_point(
            lambda z, x, W: torch.tanh(z @ W.T) + x,
            torch.zeros_like(x),
            x,
            W,
            backward=backward,
            **TIGHT,
        )
        return z

    assert torch.autograd.gradcheck(solve, (x.requires_grad_(), W.requires_grad_()))


def test_gradcheck_of_nested_tuples():
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    w = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)

    def f(z, x, w):
        image, (vector,) = z
        new_image = torch.tanh(w[0] * image + vector[:, None, :]) + x
        return new_image, [torch.sin(w[1] * vector + 0.3 * image.mean(1))]

    def solve(x, w):
        z0 = (torch.zeros_like(x), [torch.zeros_like(x[:, 0])])
        (image, [vector]), _ = fixed_point(f, z0, x, w, backward=EXACT, **TIGHT)
        return image, vector

    assert torch.autograd.gradcheck(solve, (x, w))


@pytest.mark.parametrize("backward", ["implicit", "shine", "jacobian-free", "phantom"])
def test_refinement_reaches_the_exact_gradient(backward):
    f, x, W = tanh_problem(batch=4)
    grad = torch.randn_like(x)
    gradient, z, info = x_gradient(f, x, grad, backward=backward, refine=6)
    exact = exact_adjoint(z, lambda v, i: torch.tanh(v @ W.T), grad)
    torch.testing.assert_close(gradient, exact)
    assert (info.backward.residual < 1e-8).all()


def test_refinement_does_not_increase_the_residual():
    f, x, _ = tanh_problem(batch=8, n=20)
    grad = torch.randn_like(x)
    residuals = [
        x_gradient(f, x, grad, backward="shine", refine=k)[2].backward.residual for k in (1, 3, 5)
    ]
    first = x_gradient(f, x, grad, backward="shine", fallback="residual")[2].backward.residual
    assert (residuals[0] <= first).all()
    assert (residuals[1] < residuals[0]).all()
    assert (residuals[2] < residuals[1]).all()


def test_gmres_stops_when_its_true_residual_is_there():
    f, x, _, inverse = linear_problem(batch=5, n=30)
    grad = torch.randn_like(x)
    for tol in (1e-1, 1e-3, 1e-6):
        u, _, info = x_gradient(f, x, grad, backward=partial(implicit, tol=tol, max_iter=40))
        true = (grad - u @ torch.linalg.inv(inverse)).norm(dim=1) / grad.norm(dim=1)
        torch.testing.assert_close(info.backward.residual, true, rtol=1e-4, atol=1e-12)
        assert true.max() <= tol
        fewer = partial(implicit, tol=0, max_iter=info.backward.n_vjp - 2)
        assert x_gradient(f, x, grad, backward=fewer)[2].backward.residual.max() > tol


def test_shine_is_exact_once_the_memory_spans_the_space():
    f, x, _, inverse = linear_problem(batch=4)
    grad = torch.randn_like(x)
    gradient, _, info = x_gradient(f, x, grad, solver="adjoint-broyden", backward="shine")
    torch.testing.assert_close(gradient, grad @ inverse)
    assert info.backward.n_vjp == 0


def test_shine_with_broyden_is_exact_in_one_dimension():
    _, x, _ = tanh_problem(batch=5, n=1)
    gradient, _z, _ = x_gradient(lambda z, x: 0.8 * z + x, x, torch.ones_like(x))
    torch.testing.assert_close(gradient, torch.full_like(x, 5.0))


def test_shine_is_the_transposed_estimate():
    f, x, _ = tanh_problem()
    grad = torch.randn_like(x)
    gradient, _, info = x_gradient(f, x, grad, max_iter=4, tol=0)
    dense = info.inverse_jacobian.dense()
    torch.testing.assert_close(gradient, (dense.mT @ grad[:, :, None]).squeeze(2))


def test_jacobian_free_is_the_gradient_of_one_step():
    f, x, W = tanh_problem()
    W = W.requires_grad_()
    z, _ = fixed_point(f, torch.zeros_like(x), x, backward="jacobian-free", **TIGHT)
    (found,) = torch.autograd.grad(z.sum(), W)
    (expected,) = torch.autograd.grad(f(z.detach(), x).sum(), W)
    torch.testing.assert_close(found, expected)


def true_residual(u, inverse, grad):
    return (grad - u @ torch.linalg.inv(inverse)).norm(dim=1) / grad.norm(dim=1)


@pytest.mark.parametrize("solver", ["broyden", "picard", "adjoint-broyden"])
def test_auto_goes_as_far_as_asked(solver):
    f, x, _, inverse = linear_problem(batch=5, n=30)
    grad = torch.randn_like(x)
    products = []
    for tol in (0.9, 1e-1, 1e-3, 1e-6):
        u, _, info = x_gradient(
            f, x, grad, solver=solver, backward=partial(auto, max_iter=40), backward_tol=tol
        )
        torch.testing.assert_close(info.backward.residual, true_residual(u, inverse, grad))
        assert info.backward.residual.max() <= tol
        products.append(info.backward.n_vjp)
    assert products == sorted(products)
    few, _, info = x_gradient(f, x, grad, solver=solver, backward=partial(auto, max_iter=3, tol=0))
    assert info.backward.n_vjp == 3
    assert (true_residual(few, inverse, grad) <= 1).all()


def test_auto_needs_one_product_where_the_shared_estimate_is_right():
    f, x, _, inverse = linear_problem(batch=4)
    grad = torch.randn_like(x)
    gradient, _, info = x_gradient(f, x, grad, solver="adjoint-broyden", backward="auto")
    torch.testing.assert_close(gradient, grad @ inverse)
    assert info.backward.n_vjp == 1
    assert not info.backward.fell_back.any()


def test_auto_takes_the_better_estimate_for_each_sample():
    """The first sample's shared estimate is exact, the second's is across the gradient."""
    f, x, _, inverse = linear_problem(batch=2, norm=0.5)
    grad = torch.randn_like(x)

    def with_estimates(f, z0, stopping):
        found = broyden(f, z0, stopping)
        left = grad @ inverse - grad
        left[1] = torch.randn_like(left[1]) * 100
        right = grad / grad.square().sum(1, keepdim=True)
        estimate = LowRank(right[:, None], left[:, None])
        return dataclasses.replace(found, inverse_jacobian=estimate)

    backward = partial(auto, max_iter=2)
    u, _, info = x_gradient(f, x, grad, solver=with_estimates, backward=backward)
    assert info.backward.fell_back.tolist() == [False, True]
    torch.testing.assert_close(u[0], (grad @ inverse)[0])
    image = grad @ torch.linalg.inv(inverse)
    best = (image * grad).sum(1) / image.square().sum(1)
    torch.testing.assert_close(u[1], (best[:, None] * grad)[1])


def test_auto_does_not_depend_on_the_batch():
    f, x, _ = tanh_problem(batch=6, n=20)
    x[0] *= 30  # where tanh is flat, so that there is little to solve
    grad = torch.randn_like(x)
    together, _, info = x_gradient(f, x, grad, backward="auto", max_iter=6, tol=0)
    assert len({round(r, 6) for r in info.backward.residual.tolist()}) == 6
    for i in range(6):
        part = slice(i, i + 1)
        alone, _, _ = x_gradient(f, x[part], grad[part], backward="auto", max_iter=6, tol=0)
        torch.testing.assert_close(alone, together[part])


class Allocations(TorchDispatchMode):
    """Counts the numbers that operations allocate."""

    numbers = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **kwargs or {})
        held = {x.untyped_storage().data_ptr() for x in tree_leaves(args) if torch.is_tensor(x)}
        for x in tree_leaves(result):
            if torch.is_tensor(x) and x.untyped_storage().data_ptr() not in held:
                self.numbers += x.numel()
        return result


def test_a_direction_more_copies_no_earlier_one():
    n = 1000
    solver = ConjugateResiduals(torch.randn(2, n), capacity=20)
    taken = []
    for _ in range(20):
        direction = torch.randn(2, n)
        with Allocations() as allocations:
            solver.add(direction, 2 * direction)
        taken.append(allocations.numbers)
    assert taken[-1] - taken[4] < 2 * n  # not even one vector for each sample


def test_the_residual_of_every_method_can_be_measured():
    f, x, _, inverse = linear_problem(batch=5, n=30)
    grad = torch.randn_like(x)
    for backward in METHODS:
        for fallback in (None, "residual"):
            options = {"backward": backward, "fallback": fallback, "max_iter": 8, "tol": 0}
            u, _, info = x_gradient(f, x, grad, **options, measure=True)
            expected = true_residual(u, inverse, grad)
            torch.testing.assert_close(info.backward.residual, expected)


@pytest.mark.parametrize("steps", [1, 4])
def test_phantom_is_the_gradient_of_damped_steps(steps):
    f, x, W = tanh_problem()
    W = W.requires_grad_()
    backward = partial(phantom, steps=steps, damping=0.7)
    z, _ = fixed_point(f, torch.zeros_like(x), x, backward=backward, **TIGHT)
    (found,) = torch.autograd.grad(z.sum(), W)
    unrolled = z.detach()
    for _ in range(steps):
        unrolled = 0.3 * unrolled + 0.7 * f(unrolled, x)
    (expected,) = torch.autograd.grad(unrolled.sum(), W)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("steps", [1, 4])
def test_unrolled_phantom_is_the_damped_steps_themselves(steps):
    """Also where the solver has not converged."""
    f, x, W = tanh_problem()
    W = W.requires_grad_()
    backward = partial(unrolled_phantom, steps=steps, damping=0.7)
    z, info = fixed_point(f, torch.zeros_like(x), x, backward=backward, max_iter=3, tol=0)
    expected, _ = fixed_point(
        f, torch.zeros_like(x), x, backward="jacobian-free", max_iter=3, tol=0
    )
    expected = expected.detach()
    for _ in range(steps):
        expected = 0.3 * expected + 0.7 * f(expected, x)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(
        torch.autograd.grad(z.sum(), W), torch.autograd.grad(expected.sum(), W)
    )
    assert info.backward is None


def test_unrolled_phantom_within_torch_func_and_twice():
    x, W = torch.randn(2, 3, 3, dtype=torch.float64)

    def solve(W, x):
        z, _ = fixed_point(
            lambda z, x: torch.tanh(0.2 * z @ W + x),
            torch.zeros_like(x),
            x,
            backward=partial(unrolled_phantom, steps=40, damping=1),
            solver="picard",
            max_iter=40,
            tol=0,
        )
        return z

    def loss(W, x):
        return solve(W, x).square().sum()

    assert torch.autograd.gradcheck(solve, (W.requires_grad_(), x))
    (by_autograd,) = torch.autograd.grad(loss(W, x), W, create_graph=True)
    W = W.detach()
    torch.testing.assert_close(torch.func.grad(loss)(W, x), by_autograd.detach())
    # One sample at a time, as for the gradients of single samples.
    rows = torch.func.vmap(torch.func.grad(lambda W, x: loss(W, x[None])), (None, 0))(W, x)
    torch.testing.assert_close(rows.sum(0), by_autograd.detach())
    with pytest.raises(RuntimeError, match=r"within torch\.func a fixed point needs"):
        torch.func.grad(
            lambda x: fixed_point(lambda z: 0.5 * z + x, torch.zeros_like(x), tol=0)[0].sum()
        )(x)
    hessian = torch.func.jacrev(torch.func.grad(lambda x: loss(W, x[None])))(x[0])
    torch.testing.assert_close(
        hessian, torch.autograd.functional.hessian(lambda x: loss(W, x[None]), x[0])
    )


def test_unrolled_is_autograd_through_picard():
    f, x, W = tanh_problem()
    W = W.requires_grad_()
    z, _ = fixed_point(f, torch.zeros_like(x), x, backward="unrolled", max_iter=5)
    expected = torch.zeros_like(x)
    for _ in range(5):
        expected = f(expected, x)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(
        torch.autograd.grad(z.sum(), W), torch.autograd.grad(expected.sum(), W)
    )


@pytest.mark.parametrize("test", ["residual", "norm-ratio"])
def test_fallback_is_decided_sample_by_sample(test):
    f, x, _ = tanh_problem(batch=3, norm=0.4)
    grad = torch.randn_like(x)

    def partly_bad(linearisation, inverse_jacobian, grad):
        u = shine(linearisation, inverse_jacobian, grad).value.clone()
        u[1] *= 100
        return Adjoint(u)

    backward = with_fallback(partly_bad, test, threshold=10 if test == "norm-ratio" else None)
    gradient, _, info = x_gradient(f, x, grad, backward=backward)
    good = x_gradient(f, x, grad)[0]
    assert info.backward.fell_back.tolist() == [False, True, False]
    assert torch.equal(gradient[1], grad[1])
    torch.testing.assert_close(gradient[[0, 2]], good[[0, 2]])
    assert info.backward.n_vjp == (1 if test == "residual" else 0)


def test_a_method_of_ones_own():
    f, x, _ = tanh_problem()

    def twice(linearisation, inverse_jacobian, grad):
        return Adjoint(2 * grad)

    gradient, _, _ = x_gradient(f, x, torch.ones_like(x), backward=twice)
    torch.testing.assert_close(gradient, torch.full_like(x, 2.0))


@pytest.mark.parametrize("says_so", [True, False])
def test_a_method_of_ones_own_may_make_products(says_so):
    f, x, _, inverse = linear_problem()
    grad = torch.randn_like(x)

    def two_terms(linearisation, inverse_jacobian, grad):
        return Adjoint(grad + linearisation.vjp(grad))

    two_terms.makes_products = says_so
    u, _, info = x_gradient(f, x, grad, backward=two_terms)
    torch.testing.assert_close(u, 2 * grad - grad @ torch.linalg.inv(inverse))  # J = W
    assert info.backward.n_vjp == 1


def test_opa_reaches_the_layer():
    f, x, _, _inverse = linear_problem(batch=2, n=30)
    grad = torch.randn_like(x)
    _, _, info = x_gradient(
        f, x, grad, solver="adjoint-broyden", outer_grad=lambda z: grad, max_iter=10, tol=0
    )
    assert info.inverse_jacobian.rank == 12


def with_estimate(f, z0, stopping):
    return broyden(f, z0, stopping)


def without_estimate(f, z0, stopping):
    return picard(f, z0, stopping)


def test_what_a_solver_of_ones_own_gives_are_its_attributes():
    f, x, _ = tanh_problem()
    z0 = torch.zeros_like(x)
    fixed_point(f, z0, x, solver=with_estimate, backward="shine")
    without_estimate.estimates_inverse = False
    with pytest.raises(ValueError, match="got 'without_estimate'"):
        DEQ(f, solver=without_estimate, backward="shine")
    DEQ(f, solver=without_estimate, backward="implicit")(z0, x)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": partial(broyden, memory=3)},
        {"solver": picard, "backward": "phantom"},
        {"solver": "adjoint-broyden", "backward": "unrolled"},
    ],
)
def test_an_outer_gradient_that_nobody_takes_is_refused(options):
    with pytest.raises(ValueError, match="outer_grad is of use only to a solver that takes it"):
        fixed_point(lambda z: z / 2, torch.ones(2, 3), outer_grad=lambda z: z, **options)


@pytest.mark.parametrize(
    ("solver", "opa"),
    [
        ("adjoint-broyden", False),
        ("adjoint-broyden", True),
        (partial(adjoint_broyden, opa_every=1), True),
    ],
)
def test_no_sample_swamps_a_batch(solver, opa):
    """Far from a solution, where a norm of W of 6 makes f anything but a contraction."""
    x, grad = torch.randn(2, 512, 64)
    W = 3 * torch.randn(64, 64) / 8
    gradient, _, info = x_gradient(
        lambda z, x: torch.tanh(z @ W) + x,
        x,
        grad,
        solver=solver,
        outer_grad=(lambda z: grad) if opa else None,
        max_iter=18,
        tol=1e-4,
    )
    ratio = gradient.norm(dim=1) / grad.norm(dim=1)
    assert not info.converged.all()
    assert ratio[~info.converged].max() <= 5.001
    assert info.backward.fell_back.any()
    assert not (info.backward.fell_back & info.converged).any()
    assert torch.equal(gradient[info.backward.fell_back], grad[info.backward.fell_back])
    assert info.backward.n_vjp == 0


def test_a_sample_that_has_converged_keeps_its_estimate():
    x = torch.ones(2, 1, dtype=torch.float64)
    gradient, _, info = x_gradient(lambda z, x: 0.95 * z + x, x, torch.ones_like(x))
    torch.testing.assert_close(gradient, torch.full_like(x, 20.0))
    assert not info.backward.fell_back.any()
    gradient, _, info = x_gradient(lambda z, x: 0.95 * z + x, x, torch.ones_like(x), tol=0)
    assert info.backward.fell_back.all()
    gradient, _, info = x_gradient(
        lambda z, x: 0.95 * z + x, x, torch.ones_like(x), tol=0, fallback=None
    )
    assert info.backward.fell_back is None
    torch.testing.assert_close(gradient, torch.full_like(x, 20.0))


class Affine(nn.Module):
    """A contraction with a parameter."""

    def __init__(self, n=4):
        super().__init__()
        self.linear = nn.Linear(n, n)
        with torch.no_grad():
            self.linear.weight *= 0.4

    def forward(self, z, x):
        return torch.tanh(self.linear(z)) + x


def test_layer_is_a_module():
    deq = DEQ(Affine(), max_iter=30, tol=1e-6, eval_max_iter=2, eval_tol=0.0)
    assert set(deq.state_dict()) == {"f.linear.weight", "f.linear.bias"}
    x = torch.randn(3, 4)
    z, info = deq(torch.zeros_like(x), x)
    assert info.converged.all()
    z.sum().backward()
    assert all(p.grad is not None for p in deq.parameters())
    assert deq.eval()(torch.zeros_like(x), x)[1].trace.shape[0] == 3
    again = copy.deepcopy(deq).train()(torch.zeros_like(x), x)[0]
    assert torch.equal(again, z)
    assert "solver='broyden'" in repr(deq)
    assert repr(info).startswith("Info(3 samples: 3 converged; at most ")
    assert "rank=" in repr(info.inverse_jacobian)


def test_no_graph_where_none_is_wanted():
    deq = DEQ(Affine())
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert not deq(torch.zeros_like(x), x)[0].requires_grad
    deq.requires_grad_(False)
    assert not deq(torch.zeros_like(x), x)[0].requires_grad


def test_warm_start_is_the_z0_of_the_caller():
    deq = DEQ(Affine(), max_iter=40, tol=1e-5)
    x = torch.randn(3, 4)
    z, _ = deq(torch.zeros_like(x), x)
    warm, info = deq(z, x)
    assert (info.n_steps == 0).all()
    assert warm.requires_grad
    assert torch.equal(warm, z)


@pytest.mark.parametrize(
    "options",
    [
        {"backward": "auto", "backward_tol": 0},
        {"backward": "implicit"},
        {"backward": "phantom"},
        {"backward": "shine", "refine": 2},
        {"backward": "shine", "fallback": "residual"},
        {"backward": "shine", "measure": True},
    ],
    ids=str,
)
def test_products_and_parameters_share_one_graph(options):
    _, x, W = tanh_problem()
    W.requires_grad_()
    recorded = []

    def f(z, x):
        recorded.append(torch.is_grad_enabled())
        return torch.tanh(z @ W.T) + x

    z, info = fixed_point(f, torch.zeros_like(x), x, check_separable=False, **TIGHT, **options)
    z.square().sum().backward()
    assert info.backward.n_vjp > 0
    assert sum(recorded) == 1


@pytest.mark.parametrize("monitor", [True, False])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_result_is_no_memory_of_the_caller(solver, monitor):
    """Though f returns its input, and the start is a fixed point."""
    x = torch.randn(3, 4)
    kept = x.clone()
    for z0 in (x, torch.zeros_like(x)):
        with torch.no_grad():
            z, _ = fixed_point(lambda z: x, z0, solver=solver, max_iter=1, tol=0, monitor=monitor)
        assert torch.equal(z, x)
        z.zero_()
        assert torch.equal(x, kept)


def test_backward_twice_through_one_graph():
    f, x, _ = tanh_problem()
    x.requires_grad_()
    z, _ = fixed_point(f, torch.zeros_like(x), x, backward="implicit", **TIGHT)
    (first,) = torch.autograd.grad(z.sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad(z.sum(), x)
    assert torch.equal(first, second)


@pytest.mark.parametrize("loss", [torch.sum, lambda z: z.square().sum()])
@pytest.mark.parametrize("backward", ["implicit", "shine", "jacobian-free"])
def test_second_derivatives_are_refused(loss, backward):
    """Also where only the graph of f depends on x, as for a loss that is linear in z."""
    _, x, W = tanh_problem()
    x.requires_grad_()
    z, _ = fixed_point(
        lambda z, x: torch.tanh(z @ W.T + x), torch.zeros_like(x), x, backward=backward
    )
    (gradient,) = torch.autograd.grad(loss(z), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives through a DEQ"):
        torch.autograd.grad(gradient.sum(), x)


def test_unrolled_has_second_derivatives():
    def solve(x):
        return fixed_point(
            lambda z, x: torch.tanh(0.5 * z + x),
            torch.zeros_like(x),
            x,
            backward="unrolled",
            max_iter=4,
        )[0]

    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(solve, x)


def test_channels_last_is_kept():
    seen = []

    def f(z, x):
        seen.append(z.is_contiguous(memory_format=torch.channels_last))
        return torch.tanh(z) * 0.5 + x

    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    z, _ = fixed_point(f, torch.zeros_like(x), x)
    assert all(seen)
    assert z.is_contiguous(memory_format=torch.channels_last)
    plain, _ = fixed_point(f, torch.zeros(2, 3, 4, 5), x.contiguous())
    torch.testing.assert_close(z, plain)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("backward", ["implicit", "jacobian-free", "phantom"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_states_are_solved_in_float32(solver, backward, dtype):
    x = torch.randn(4, 6, dtype=dtype, requires_grad=True)
    dtypes = set()

    def f(z, x):
        dtypes.add(z.dtype)
        return 0.5 * torch.tanh(z) + x

    options = {"solver": solver, "backward": backward, "refine": 2, "tol": 1e-2}
    z, info = fixed_point(f, torch.zeros_like(x), x, **options)
    z.sum().backward()
    assert dtypes == {dtype}
    assert z.dtype == x.grad.dtype == dtype
    assert info.residual.dtype == info.inverse_jacobian.left.dtype == torch.float32
    wide = x.detach().double().requires_grad_()
    exact, _ = fixed_point(f, torch.zeros_like(wide), wide, backward=EXACT, **TIGHT)
    exact.sum().backward()
    torch.testing.assert_close(z.double(), exact, rtol=0, atol=0.05)
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=0.05, atol=0.05)


def test_solver_state_in_float64_for_a_float32_state():
    x = torch.randn(4, 6)
    z, info = fixed_point(
        lambda z, x: 0.5 * torch.tanh(z) + x, torch.zeros_like(x), x, state_dtype=torch.float64
    )
    assert z.dtype == torch.float32
    assert info.residual.dtype == torch.float64


def test_f_must_be_callable():
    with pytest.raises(TypeError, match="f must be a module or another callable, got int"):
        DEQ(3)


class Pair(NamedTuple):
    image: torch.Tensor
    vector: torch.Tensor


def test_a_named_tuple_is_handed_on_as_one():
    def f(z):
        return Pair(0.5 * z.image + 1, 0.5 * z.vector)

    z, info = fixed_point(f, Pair(torch.zeros(2, 3, 3), torch.ones(2, 4)))
    assert isinstance(z, Pair)
    assert info.converged.all()
    torch.testing.assert_close(z.image, torch.full((2, 3, 3), 2.0), rtol=1e-3, atol=0)


def test_a_dict_is_a_state_whatever_the_order_that_f_returns_it_in():
    def f(z):
        assert type(z) is dict
        image = 0.5 * z["image"] + z["parts"][0][:, :, None]
        return {"parts": [0.3 * z["parts"][0] + 1], "image": image}

    z0 = {"image": torch.zeros(2, 3, 3), "parts": (torch.ones(2, 3),)}
    z, info = fixed_point(f, z0, tol=1e-6)
    assert info.converged.all()
    torch.testing.assert_close(z["parts"][0], torch.full((2, 3), 1 / 0.7), rtol=1e-4, atol=0)
    torch.testing.assert_close(z["image"], torch.full((2, 3, 3), 2 / 0.7), rtol=1e-4, atol=0)
    for wrong in ({"image": z0["image"]}, {**z0, "more": z0["image"]}, tuple(z0.values())):
        with pytest.raises(TypeError, match=r"nested as z0 is: expected \{'image': 0, 'parts'"):
            fixed_point(lambda z, wrong=wrong: wrong, z0)


def test_keywords_of_f_go_with_partial_and_are_no_other_function():
    calls = []

    def f(z, *, scale):
        calls.append(scale)
        return scale * z + 1

    for scale in (0.5, 0.25):
        z, _ = fixed_point(partial(f, scale=scale), torch.zeros(2, 3), max_iter=3, tol=0)
        torch.testing.assert_close(z, torch.full((2, 3), 1 / (1 - scale)))
    assert calls.count(0.5) == 5 + 1  # samples are found to be separate once
    assert calls.count(0.25) == 5


def test_options_of_a_single_call():
    deq = DEQ(Affine(), max_iter=30, tol=1e-6)
    x = torch.randn(3, 4)
    z0 = torch.zeros_like(x)
    assert deq(z0, x, max_iter=4, tol=0)[1].trace.shape[0] == 5
    assert deq(z0, x, tol=1e-2)[1].n_steps.max() < deq(z0, x)[1].n_steps.max()
    z, info = deq(z0, x, measure=True)
    z.sum().backward()
    assert (info.backward.residual >= 0).all()
    with pytest.raises(ValueError, match="max_iter must be"):
        deq(z0, x, max_iter=0)


def test_inference_mode():
    """Where no product with the Jacobian is needed, it works; elsewhere it says what to do."""
    with torch.inference_mode():
        z0 = torch.zeros(2, 3)
        z, _ = fixed_point(lambda z: 0.5 * z + 1, z0)
        torch.testing.assert_close(z, torch.full((2, 3), 2.0), rtol=1e-3, atol=0)
        for call in (
            lambda: fixed_point(lambda z: 0.5 * z, z0, solver="adjoint-broyden"),
            lambda: spectral_radius(lambda z: 0.5 * z, z0),
            lambda: jacobian_penalty(lambda z: 0.5 * z, z0),
        ):
            with pytest.raises(RuntimeError, match=r"use torch.no_grad\(\)"):
                call()


@pytest.mark.parametrize(
    "backward", ["shine", "implicit", partial(implicit, solver="broyden"), phantom]
)
@pytest.mark.parametrize("within", [False, True])
def test_autocast(backward, within):
    """The solver keeps the state's precision, wherever backward is called."""
    deq = DEQ(Affine(), backward=backward, tol=1e-2)
    x = torch.randn(3, 4)
    (plain,) = torch.autograd.grad(deq(torch.zeros_like(x), x)[0].sum(), deq.f.linear.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, info = deq(torch.zeros_like(x), x)
        if within:
            z.sum().backward()
    if not within:
        z.sum().backward()
    assert z.dtype == info.residual.dtype == torch.float32
    assert info.converged.all()
    torch.testing.assert_close(deq.f.linear.weight.grad, plain, rtol=0.1, atol=0.02)


class Classifier(nn.Module):
    """A DEQ between two other layers."""

    def __init__(self, f, **options):
        super().__init__()
        self.stem, self.deq, self.head = nn.Linear(4, 4), DEQ(f, **options), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        z, _ = self.deq(torch.zeros_like(x), x)
        return self.head(z)


# Within torch.compile, which looks at attributes that it warns of.
warnings_of_torch_compile = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", r"ignore:The \.grad attribute"
)


@warnings_of_torch_compile
@pytest.mark.parametrize("backward", ["shine", "implicit"])
@pytest.mark.parametrize("whole", [False, True])
def test_torch_compile_of_f_and_of_a_whole_model(whole, backward):
    x = torch.randn(3, 4)
    model = Classifier(Affine(), backward=backward)
    expected = model(x)
    wanted = torch.autograd.grad(expected.sum(), list(model.parameters()))
    if whole:
        found = torch.compile(model, backend="aot_eager")(x)
    else:
        model.deq.f = torch.compile(model.deq.f, backend="aot_eager")
        found = model(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), list(model.parameters())), wanted)


@warnings_of_torch_compile
def test_torch_export():
    """The program takes all steps: no sample that has converged moves, so its results are equal."""
    model = Classifier(Affine(), max_iter=5, tol=0.1).eval()
    x = torch.randn(3, 4)
    program = torch.export.export(model, (x,), strict=False).module()
    for images in (x, torch.randn(3, 4)):
        torch.testing.assert_close(program(images), model(images))


@warnings_of_torch_compile
def test_a_layer_is_one_graph_break():
    found = torch._dynamo.explain(Classifier(Affine()))(torch.randn(3, 4))
    assert found.graph_break_count == 1
    assert found.graph_count == 2


def test_memory_is_that_of_the_factors():
    """The graph holds no iterates: what backward keeps does not depend on the budget."""
    x = torch.randn(2, 50)
    module = Affine(50)

    def saved(max_iter, backward):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            deq = DEQ(module, max_iter=max_iter, tol=0, backward=backward, check_separable=False)
            deq(torch.zeros_like(x), x)
        return sum(sizes)

    assert saved(3, "shine") == saved(12, "shine")
    assert saved(3, "implicit") == saved(12, "implicit")
    assert saved(12, "unrolled") > 3 * saved(3, "unrolled")


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda z: z[:, :2], ValueError, r"leaf 0 has shape \(2, 2\) where z0 has \(2, 3\)"),
        (lambda z: z.double(), TypeError, "the output of f must keep the dtype"),
        (lambda z: (z, z), TypeError, "the output of f must be nested as z0 is"),
        (lambda z: None, TypeError, "the output of f must be a tensor"),
        (lambda z: z.mul_(0.5).add_(1), ValueError, "f must not change its argument"),
    ],
)
def test_f_must_keep_the_state_as_it_is(f, error, message):
    with pytest.raises(error, match=message):
        fixed_point(f, torch.ones(2, 3))


@pytest.mark.parametrize(
    ("z0", "error", "message"),
    [
        (None, TypeError, "z0 must be a tensor"),
        ({"a": None}, TypeError, "z0 must be a tensor, .* got NoneType"),
        (3.0, TypeError, "z0 must be a tensor"),
        ((), ValueError, "at least one tensor"),
        (torch.ones(2, 3, dtype=torch.int64), TypeError, "floating-point"),
        (torch.tensor(1.0), ValueError, "batch dimension"),
        ((torch.ones(2, 3), torch.ones(3, 3)), ValueError, "one batch size.* got 2 and 3"),
        ((torch.ones(2), torch.ones(2).double()), TypeError, "one dtype and device"),
    ],
)
def test_z0_is_checked(z0, error, message):
    with pytest.raises(error, match=message):
        fixed_point(lambda z: z, z0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backward": "exact"},
            "backward must be one of auto, implicit, implicit-twice, jacobian-free",
        ),
        ({"solver": "picard", "backward": "shine"}, "needs a solver that estimates"),
        ({"solver": picard, "backward": "shine"}, "estimates .* got 'picard'"),
        ({"solver": "anderson", "backward": shine}, "backward='shine' needs a solver"),
        (
            {"solver": partial(anderson, memory=3), "backward": "shine"},
            r"got 'anderson\(memory=3\)'",
        ),
        ({"solver": picard, "backward": with_fallback(shine)}, "needs a solver that estimates"),
        (
            {"solver": picard, "backward": with_refinement(shine, 2)},
            "needs a solver that estimates",
        ),
        ({"backward": "unrolled", "refine": 2}, "solves no adjoint system"),
        ({"refine": -1}, "refine must be"),
        ({"backward": "shine", "backward_tol": 0.1}, "got backward='shine'"),
        ({"backward": "auto", "backward_tol": -1.0}, "backward_tol must be"),
        ({"backward": "unrolled", "backward_tol": 0.1}, "solves no adjoint system"),
        ({"backward": "phantom-unrolled", "measure": True}, "solves no adjoint system"),
        ({"backward": partial(unrolled_phantom, steps=2), "refine": 1}, "solves no adjoint system"),
        ({"fallback": "norm"}, "fallback must be"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DEQ(lambda z: z, **options)


def test_a_loss_on_the_trajectory():
    """Every iterate has the gradient of a solve that ended there."""
    f, x, W = tanh_problem()
    W.requires_grad_()
    options = {"backward": EXACT, "tol": 0, "solver": "picard"}
    z, info = fixed_point(f, torch.zeros_like(x), x, max_iter=6, indexing=[2, 4], **options)
    loss = fixed_point_correction(lambda z: z.square().sum(), z, info, decay=0.5)
    expected = 0
    for steps, weight in ((2, 0.25), (4, 0.5), (6, 1)):
        one, _ = fixed_point(f, torch.zeros_like(x), x, max_iter=steps, **options)
        expected = expected + weight * one.square().sum()
    torch.testing.assert_close(loss, expected)
    (found,) = torch.autograd.grad(loss, W)
    torch.testing.assert_close(found, torch.autograd.grad(expected, W)[0])
    assert info.backward.n_vjp > 0
    with pytest.raises(ValueError, match="decay must be"):
        fixed_point_correction(torch.sum, z, info, decay=0.0)


def test_a_trajectory_of_unrolled_steps_and_of_a_nested_state():
    x = torch.randn(2, 3, requires_grad=True)

    def f(z, x):
        return {"a": 0.5 * z["a"] + x}

    z, info = fixed_point(
        f, {"a": torch.zeros(2, 3)}, x, backward="unrolled", max_iter=3, indexing=[1, 3]
    )
    first, last = info.iterates
    assert torch.equal(last["a"], z["a"])
    (found,) = torch.autograd.grad((first["a"] + last["a"]).sum(), x)
    torch.testing.assert_close(found, torch.full_like(x, 1 + 1.75))


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("backward", ["shine", "implicit", "phantom"])
def test_gradients_of_small_batches(batch, backward):
    deq = DEQ(Affine(), backward=backward, fallback="residual", refine=1)
    x = torch.randn(batch, 4)
    deq(torch.zeros_like(x), x)[0].sum().backward()
    assert torch.isfinite(deq.f.linear.weight.grad).all()


def test_jacobian_penalty_estimates_the_frobenius_norm():
    W = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    z = torch.randn(2000, 5, dtype=torch.float64)
    penalty = jacobian_penalty(lambda z: z @ W.T, z, n_samples=5)
    torch.testing.assert_close(penalty, W.square().sum() / 5, rtol=0.05, atol=0)
    (gradient,) = torch.autograd.grad(penalty, W)
    torch.testing.assert_close(gradient, 2 * W.detach() / 5, rtol=0, atol=0.1)


@pytest.mark.parametrize("angle", [0.0, 1.0])
def test_spectral_radius(angle):
    turn = torch.tensor(
        [
            [torch.cos(torch.tensor(angle)), -torch.sin(torch.tensor(angle)), 0],
            [torch.sin(torch.tensor(angle)), torch.cos(torch.tensor(angle)), 0],
            [0, 0, 0.3],
        ],
        dtype=torch.float64,
    )
    base = torch.randn(3, 3, dtype=torch.float64)
    W = 0.7 * torch.linalg.solve(base, turn @ base)
    radius = spectral_radius(lambda z: z @ W.T, torch.randn(4, 3).double(), n_iter=400)
    torch.testing.assert_close(radius, torch.full_like(radius, 0.7), rtol=0.02, atol=0)


@pytest.mark.parametrize("backward", ["shine", "implicit", "phantom"])
def test_a_sample_that_is_not_finite_leaves_the_others_alone(backward):
    f, x, _ = tanh_problem(batch=3)
    grad = torch.randn_like(x)
    options = {"backward": backward, "refine": 2, "fallback": "residual"}
    poison = torch.zeros_like(x)
    poison[1] = torch.nan
    expected = x_gradient(f, x, grad, **options)[0]
    with pytest.warns(RuntimeWarning, match=r"not finite for 1 of 3 samples .* sample 1\)"):
        found, _, info = x_gradient(lambda z, x: f(z, x) + poison * z, x, grad, **options)
    assert info.diverged.tolist() == [False, True, False]
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])


def test_a_warm_start_at_the_solution_is_no_divergence():
    f, x, _ = tanh_problem()
    z, _ = fixed_point(f, torch.zeros_like(x), x, **TIGHT)
    _, info = fixed_point(f, z, x, max_iter=30, tol=0)
    assert not info.diverged.any()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("backward", ["implicit", "jacobian-free", "phantom"])
def test_a_start_that_is_not_finite_leaves_shared_parameters_alone(solver, backward):
    f, x, W = tanh_problem(batch=3)
    W.requires_grad_()
    z0 = torch.zeros_like(x)
    kept = torch.tensor([0, 2])
    options = {"solver": solver, "backward": backward, **TIGHT}
    (expected,) = torch.autograd.grad(fixed_point(f, z0[kept], x[kept], **options)[0].sum(), W)
    z0[1] = torch.nan
    z, info = fixed_point(f, z0, x, **options)
    assert info.diverged.tolist() == [False, True, False]
    with pytest.warns(RuntimeWarning, match="Their share of the gradient is zero"):
        (found,) = torch.autograd.grad(z[kept].sum(), W)
    torch.testing.assert_close(found, expected)


def test_a_loss_that_is_not_finite_stays_so():
    """Gradient scalers look for it."""
    f, x, W = tanh_problem(batch=3)
    W.requires_grad_()
    z, _ = fixed_point(f, torch.zeros_like(x), x, **TIGHT)
    (gradient,) = torch.autograd.grad((z * torch.inf).sum(), W)
    assert not torch.isfinite(gradient).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("backward", ["implicit", "jacobian-free"])
def test_parametrised_weights_that_pytorch_caches(solver, backward):
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    deq = DEQ(lambda z, x: 0.5 * torch.tanh(layer(z)) + x, solver=solver, backward=backward)
    x = torch.randn(3, 4)
    parameters = list(layer.parameters())
    expected = torch.autograd.grad(deq(torch.zeros_like(x), x)[0].sum(), parameters)
    with nn.utils.parametrize.cached():
        found = torch.autograd.grad(deq(torch.zeros_like(x), x)[0].sum(), parameters)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "backward", ["auto", "implicit", "phantom", partial(implicit, solver="broyden")]
)
def test_an_infinite_derivative_of_a_sample_does_not_reach_shared_parameters(backward):
    """The root at 0 is a fixed point of the second sample, which starts there."""
    w = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    z0 = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]], dtype=torch.float64)

    def gradient(z0):
        z, info = fixed_point(
            lambda z: w * z.abs().sqrt() + 0.1 * z, z0, backward=backward, solver="broyden"
        )
        return torch.autograd.grad(z.sum(), w)[0], info

    expected, _ = gradient(z0[[0, 2]])
    with pytest.warns(RuntimeWarning, match=r"the backward method .* for 1 of 3 .* sample 1\)"):
        found, info = gradient(z0)
    assert info.converged.all()
    torch.testing.assert_close(found, expected)


def test_a_layer_with_all_options_goes_through_pickle():
    deq = DEQ(Affine(), solver=partial(broyden, memory=3), refine=2, fallback="norm-ratio")
    saved = io.BytesIO()
    torch.save(deq, saved)
    saved.seek(0)
    x = torch.randn(3, 4)
    expected, *found = (
        torch.autograd.grad(layer(torch.zeros_like(x), x)[0].sum(), layer.f.linear.weight)
        for layer in (
            deq,
            pickle.loads(pickle.dumps(deq)),  # noqa: S301
            torch.load(saved, weights_only=False),
        )
    )
    for gradient in found:
        torch.testing.assert_close(gradient, expected, rtol=0, atol=0)


def test_a_layer_can_be_made_again_from_what_it_says_of_itself():
    options = {
        "solver": partial(broyden, memory=3),
        "backward": partial(implicit, max_iter=7),
        "tol": 1e-2,
        "max_iter": 8,
        "refine": 1,
        "fallback": "residual",
        "state_dtype": torch.float64,
        "eval_tol": 0.0,
    }
    described = json.loads(json.dumps(DEQ(Affine(), **options).described()))
    again = DEQ(Affine(), **restored_options(described))
    assert again.described() == described
    assert again.solver_name == "broyden(memory=3)"
    assert described["state_dtype"] == "float64"


class OwnSolver:
    """Not a function, but callable."""

    def __call__(self, f, z0, stopping):
        return broyden(f, z0, stopping)


def test_a_layer_of_functions_of_ones_own_says_the_same_in_every_process():
    first, second = (DEQ(Affine(), solver=OwnSolver()) for _ in range(2))
    assert first.described() == second.described()
    assert first.solver_name == "OwnSolver"
    with pytest.raises(ValueError, match=r"solver must be one of .* got 'OwnSolver'"):
        DEQ(Affine(), **restored_options(first.described()))
