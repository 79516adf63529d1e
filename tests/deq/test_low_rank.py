import pytest
import torch

from hoag_shine.deq import LowRank
from hoag_shine.deq.low_rank import choose


def random_operator(batch=3, rank=4, n=7, middle=True):
    factors = torch.randn(2, batch, rank, n, dtype=torch.float64)
    square = torch.randn(batch, rank, rank, dtype=torch.float64) if middle else None
    return LowRank(factors[0], factors[1], square)


@pytest.mark.parametrize("middle", [True, False])
def test_products_are_those_of_the_dense_matrix(middle):
    operator = random_operator(middle=middle)
    x = torch.randn(3, 7, dtype=torch.float64)
    for i in range(3):
        dense = operator.dense()[i]
        torch.testing.assert_close(operator.matvec(x)[i], dense @ x[i])
        torch.testing.assert_close(operator.rmatvec(x)[i], dense.T @ x[i])


@pytest.mark.parametrize("middle", [True, False])
def test_transposed_product_is_the_adjoint(middle):
    operator = random_operator(middle=middle)
    x, y = torch.randn(2, 3, 7, dtype=torch.float64)
    torch.testing.assert_close((operator.matvec(x) * y).sum(1), (x * operator.rmatvec(y)).sum(1))


def test_identity():
    x = torch.randn(2, 5)
    operator = LowRank.identity(x)
    assert operator.rank == 0
    assert torch.equal(operator.matvec(x), x)
    assert torch.equal(operator.rmatvec(x), x)
    assert torch.equal(operator.dense(), torch.eye(5).expand(2, 5, 5))


def test_pairs_are_dropped_sample_by_sample():
    operator = random_operator(batch=2, rank=3, middle=False)
    kept = operator.keep(torch.tensor([[True, False, False], [True, True, True]]))
    first = torch.eye(7) + torch.outer(operator.left[0, 0], operator.right[0, 0])
    torch.testing.assert_close(kept.dense()[0], first)
    torch.testing.assert_close(kept.dense()[1], operator.dense()[1])


def test_choose_takes_each_sample_from_one_operator():
    a, b = random_operator(batch=2, rank=2), random_operator(batch=2, rank=4)
    chosen = choose(torch.tensor([True, False]), a, b)
    torch.testing.assert_close(chosen.dense()[0], a.dense()[0])
    torch.testing.assert_close(chosen.dense()[1], b.dense()[1])
