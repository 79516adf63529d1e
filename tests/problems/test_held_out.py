"""Outer losses of rows that several folds hold out, or none, against sums over all rows."""

import numpy as np
import pytest
from helpers import LAYOUTS
from sklearn.datasets import load_digits
from sklearn.preprocessing import label_binarize

from hoag_shine.problems import linear
from hoag_shine.problems.held_out import HeldOut
from hoag_shine.problems.linear import LinearProblems
from hoag_shine.problems.losses import LogisticLoss, MultinomialLoss, SquaredLoss
from hoag_shine.problems.penalties import GroupedPenalty

N_FOLDS = 4


def digits(targets):
    """Return 5,391 rows of 64 columns, which are two blocks if dense, and targets."""
    X, y = load_digits(return_X_y=True)
    return np.tile(X / 16.0, (3, 1)), targets(np.tile(y, 3)).astype(float)


LOSSES = {
    "one output": (LogisticLoss(), lambda y: y[:, None] >= 5),
    "outputs that are coupled": (
        MultinomialLoss(),
        lambda y: label_binarize(y // 4, classes=range(3)),
    ),
    "outputs of their own weights": (SquaredLoss(), lambda y: np.stack([y, y % 2], axis=1)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("asked", [[0, 1, 2, 3], [2], [3, 1]])
@pytest.mark.parametrize("piece", [300, 10_000])
def test_a_row_may_be_held_out_by_several_folds_or_none(kind, layout, asked, piece, monkeypatch):
    monkeypatch.setattr(linear, "most_rows", lambda n_outputs: piece)
    (loss, targets), rng = LOSSES[kind], np.random.default_rng(3)
    X, y = digits(targets)
    n, m = y.shape
    of_output = (m,) if kind == "outputs of their own weights" else ()
    held_out = rng.random((n, N_FOLDS, *of_output)) < 0.3
    weight = np.where(held_out, rng.random(held_out.shape), 0.0)
    penalty = GroupedPenalty(np.zeros(65 * m, dtype=int), 1.0)
    problems = LinearProblems(LAYOUTS[layout](X), y, loss, penalty, np.ones((n, N_FOLDS)), weight)
    ws = {k: rng.normal(scale=0.3, size=65 * m) for k in asked}
    answers = problems.outer_at(ws)

    assert list(answers) == asked
    A = np.column_stack([X, np.ones(n)])
    for k, w in ws.items():
        z = (A @ w.reshape(65, m))[:, None]
        own = weight[:, k].reshape(n, 1, -1)
        value, grad = answers[k]
        np.testing.assert_allclose(value, (own * loss.value(y[:, None], z)).sum(), rtol=1e-12)
        G = A.T @ (own * loss.gradient(y[:, None], z))[:, 0]
        np.testing.assert_allclose(grad, G.ravel(), rtol=1e-10, atol=1e-12 * np.abs(G).max())


@pytest.mark.parametrize("last", [200, 1000])
@pytest.mark.parametrize("rows", [slice(0, 100), slice(50, 250), slice(190, 300), slice(300, 900)])
def test_the_part_of_consecutive_rows(last, rows):
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((1000, N_FOLDS)) < 0.3, rng.random((1000, N_FOLDS)), 0.0)
    weight[last:] = 0.0  # the rows that are held out may all come before these
    part = HeldOut.of(weight).among(rows)
    n = rows.stop - rows.start
    np.testing.assert_array_equal(part.dense(n, N_FOLDS), weight[rows])
