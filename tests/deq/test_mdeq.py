import dataclasses
from functools import partial

import pytest
import torch
from torch.nn import functional

from hoag_shine.deq import jacobian_penalty
from hoag_shine.deq.backward import implicit
from hoag_shine.deq.mdeq import CONFIGS, MDEQ, MDEQConfig
from hoag_shine.deq.solvers import adjoint_broyden

TOY = MDEQConfig(
    channels=(8, 16), head_channels=(2, 4), final_channels=8, groups=4, expansion=1, n_classes=3
)


def count_by_hand(c):
    """Parameters according to the published architecture, added up on paper."""

    def conv(i, o, k, bias=0):
        return i * o * k * k + bias * o

    first = c.channels[0]
    total = conv(c.in_channels, first, 3) + 2 * first + conv(first, first, 3) + 2 * first
    if c.downsamplings or len(c.channels) > 2:
        total += conv(first, first, 1) + 2 * first
    for i, channels in enumerate(c.channels):
        inner = channels * c.expansion
        # Two convolutions with weight norm, three group norms, and what follows the fusion.
        total += conv(channels, inner, 3) + inner + 2 * inner
        total += conv(inner, channels, 3) + channels + 4 * channels
        total += conv(channels, channels, 1) + channels + 2 * channels * c.post_affine
        for j, source in enumerate(c.channels):
            if j > i:  # up: a 1 x 1 convolution and a norm
                total += conv(source, channels, 1) + 2 * channels
            elif j < i:  # down: 3 x 3 convolutions, all but the last from source to source
                total += (i - j - 1) * (conv(source, source, 3) + 2 * source)
                total += conv(source, channels, 3) + 2 * channels
    for channels, width in zip(c.channels, c.head_channels, strict=True):
        total += conv(channels, width, 1) + conv(width, width, 3) + conv(width, 4 * width, 1)
        total += conv(channels, 4 * width, 1) + 8 * width
    for a, b in zip(c.head_channels[:-1], c.head_channels[1:], strict=True):
        total += conv(4 * a, 4 * b, 3, bias=1) + 8 * b
    total += conv(4 * c.head_channels[-1], c.final_channels, 1, bias=1) + 2 * c.final_channels
    return total + (c.final_channels + 1) * c.n_classes


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_counts(name):
    count = sum(p.numel() for p in MDEQ(CONFIGS[name]).parameters())
    assert count == count_by_hand(CONFIGS[name])


@pytest.mark.parametrize(
    ("name", "published", "tolerance"),
    [("cifar10-tiny", 170e3, 0.1), ("cifar10-large", 10e6, 0.15), ("imagenet-small", 18e6, 0.1)],
)
def test_parameter_counts_are_about_the_published_ones(name, published, tolerance):
    count = sum(p.numel() for p in MDEQ(CONFIGS[name]).parameters())
    assert abs(count / published - 1) < tolerance


def test_forward_and_backward():
    model = MDEQ(TOY, tol=1e-3, max_iter=40)
    images = torch.randn(4, 3, 8, 8)
    scores, info, _ = model(images)
    assert scores.shape == (4, 3)
    assert info.n_evals > 1
    functional.cross_entropy(scores, torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_weight_norm_is_that_of_pytorch():
    conv = MDEQ(TOY).transform.blocks[0].conv1
    with torch.no_grad():
        conv.length.mul_(torch.rand_like(conv.length) + 0.5)
    reference = torch._weight_norm(conv.direction, conv.length[:, None, None, None], 0)
    torch.testing.assert_close(conv.weight(), reference)


def test_dropout_is_the_same_at_every_iteration_and_off_in_evaluation():
    model = MDEQ(dataclasses.replace(TOY, dropout=0.5), tol=1e-4, max_iter=60)
    images = torch.randn(2, 3, 8, 8)
    z0, *inputs = model.problem(images)
    z = [torch.randn_like(part) for part in z0]
    once, again = model.transform(z, *inputs), model.transform(z, *inputs)
    assert torch.equal(once[0], again[0])
    other = model.transform(z, inputs[0], model.transform.fix(z0))
    assert not torch.equal(once[0], other[0])
    share = (inputs[1].masks[0] == 0).float().mean()
    assert 0.4 < share < 0.6
    assert model.eval().problem(images)[2].masks == (None, None)


def test_pretraining_unrolls():
    model = MDEQ(TOY).eval()
    images = torch.randn(2, 3, 8, 8)
    scores, info, _ = model(images, unroll=3)
    z, *inputs = model.problem(images)
    for _ in range(3):
        z = model.transform(z, *inputs)
    assert info is None
    torch.testing.assert_close(scores, model.head(z))


def test_gradient_is_that_of_a_dense_solve():
    """The whole model in float64, against the implicit function theorem with a dense Jacobian."""
    backward = partial(implicit, tol=1e-11, max_iter=300)
    model = MDEQ(TOY, backward=backward, tol=0, max_iter=10).double().eval()
    images = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    scores, info, _ = model(images)
    weight = model.stem[0][0].weight
    (found,) = torch.autograd.grad(scores.square().sum(), weight)
    assert info.backward.residual < 1e-10

    z0, *inputs = model.problem(images)
    z = tuple(part.detach().requires_grad_() for part in model.deq(z0, *inputs)[0])
    value = model.head(z).square().sum()
    grad = torch.cat([g.flatten() for g in torch.autograd.grad(value, z)])
    blocks = torch.autograd.functional.jacobian(
        lambda *z: model.transform(z, inputs[0].detach(), inputs[1]), z
    )
    sizes = [part.numel() for part in z]
    J = torch.cat(
        [
            torch.cat([b.reshape(m, n) for b, n in zip(row, sizes, strict=True)], dim=1)
            for row, m in zip(blocks, sizes, strict=True)
        ]
    )
    u = torch.linalg.solve((torch.eye(len(J)) - J).T, grad)
    image = torch.cat([part.flatten() for part in model.transform(z, *inputs)])
    (expected,) = torch.autograd.grad(image, weight, u)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8 * float(expected.abs().max()))


@pytest.mark.parametrize("solver", ["adjoint-broyden", adjoint_broyden])
def test_outer_problem_awareness_leaves_the_statistics_alone(solver):
    images = torch.randn(4, 3, 8, 8)
    labels = torch.tensor([0, 1, 2, 0])

    def loss(scores):
        return functional.cross_entropy(scores, labels, reduction="sum")

    model = MDEQ(TOY, solver=solver, max_iter=6, tol=0)
    _, info, _ = model(images, outer_loss=loss)
    assert info.inverse_jacobian.rank == 7  # one pair more than steps
    counts = [v for k, v in model.state_dict().items() if "num_batches_tracked" in k]
    assert counts
    assert all(int(count) == 1 for count in counts)
    assert all(m.momentum == 0.1 for m in model.modules() if hasattr(m, "momentum"))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 8), (2, 3, 9, 8)])
def test_bad_images(shape):
    with pytest.raises(ValueError, match=r"images must|sides of images"):
        MDEQ(TOY)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_channels": (2,)}, "one entry for each resolution"),
        ({"channels": (8, 9)}, "multiples of groups"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"lr": float("nan")}, "lr must be"),
        ({"downsamplings": 3}, "downsamplings must be"),
        ({"optimizer": "lamb"}, "optimizer must be"),
    ],
)
def test_bad_configs(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TOY, **change)


def test_channels_last():
    model = MDEQ(TOY, tol=0, max_iter=4)
    images = torch.randn(2, 3, 8, 8)
    expected = model.eval()(images).scores
    model = model.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    z0, *_ = model.problem(images)
    assert all(z.is_contiguous(memory_format=torch.channels_last) for z in z0)
    torch.testing.assert_close(model(images).scores, expected, rtol=1e-3, atol=1e-4)


def test_penalty_is_that_of_the_fixed_point():
    model = MDEQ(TOY, tol=0, max_iter=4)
    images = torch.randn(2, 3, 8, 8)
    torch.manual_seed(5)
    _, _, penalty = model(images, penalty=True)
    z0, *inputs = model.problem(images)
    z, _ = model.deq(z0, *inputs)
    torch.manual_seed(5)
    expected = jacobian_penalty(model.transform, z, *inputs)
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    assert model.transform.blocks[0].conv1.direction.grad.abs().sum() > 0
