import importlib.util
from functools import partial
from pathlib import Path

import numpy as np

from hoag_shine.datasets import load_dataset

# A row of the board's minibatches of 64 would count twice in an incomplete last batch, so that what
# its methods converge to would not be the optimum.
BATCH = 64


def board():
    """Return the module of the board's own data set, which defines both losses."""
    path = Path(__file__).with_name("ijcnn1.py")
    spec = importlib.util.spec_from_file_location("board_ijcnn1", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts():
    """Return the rows of the inner problem, 60 % of the training file, and of the outer one."""
    X, y = load_dataset("libsvm:ijcnn1")
    order = np.random.default_rng(0).permutation(len(y))
    split = int(0.6 * len(y))
    halves = order[:split], order[split:]
    return [(X[rows], y[rows]) for rows in (half[: len(half) // BATCH * BATCH] for half in halves)]


ijcnn1 = board()


class Dataset(ijcnn1.Dataset):
    """The board's ijcnn1 with the training file split 60/40, where the test file is not there.

    The losses are the board's. Iterates are recorded during a run and judged after it.
    """

    name = "ijcnn1_split"

    def get_data(self):
        inner, outer = parts()
        files = {"ijcnn1": inner, "ijcnn1_test": outer}
        ijcnn1.fetch_libsvm = files.__getitem__
        data = super().get_data()
        data["pb_inner"] = with_rows(data["pb_inner"], inner)
        data["pb_outer"] = with_rows(data["pb_outer"], outer)
        data["metrics"] = Recorder()
        return data


def with_rows(problem, rows):
    """Return the board's description of a problem, with the rows at hand for who wants them."""
    loss = partial(problem[0])
    loss.rows = rows
    return (loss, *problem[1:])


class Recorder:
    """Stands in for the board's metrics, and keeps the hyperparameters instead."""

    def __init__(self):
        self.calls = 0

    def __call__(self, inner_var, outer_var):
        self.calls += 1
        theta = np.asarray(outer_var, np.float64)
        # The board ends a run whose value does not fall: here only the time ends it.
        return {"value": -self.calls, **{f"theta_{i}": each for i, each in enumerate(theta)}}
