"""What a search promises, over drawn problems and real data, against exact values.

The problems and the checks are those of ``promises.py``, which as a script tries more of them and
says which promise was broken by how much.
"""

from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import promises
import pytest
from hard import any_penalty, several_penalties
from promises import ZOO, Climber, Verdict, check, examine, reference_of, search_of, summary
from truth import Truth
from zoo import SMALL

from hoag_shine import ShineCV
from hoag_shine.datasets import data_home

# So many problems of each promise take many minutes; those of the first few chunks, of five
# problems each, always run. The number of chunks shares no factor with those of kinds of problems,
# so that each chunk has many of them.
N, CHUNKS = 505, 101
ALWAYS = {"grid": 1, "fewer": 1, "outputs": 1, "certificate": 1, "independence": 1}
# Where many penalties have many minima, each of them found by a descent from somewhere else.
OTHER_MINIMA = {
    "fewer": {152, 155, 261},  # a coarser grouping is lower by 0.4 to 13 %
    "independence": {221, 413},  # another start, or other units, end 1 to 2 % lower
}
# Problems of a chunk of five whose exact values may be unknown: one in thirteen is drawn so that no
# solver in double precision finds them, and the search says so.
MOST_UNDECIDED = 2


def chunks():
    rest = pytest.mark.exhaustive
    return [
        pytest.param(promise, chunk, marks=[] if chunk < always else [rest])
        for promise, always in ALWAYS.items()
        for chunk in range(CHUNKS)
    ]


@pytest.mark.parametrize(("promise", "chunk"), chunks())
def test_promise_is_kept(promise, chunk):
    verdicts = [check(promise, number) for number in range(chunk, N, CHUNKS)]
    known = OTHER_MINIMA.get(promise, ())
    broken = [v for v in verdicts if v.broken and not (v.number in known and _elsewhere(v))]
    assert not broken, "\n".join([summary(verdicts), *map(str, broken)])
    assert sum(bool(v.undecided) for v in verdicts) <= MOST_UNDECIDED, summary(verdicts)


@pytest.mark.parametrize("number", [908, 938, 942, 964])
def test_slopes_are_as_certain_as_their_bounds_say(number):
    """They are of first order in what is left of an inner error, and the criterion of second."""
    verdict = check("certificate", number)
    assert not verdict.broken, str(verdict)


def _elsewhere(verdict):
    """Whether all that is wrong is that a lower minimum lies elsewhere."""
    return all(
        what == "worse than merged groups" or what.startswith("depends on")
        for what in verdict.broken
    )


def zoo():
    rest = pytest.mark.exhaustive
    large = range(len(SMALL), len(ZOO))
    return [
        pytest.param(k, id=str(animal), marks=[rest] if k in large else [])
        for k, animal in enumerate(ZOO)
    ]


@pytest.mark.skipif(
    data_home() is None or not data_home().is_dir(),
    reason="no data folder (set HOAG_SHINE_DATA)",
)
@pytest.mark.parametrize("number", zoo())
def test_promises_are_kept_on_real_data(number):
    verdict = check("zoo", number)
    assert not verdict.broken, str(verdict)
    assert not verdict.undecided


# That a promise can be broken.


@pytest.mark.parametrize("promise", ["grid", "fewer", "outputs", "independence"])
def test_a_search_that_ends_where_it_starts_breaks_promises(promise, monkeypatch):
    lazy = partial(ShineCV, max_iter=1)
    if promise != "independence":
        lazy = partial(lazy, init=1e6)
    monkeypatch.setattr(promises, "ShineCV", lazy)
    verdicts = [check(promise, number) for number in range(4, 8)]
    broken = [v for v in verdicts if v.broken]
    assert len(broken) >= 2
    for verdict in broken:
        assert f"{promise} {verdict.number}" in str(verdict)
        assert all(excess > 1e-4 for excess, _ in verdict.broken.values())
    assert f"{len(broken)}" in summary(verdicts)


@dataclass
class Certificate:
    theta: np.ndarray
    slope: np.ndarray
    slope_error: float
    interval: tuple
    gain: float
    error: float
    seen: tuple
    certain: bool = True


def true_certificate(drawn, search):
    """Return what an exact search would say of a small interval around a result."""
    theta = promises.log_alpha(search)
    slope, doubt = Truth(drawn).slope(theta, search.penalty_names_)
    slope = slope.astype(float)
    reference = reference_of(drawn, search.penalty_names_)
    reference.low, reference.high = theta - 0.1, theta + 0.1
    value = float(promises.at_result(Truth(drawn), search).values[0])
    gain = value - reference.inside(theta).value
    record = search.history_[search.best_index_]
    record |= {"hypergradient": slope, "hypergradient_bound": 0.0}
    error = abs(value + search.best_score_)
    ends = theta - 0.1, theta + 0.1
    return Certificate(theta, slope, doubt, ends, gain, error, ends)


@pytest.mark.parametrize("number", [0, 5, 9])
def test_a_true_certificate_passes_and_no_other(number):
    drawn = any_penalty(number)
    search = search_of(drawn, Verdict("", 0, "", ""))
    search.outcome_ = SimpleNamespace(name="STALLED")
    true = true_certificate(drawn, search)
    assert broken(drawn, search, true) == set()
    size = np.linalg.norm(true.slope) + 1e-6
    low, high = true.interval
    wide = low - 8.0, high + 8.0
    value = -search.best_score_
    assert broken(drawn, search, replace(true, slope=true.slope + size)) >= {"slope"}
    assert broken(drawn, search, replace(true, theta=true.theta + 0.01)) >= {"theta"}
    assert broken(drawn, search, replace(true, interval=wide)) >= {"unseen"}
    assert broken(drawn, search, replace(true, interval=(high, high))) >= {"outside"}
    assert broken(drawn, search, replace(true, gain=true.gain - 0.01 * value)) >= {"gain"}
    assert broken(drawn, search, replace(true, error=-0.01 * value)) >= {"error"}
    search.outcome_ = SimpleNamespace(name="CONVERGED")
    assert broken(drawn, search, replace(true, gain=0.01 * value)) >= {"converged"}


def broken(drawn, search, certificate):
    verdict = Verdict("certificate", 0, "", "")
    with np.errstate(all="ignore"):
        examine(verdict, drawn, search, certificate)
    assert not verdict.undecided
    return set(verdict.broken)


# The references.


@pytest.mark.parametrize("number", range(0, 6, 2))
def test_true_slopes_are_those_of_finite_differences(number):
    drawn = several_penalties(number)
    names = names_of(drawn)[::-1]
    truth, h = Truth(drawn), 1e-4
    theta = np.linspace(-1.0, 1.0, len(names))
    slope, error = truth.slope(theta, names)
    points = [theta + sign * h * e for e in np.eye(len(names)) for sign in (1.0, -1.0)]
    found = truth.criteria([truth.strengths({"alpha": np.exp(t)}, names) for t in points])
    up, down = found.values.reshape(-1, 2).T
    size = np.linalg.norm(slope.astype(float))
    assert error <= 1e-8 * size
    np.testing.assert_allclose(slope.astype(float), (up - down) / (2.0 * h), atol=1e-5 * size)


def names_of(drawn):
    """Return the names of the penalties."""
    return (
        list(range(drawn.X.shape[1]))
        if isinstance(drawn.penalty, str)
        else sorted(set(drawn.penalty))
    )


def test_descents_find_the_lowest_of_a_dense_grid():
    drawn = several_penalties(3)
    names = names_of(drawn)
    assert len(names) == 2
    reference = reference_of(drawn, names)
    ends = [
        np.linspace(low, high, 21) for low, high in zip(reference.low, reference.high, strict=True)
    ]
    grid = reference.values([np.array([a, b]) for a in ends[0] for b in ends[1]])
    assert grid.max() > 1.01 * grid.min()
    apart = np.arange(2)
    starts = [Climber(apart, np.array([a, b])) for a in ends[0][::5] for b in ends[1][::5]]
    assert reference.descend(starts, 3).value <= grid.min()
    shared = reference.shared()
    assert shared.theta[0] == shared.theta[1]
    diagonal = np.linspace(reference.low.max(), reference.high.min(), 101)
    assert shared.value <= reference.values([np.full(2, t) for t in diagonal]).min()
