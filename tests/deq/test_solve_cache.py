"""Weights and masks that are the same in all calls of a solve."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from hoag_shine.deq import DEQ, SOLVERS, VariationalDropout, fixed_point, once_per_solve
from hoag_shine.deq.backward import implicit

EXACT = partial(implicit, tol=1e-13, max_iter=60)
TIGHT = {"backward": EXACT, "max_iter": 80, "tol": 1e-12}


class Normalised(nn.Module):
    """z -> tanh(0.8 W z + x) with a normalised W."""

    def __init__(self, norm, n=4):
        super().__init__()
        self.linear = norm(nn.Linear(n, n).double())

    def forward(self, z, x):
        return torch.tanh(0.5 * self.linear(z)) + x


def counted(module):
    """Count how often a parametrisation is computed."""
    calls = []
    module.linear.parametrizations.weight[0].register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
@pytest.mark.parametrize("solver", SOLVERS)
def test_normalised_weights_are_computed_once(norm, solver):
    f = Normalised(norm)
    calls = counted(f)
    deq = DEQ(once_per_solve(f), solver=solver, check_separable=False, **TIGHT)
    x = torch.randn(3, 4, dtype=torch.float64)
    z, info = deq(torch.zeros_like(x), x)
    z.square().sum().backward()
    assert len(calls) == 1
    assert info.converged.all()
    deq(torch.zeros_like(x), x)
    assert len(calls) == 2


@pytest.mark.parametrize("solver", ["adjoint-broyden", "anderson"])
def test_weights_that_are_computed_once_have_the_same_gradients(solver):
    f, plain = Normalised(weight_norm), Normalised(weight_norm)
    plain.load_state_dict(f.state_dict())
    x = torch.randn(3, 4, dtype=torch.float64)
    for module in (once_per_solve(f), plain):
        z, _ = fixed_point(module, torch.zeros_like(x), x, solver=solver, **TIGHT)
        z.square().sum().backward()
    for one, other in zip(f.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


class Dropped(nn.Module):
    """Two uses of one dropout, of different shapes."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 9).double(), nn.Linear(9, 4).double()
        self.dropout = VariationalDropout(0.5)

    def forward(self, z, x):
        hidden = self.dropout(torch.tanh(self.inner(z)))
        return 0.3 * self.dropout(self.outer(hidden)) + x


@pytest.mark.parametrize("solver", ["broyden", "picard"])
def test_a_mask_is_that_of_its_solve_whatever_came_between(solver):
    f = Dropped()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def solve(x):
        torch.manual_seed(5)
        return fixed_point(f, torch.zeros_like(x), x, solver=solver, **TIGHT)

    first, info = solve(x)
    assert info.converged.all()
    (expected,) = torch.autograd.grad(first.square().sum(), x)
    again, _ = solve(x)
    other, _ = fixed_point(f, torch.zeros_like(x), x, solver=solver, **TIGHT)
    assert not torch.allclose(other, again)
    torch.testing.assert_close(torch.autograd.grad(again.square().sum(), x)[0], expected)
    assert torch.autograd.gradcheck(lambda x: solve(x)[0], x)


def test_dropout_outside_a_solve_and_in_evaluation():
    dropout, x = VariationalDropout(0.25), torch.ones(4000)
    one, two = dropout(x), dropout(x)
    assert not torch.equal(one, two)
    assert set(one.unique().tolist()) == {0.0, (x[0] / 0.75).item()}
    assert 0.2 < (one == 0).float().mean() < 0.3
    assert torch.equal(dropout.eval()(x), x)
    assert repr(dropout) == "VariationalDropout(p=0.25)"
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\)"):
        VariationalDropout(1.0)


def test_what_has_no_parametrised_weights_is_told():
    with pytest.raises(ValueError, match="must have parametrised weights"):
        once_per_solve(nn.Linear(2, 2))
    layer = once_per_solve(weight_norm(nn.Linear(2, 2)))
    assert once_per_solve(layer) is layer
    assert torch.isfinite(layer(torch.ones(1, 2))).all()
