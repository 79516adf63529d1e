"""Models that are written for torchdeq."""

from argparse import Namespace

import pytest
import torch
from torch import nn

from hoag_shine.deq.migration import get_deq

TIGHT = {"f_max_iter": 100, "f_tol": 1e-10}


class Injected(nn.Module):
    """The layer of torchdeq's introduction: a function of z is made from x at every call."""

    def __init__(self, **settings):
        super().__init__()
        self.inner = nn.Linear(5, 5).double()
        self.deq = get_deq(**settings)

    def forward(self, x):
        def f(z):
            return torch.tanh(0.5 * self.inner(z)) + x

        return self.deq(f, torch.zeros_like(x))


def exact(model, x):
    """The weights' gradient of the sum of z, by Picard steps in the graph."""
    z = torch.zeros_like(x)
    for _ in range(200):
        z = torch.tanh(0.5 * model.inner(z)) + x
    return z, torch.autograd.grad(z.sum(), model.inner.weight)[0]


@pytest.mark.parametrize("solver", ["broyden", "fixed_point_iter"])
@pytest.mark.parametrize(
    "settings",
    [
        {"ift": True, "b_tol": 1e-10},
        {"ift": True, "b_solver": "broyden", "b_tol": 1e-10},
        {"grad": 60},
        {"grad": 90, "tau": 0.8},
        {"backward": "auto"},
    ],
)
def test_the_gradients_that_settings_ask_for(solver, settings):
    model = Injected(f_solver=solver, **TIGHT, **settings)
    x = torch.randn(4, 5, dtype=torch.float64)
    (z,), info = model(x)
    expected, gradient = exact(model, x)
    torch.testing.assert_close(z, expected)
    assert (info["abs_lowest"] <= 1e-10).all()
    assert info["abs_trace"].shape == (4, int(info["nstep"].max()) + 1)
    (found,) = torch.autograd.grad(z.sum(), model.inner.weight)
    tolerance = 0.1 if "backward" in settings else 1e-7
    assert (found - gradient).norm() <= tolerance * gradient.norm()


def test_one_step_gradient_is_the_default():
    model = Injected(**TIGHT)
    x = torch.randn(4, 5, dtype=torch.float64)
    (z,), _ = model(x)
    (found,) = torch.autograd.grad(z.sum(), model.inner.weight)
    step = torch.tanh(0.5 * model.inner(exact(model, x)[0].detach())) + x
    torch.testing.assert_close(found, torch.autograd.grad(step.sum(), model.inner.weight)[0])


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"n_states": 3}, [2, 4]), ({"n_states": 4}, [3, 4, 5]), ({"indexing": [1, 5]}, [1, 5])],
)
def test_states_along_the_way(settings, steps):
    model = Injected(f_solver="simple_fixed_point_iter", f_max_iter=6, **settings)
    x = torch.randn(4, 5, dtype=torch.float64)
    states, info = model(x)
    expected = [torch.zeros_like(x)]
    for _ in range(8):
        expected.append(torch.tanh(0.5 * model.inner(expected[-1])) + x)
    for state, step in zip(states, [*steps, 6], strict=True):
        torch.testing.assert_close(state, expected[step + 1])  # a step of its phantom gradient
    assert info["nstep"].tolist() == [6] * 4
    assert len(model.eval()(x)[0]) == 1


def test_several_tensors_are_several_arguments_and_settings_come_from_a_command_line():
    deq = get_deq(Namespace(f_solver="broyden", f_max_iter=60, lr=0.1), f_max_iter=3, f_tol=1e-9)
    x = torch.randn(2, 3, dtype=torch.float64)

    def f(a, b):
        return [0.5 * a + 0.1 * b + x, 0.3 * b + 1]

    ((a, b),), info = deq(f, (torch.zeros_like(x), torch.zeros_like(x)))
    torch.testing.assert_close(b, torch.full_like(x, 1 / 0.7))
    torch.testing.assert_close(a, 2 * (x + 0.1 / 0.7))
    _, limited = deq(f, (x, x), solver_kwargs={"max_iter": 2, "tol": 0})
    assert limited["abs_trace"].shape == (2, 3)
    assert info["info"].converged.all()


def test_bad_settings():
    with pytest.raises(ValueError, match="f_solver must be one of anderson, broyden"):
        get_deq(f_solver="newton")
    with pytest.raises(ValueError, match="f_stop_mode must be"):
        get_deq(f_stop_mode="relative")
    with pytest.raises(TypeError, match="f_solve"):
        get_deq(f_solve="broyden")
