"""States whose rows interact: they are told, and solved as one problem."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from hoag_shine.deq import DEQ, SOLVERS, fixed_point, spectral_radius
from hoag_shine.deq.backward import implicit

COUPLED = "must treat the samples of a batch separately"


class Graph(nn.Module):
    """Nodes as rows: z -> tanh(A z W + x), the dense variant of an implicit graph network."""

    def __init__(self, nodes=20, width=4):
        super().__init__()
        links = (torch.rand(nodes, nodes, dtype=torch.float64) < 0.2).double()
        links = ((links + links.T) > 0).double()
        self.links = links / torch.linalg.eigvalsh(links).abs().max()
        weight = torch.randn(width, width, dtype=torch.float64)
        self.weight = nn.Parameter(0.8 * weight / torch.linalg.matrix_norm(weight, 2))

    def forward(self, z, x):
        return torch.tanh(self.links @ z @ self.weight + x)


class BatchNorm(nn.Module):
    """A batch normalisation couples the samples while it is trained."""

    def __init__(self, width=4):
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(width, width, dtype=torch.float64))
        self.norm = nn.BatchNorm1d(width, affine=False).double()

    def forward(self, z, x):
        return 0.5 * torch.tanh(self.norm(z @ self.weight + x))


def by_the_theorem(f, x, grad):
    """The gradient with respect to f.weight, by Picard steps and a dense Jacobian of the whole."""
    z = torch.zeros_like(x)
    with torch.no_grad():
        for _ in range(300):
            z = f(z, x)
    J = torch.autograd.functional.jacobian(lambda v: f(v, x), z).reshape(z.numel(), -1)
    u = torch.linalg.solve((torch.eye(len(J)).to(J) - J).T, grad.flatten())
    (expected,) = torch.autograd.grad(f(z, x), f.weight, u.reshape(z.shape))
    return expected


@pytest.mark.parametrize("make", [Graph, BatchNorm])
def test_coupled_rows_are_told(make):
    f = make()
    x = torch.randn(20, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=COUPLED + r"(?s:.*)batch_dims=0"):
        fixed_point(f, torch.zeros_like(x), x)
    with pytest.raises(ValueError, match=COUPLED), torch.no_grad():
        DEQ(f, solver="picard", backward="implicit")(torch.zeros_like(x), x)
    with pytest.raises(ValueError, match=COUPLED):
        spectral_radius(f, torch.zeros_like(x), x)


@pytest.mark.parametrize("make", [Graph, BatchNorm])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_whole_state_as_one_problem(make, solver):
    f = make()
    x, grad = torch.randn(2, 20, 4, dtype=torch.float64)
    backward = partial(implicit, tol=1e-12, max_iter=100)
    options = {"max_iter": 200, "tol": 1e-12, "backward": backward, "batch_dims": 0}
    z, info = fixed_point(f, torch.zeros_like(x), x, solver=solver, **options)
    z.backward(grad)
    assert info.converged.tolist() == [True]
    assert info.backward.residual.shape == (1,)
    torch.testing.assert_close(z, f(z.detach(), x), rtol=0, atol=1e-10)
    torch.testing.assert_close(f.weight.grad, by_the_theorem(f, x, grad))


@pytest.mark.parametrize("solver", ["gmres", "broyden", "anderson", "picard"])
def test_the_residual_is_that_of_the_whole_state(solver):
    """Whatever the solver has done: here it takes rows for problems, because it is told to."""
    f = Graph()
    x, grad = torch.randn(2, 20, 4, dtype=torch.float64)
    solutions = []

    def recorded(linearisation, inverse, grad):
        solutions.append(implicit(linearisation, inverse, grad, solver=solver))
        return solutions[-1]

    options = {"max_iter": 200, "tol": 1e-12, "check_separable": False}
    z, info = fixed_point(f, torch.zeros_like(x), x, backward=recorded, **options)
    z.backward(grad)
    u = solutions[0].value
    z = z.detach()
    _, product = torch.autograd.functional.vjp(lambda v: f(v, x), z, u)
    expected = (grad - u + product).norm(dim=1) / grad.norm(dim=1)
    torch.testing.assert_close(info.backward.residual, expected, rtol=1e-6, atol=1e-14)


def test_refinement_reports_the_residual_of_the_whole_state():
    f = Graph()
    x, grad = torch.randn(2, 20, 4, dtype=torch.float64)
    options = {"max_iter": 200, "tol": 1e-12, "refine": 10, "check_separable": False}
    z, info = fixed_point(f, torch.zeros_like(x), x, backward="jacobian-free", **options)
    z.backward(grad)
    assert info.backward.residual.max() > 1e-3  # rows by themselves would be at rounding


def test_one_link_in_one_direction_is_found():
    def f(z):
        pushed = torch.cat([torch.zeros_like(z[:-1]), 0.1 * z[:1]])
        return 0.5 * z + 1 + pushed

    with pytest.raises(ValueError, match=r"1 of 6 act on other ones \(samples 0\)"):
        fixed_point(f, torch.zeros(6, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_precision_is_no_reason_to_complain(dtype):
    layer = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.Tanh()).to(dtype)
    z, _ = fixed_point(lambda z: 0.5 * layer(z), torch.zeros(50, 32, dtype=dtype), tol=1e-2)
    assert z.requires_grad
    norm = BatchNorm(32).to(dtype)
    x = torch.randn(50, 32, dtype=dtype)
    with pytest.raises(ValueError, match=COUPLED):
        fixed_point(norm, torch.zeros_like(x), x)


def test_a_random_f_is_no_reason_to_complain():
    linear = nn.Linear(6, 6)
    fixed_point(
        lambda z: 0.3 * nn.functional.dropout(linear(z), 0.5), torch.zeros(9, 6), max_iter=3
    )


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.calls = 0

    def forward(self, z, x):
        self.calls += 1
        z = 0.1 * torch.tanh(self.linear(z)) + x
        return self.norm(z) if z.dim() == 2 and len(z) > 5 else z


def calls(f, x, **options):
    f.calls = 0
    fixed_point(f, torch.zeros_like(x), x, max_iter=3, tol=0, **options)
    return f.calls


def test_every_case_is_looked_at_once():
    f = Counted().eval()
    x = torch.randn(4, 4)
    plain = calls(f, x, check_separable=False)
    assert calls(f, x) == plain + 1
    assert calls(f, x) == plain
    assert calls(f, x[None]) == plain  # one sample is coupled to nothing
    assert calls(f, torch.stack([x, x])) == plain + 1
    f.calls = 0
    for _ in range(2):  # a method, made anew each time, is known by its owner
        fixed_point(f.forward, torch.zeros_like(x), x, max_iter=3, tol=0)
    assert f.calls == 2 * plain + 1
    x = torch.randn(8, 4)
    assert calls(f, x) == plain  # constants take the place of the batch's mean
    with pytest.raises(ValueError, match=COUPLED):
        calls(f.train(), x)
    with pytest.raises(ValueError, match=COUPLED):
        calls(f, x)  # what has failed is not forgotten
    assert calls(f, x, check_separable=False) == plain
    assert calls(f, x, batch_dims=0) == plain


def test_the_check_leaves_random_numbers_alone():
    f, x = Counted().eval(), torch.randn(5, 4)
    before = torch.get_rng_state()
    fixed_point(f, torch.zeros_like(x), x)
    assert torch.equal(torch.get_rng_state(), before)


def test_under_inference_mode_nothing_is_differentiated():
    f = BatchNorm()
    with torch.inference_mode():
        x = torch.randn(7, 4, dtype=torch.float64)
        fixed_point(f, torch.zeros_like(x), x)


def test_leaves_of_any_shape_are_one_problem():
    def f(z):
        image, scale = z
        return torch.tanh(0.5 * image + 0.2 * scale), 0.5 * scale + 0.1 * image.mean() + 1

    image = torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    (image, scale), info = fixed_point(f, (image, torch.tensor(0.0)), batch_dims=0, tol=1e-6)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert scale.shape == ()
    assert info.residual.shape == (1,)
    torch.testing.assert_close(f((image, scale)), (image, scale), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch_dims", [-1, 2, True, None])
def test_bad_batch_dims(batch_dims):
    with pytest.raises(ValueError, match="batch_dims must be 1"):
        DEQ(lambda z: z, batch_dims=batch_dims)


def test_the_check_does_not_load_the_compiler():
    """It would take a second, and 40 MiB."""
    program = """if True:
        import sys, torch
        from hoag_shine.deq import fixed_point
        x = torch.randn(3, 4)
        loaded = set()
        for check in (False, True):
            fixed_point(lambda z: torch.tanh(z) / 2 + x, torch.zeros(3, 4), check_separable=check)
            loaded.add("torch._dynamo" in sys.modules)
        assert len(loaded) == 1
    """
    subprocess.run([sys.executable, "-c", program], check=True)
