"""What a search promises, held against exact values of drawn problems.

The problems are those of ``draws.py`` and ``hard.py``, the references those of ``truth.py``, which
share no code with the library. Run as a script, it tries as many problems as one likes, prints what
each broken promise is worth, and counts::

    python tests/promises.py --n 500 --seed 3 --only grid
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
import warnings
from dataclasses import dataclass, field

import numpy as np
from hard import family, one_penalty
from truth import APART, DECISIVE, NULL_SHARE, PROMISED, TooSlow, Truth, limit

from hoag_shine import ShineCV

# A result is worse than a grid where it exceeds its best value by more than this share of it, or,
# near zero, by more than this share of the loss of the null model.
WORSE, WORSE_OF_NULL = 1e-3, 1e-6
# ShineCV's own bounds, and the candidates that it is held against.
BOUNDS = (1e-8, 1e8)
CANDIDATES = np.geomspace(*BOUNDS, 20)
# Seconds of the processor after which a search is ended.
PATIENCE = 20.0


@dataclass
class Verdict:
    """What came of one problem.

    ``broken`` has, for each promise that was broken, by what share of the promised value, and
    what was found.
    """

    promise: str
    number: int
    kind: str
    about: str
    broken: dict = field(default_factory=dict)
    undecided: list = field(default_factory=list)
    seconds: float = 0.0

    def breaks(self, what, excess, text):
        self.broken[what] = (float(excess), text)

    def __str__(self):
        texts = "; ".join(
            f"{what} (+{excess:.2g}): {text}" for what, (excess, text) in self.broken.items()
        )
        return f"{self.promise} {self.number} ({self.kind}): {texts}\n    {self.about}"


class Unfit(Exception):
    """A search has not come to a result."""


def search_of(drawn, verdict, **options):
    """Return a search that has been fitted, with its warnings as ``said``."""
    begin = time.process_time()
    search = ShineCV(drawn.estimator, cv=drawn.cv, penalty=drawn.penalty, refit=False, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with limit(PATIENCE):
                search.fit(drawn.X, drawn.y, sample_weight=drawn.sample_weight)
        except TooSlow:
            verdict.breaks("slow", np.inf, f"ended after {PATIENCE:g} s")
            raise Unfit from None
        except ValueError as error:
            # An exponential that no float holds is an error that says so.
            if drawn.ordinary or "not finite" not in str(error):
                verdict.breaks("raised", np.inf, f"{error}")
            verdict.undecided.append("raised")
            raise Unfit from None
        finally:
            verdict.seconds += time.process_time() - begin
    search.said = [str(w.message) for w in caught]
    return search


def outcome(search):
    """Return what a search says of its end."""
    said = f", warned: {search.said[0][:60]}..." if search.said else ""
    value = np.ravel(next(iter(search.best_params_.values())))
    shown = ", ".join(f"{v:.4g}" for v in value[:8])
    return f"{search.outcome_} at {shown} after {len(search.history_)}{said}"


def at_result(truth, search):
    """Return the true criterion at the result."""
    return truth.criteria([truth.strengths(search.best_params_, search.penalty_names_)])


def allowed(least, null):
    return max(WORSE * abs(least), WORSE_OF_NULL * null)


# Never worse than a grid.


def check_grid(number):
    """One penalty, default options: the result is no worse than the best of 20 candidates."""
    drawn = one_penalty(number)
    verdict = Verdict("grid", number, family(drawn), str(drawn))
    try:
        search = search_of(drawn, verdict)
    except Unfit:
        return verdict
    truth = Truth(drawn)
    found = at_result(truth, search)
    value, error = float(found.values[0]), float(found.errors[0])
    if not error <= 0.1 * allowed(value, found.null):
        verdict.undecided.append(f"result: {value:.6g} +- {error:.1g}")
        return verdict
    (parameter,) = search.best_params_
    least, candidate = best_candidate(truth, parameter, value)
    loose = 1.0 if drawn.kind.convex else APART / WORSE  # values may belong to several minima
    if value - least > loose * allowed(least, found.null) + error:
        verdict.breaks(
            "worse than a grid",
            (value - least) / max(abs(least), WORSE * found.null),
            f"{value:.8g} ({outcome(search)}), {least:.8g} at {parameter}={candidate:.4g}",
        )
    check_score(verdict, search, found)
    return verdict


def best_candidate(truth, parameter, value):
    """Return the least criterion of the candidates, and where.

    Where some that might be the least are not known accurately, they are looked at more closely.
    """
    strengths = [truth.strengths({parameter: c}, ("shared",)) for c in CANDIDATES]
    truth.thorough = False
    seen = truth.criteria(strengths)
    truth.thorough = True
    values = np.where(seen.errors <= DECISIVE * np.abs(seen.values), seen.values, np.inf)
    doubtful = np.flatnonzero(np.isinf(values) & ~(seen.values > value))
    for k in doubtful[np.argsort(seen.values[doubtful])][:3]:
        closer = truth.criteria([strengths[k]])
        if closer.errors[0] <= 0.1 * WORSE * abs(closer.values[0]):
            values[k] = closer.values[0]
    k = int(np.argmin(values))
    return float(values[k]), float(CANDIDATES[k])


def check_score(verdict, search, found):
    """``best_score_`` is the criterion at ``best_params_``, as accurately as is said."""
    value, claimed = float(found.values[0]), search.history_[search.best_index_]["error"]
    size = max(abs(value), NULL_SHARE * found.null)
    off = abs(-search.best_score_ - value)
    promised = min(0.5 * search.tol**2, PROMISED) * size
    if off <= claimed + promised + found.errors[0]:
        return
    lost = float(found.rounding()[0])
    if off > claimed + promised + found.errors[0] + lost:
        verdict.breaks(
            "score",
            off / size,
            f"best_score_ {search.best_score_:.9g} +- {claimed:.2g}, true {-value:.9g}",
        )


# The script.

CHECKS = {"grid": check_grid}


def check(promise, number):
    """Return the verdict on a promise and the problem of that number."""
    with np.errstate(all="ignore"):
        return CHECKS[promise](number)


def summary(verdicts):
    """Return a table: how often each promise was broken, by kind of problem."""
    lines = [f"{'promise':13}{'kind':26}{'problems':>9}{'broken':>8}{'share':>7}{'worst':>10}"]
    groups = collections.defaultdict(list)
    for v in verdicts:
        groups[v.promise, v.kind].append(v)
        groups[v.promise, "all"].append(v)
    for (promise, kind), group in sorted(groups.items(), key=lambda item: _order(*item)):
        broken = [v for v in group if v.broken]
        worst = max((e for v in broken for e, _ in v.broken.values()), default=0.0)
        lines.append(
            f"{promise:13}{kind:26}{len(group):9}{len(broken):8}"
            f"{len(broken) / len(group):7.0%}{worst:10.2g}"
        )
    what = collections.Counter(f"{v.promise}: {w}" for v in verdicts for w in v.broken)
    lines += [f"{name}: {count}" for name, count in what.most_common()]
    undecided = [f"{v.promise} {v.number}" for v in verdicts if v.undecided and not v.broken]
    if undecided:
        lines.append(f"undecided: {len(undecided)} ({', '.join(undecided[:12])})")
    return "\n".join(lines)


def _order(key, group):
    promise, kind = key
    return promise, kind == "all", -sum(bool(v.broken) for v in group), kind


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=100, help="number of problems of each promise")
    parser.add_argument("--seed", type=int, default=0, help="number of the first")
    parser.add_argument("--only", choices=list(CHECKS), nargs="+", help="the promises to look at")
    parser.add_argument("--kind", default="", help="beginning of the kinds' names")
    options = parser.parse_args()
    begin, verdicts = time.perf_counter(), []
    for promise in options.only or CHECKS:
        number = options.seed
        while sum(v.promise == promise for v in verdicts) < options.n:
            if kind_of(promise, number).startswith(options.kind):
                verdicts.append(check(promise, number))
                if verdicts[-1].broken:
                    write(verdicts[-1])
            number += 1
    write(summary(verdicts))
    write(f"{time.perf_counter() - begin:.0f} s, {sum(v.seconds for v in verdicts):.0f} s of fits")
    return 1 if any(v.broken for v in verdicts) else 0


def kind_of(promise, number):
    """Return the kind of a problem without solving it."""
    return family(PROBLEMS[promise](number))


PROBLEMS = {"grid": one_penalty}


def write(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
