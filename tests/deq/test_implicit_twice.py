"""Derivatives of the implicit gradient, and transformations of torch.func."""

from functools import partial

import pytest
import torch

from hoag_shine.deq import SOLVERS, fixed_point
from hoag_shine.deq.backward import implicit_twice

TIGHT = partial(implicit_twice, tol=1e-12, max_iter=4)


def f(z, W, x):
    return torch.tanh(0.2 * z @ W + x)


def solve(W, x, solver="broyden", backward=TIGHT, **options):
    options = {"max_iter": 25, "tol": 1e-12} | options
    z0 = torch.zeros_like(x)
    return fixed_point(f, z0, W, x, solver=solver, backward=backward, **options)[0]


def by_steps(W, x):
    """The fixed point by steps that autograd records."""
    z = torch.zeros_like(x)
    for _ in range(80):
        z = f(z, W, x)
    return z


def loss_of(solve):
    return lambda W, x: (solve(W, x) ** 3).sum()


@pytest.fixture
def problem():
    return torch.randn(2, 2, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)


def test_first_and_second_derivatives(problem):
    W, x = problem
    problem = W.requires_grad_(), x[:1].requires_grad_()
    assert torch.autograd.gradcheck(solve, problem)
    assert torch.autograd.gradgradcheck(solve, problem)


def test_products_with_the_hessian_of_a_loss(problem):
    """As a Newton method on the parameters takes them; by name, with the default tolerance."""
    W, x = problem
    products = {}
    for name, how in {
        "steps": by_steps,
        "twice": partial(solve, backward="implicit-twice"),
    }.items():
        point = W.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(how)(point, x), point, create_graph=True)
        (products[name],) = torch.autograd.grad(gradient, point, torch.ones_like(W))
    torch.testing.assert_close(products["twice"], products["steps"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_torch_func(problem, solver):
    W, x = problem
    found, expected = loss_of(partial(solve, solver=solver)), loss_of(by_steps)
    gradient = torch.func.grad(expected)(W, x)
    torch.testing.assert_close(torch.func.grad(found)(W, x), gradient)
    jacobian = torch.func.jacrev(partial(solve, solver=solver))(W, x)
    torch.testing.assert_close(jacobian, torch.func.jacrev(by_steps)(W, x))
    # The gradients of single samples, and those of an ensemble of parameters.
    of_samples = torch.func.vmap(torch.func.grad(lambda W, x: found(W, x[None])), (None, 0))
    torch.testing.assert_close(of_samples(W, x).sum(0), gradient)
    of_several = torch.func.vmap(torch.func.grad(found), (0, None))
    torch.testing.assert_close(of_several(torch.stack([W, W / 2]), x)[0], gradient)


def test_two_derivatives_of_torch_func_are_refused(problem):
    with pytest.raises(RuntimeError, match=r"one derivative of torch\.func at a time"):
        torch.func.jacrev(torch.func.grad(loss_of(solve)))(*problem)


@pytest.mark.parametrize("backward", ["implicit", "auto", "shine"])
def test_what_torch_func_needs_is_told(problem, backward):
    with pytest.raises(RuntimeError, match=r"within torch\.func a fixed point needs"):
        torch.func.grad(loss_of(partial(solve, backward=backward)))(*problem)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_iter": 0}, "max_iter must be an integer"), ({"tol": -1}, "tol must be at least 0")],
)
def test_bad_options(problem, options, message):
    with pytest.raises(ValueError, match=message):
        solve(*[p.requires_grad_() for p in problem], backward=partial(implicit_twice, **options))
