"""The benchmark: its yardstick against scikit-learn, and one run through benchopt."""

import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from hoag_shine import fold_problems

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmark_utils(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def settling():
    return importlib.import_module("benchmark_utils.settling")


@pytest.fixture
def data():
    return importlib.import_module("benchmark_utils.data").five_folds("sklearn:breast_cancer")


@pytest.fixture
def criterion(data):
    module = importlib.import_module("benchmark_utils.criterion")
    return module.ConvergedCriterion(
        fold_problems(LogisticRegression(), data["X"], data["y"], cv=data["cv"])
    )


def scikit_learn_criterion(X, y, cv, theta):
    """Return the mean held-out loss of fits by another algorithm, Newton's."""
    model = LogisticRegression(C=np.exp(-theta), solver="newton-cholesky", tol=1e-10)
    losses = [
        log_loss(y[test], model.fit(X[train], y[train]).predict_proba(X[test]))
        for train, test in cv
    ]
    return np.mean(losses)


def test_the_converged_criterion_is_that_of_newton_fits(criterion, data):
    for theta in (3.0, -2.0, 0.5):  # each starts where the one before ended
        assert criterion(theta) == pytest.approx(
            scikit_learn_criterion(**data, theta=theta), rel=1e-7
        )


def test_known_values_are_not_computed_again(criterion, data):
    known = type(criterion)(criterion.problems, values={0.5: 42.0})
    assert known(0.5) == 42.0


def test_the_landscape_is_that_of_newton_fits(settling, criterion, data):
    landscape = settling.explore(criterion, (1e-2, 1e-3))
    grid = [scikit_learn_criterion(**data, theta=theta) for theta in np.linspace(-3, 3, 25)]
    assert landscape.value <= min(grid) * (1 + 1e-7)
    assert min(grid) <= landscape.value * (1 + 1e-3)  # the grid is that fine
    for tol, ends in landscape.sets.items():
        for end in ends:
            value = scikit_learn_criterion(**data, theta=end)
            assert value / landscape.value - 1 == pytest.approx(tol, rel=0.02)


def test_a_search_is_settled_from_when_it_stays(settling):
    def first(*thetas):
        trace = [settling.Moment(theta, i, 0.0) for i, theta in enumerate(thetas)]
        moment = settling.settled(trace, (-1.0, 1.0))
        return None if moment is None else moment.passes

    assert first(5.0, 0.0, 5.0, 0.5, 1.0) == 3
    assert first(0.0, 0.1) == 0
    assert first(0.0, 5.0) is None


@pytest.mark.skipif(find_spec("benchopt") is None, reason="needs benchopt, of the extra benchmarks")
def test_benchopt_runs_the_benchmark(tmp_path):
    pandas = pytest.importorskip("pandas")
    output = tmp_path / "result.parquet"
    options = ["-d", "breast_cancer", "-s", "hoag_shine[hypergradient=cg]", "-s", "GridSearchCV"]
    options += ["--no-cache", "--no-plot", "--no-html", "--output", str(output)]
    command = [sys.executable, "-m", "benchopt", "run", str(BENCHMARKS), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    last = pandas.read_parquet(output).groupby("solver_name")["objective_value"].last()
    assert last.min() == last["hoag_shine[hypergradient=cg]"]
    assert last.max() < 1.02 * last.min()
