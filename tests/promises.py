"""What a search promises, held against exact values of drawn problems.

The problems are those of ``draws.py`` and ``hard.py``, the references those of ``truth.py``, which
share no code with the library. Run as a script, it tries as many problems as one likes, prints what
each broken promise is worth, and counts::

    python tests/promises.py --n 500 --seed 3 --only grid
"""

from __future__ import annotations

import argparse
import collections
import itertools
import sys
import time
import warnings
from dataclasses import dataclass, field, replace

import numpy as np
from draws import Drawn, splits_of
from hard import (
    any_penalty,
    family,
    one_penalty,
    several_penalties,
    several_targets,
    stated_otherwise,
)
from sklearn.svm import LinearSVC
from truth import (
    APART,
    DECISIVE,
    ESTIMATE,
    NULL_SHARE,
    PROMISED,
    TooSlow,
    Truth,
    limit,
    solved_at,
    theta_of,
)
from zoo import LARGE, SMALL, Criterion

from hoag_shine import ShineCV
from hoag_shine.outer.tolerances import NULL_VALUE_SHARE

# A result is worse than a grid where it exceeds its best value by more than this share of it, or,
# near zero, by more than this share of the loss of the null model.
WORSE, WORSE_OF_NULL = 1e-3, 1e-6
# The same of several penalties, which are held against fewer.
FEWER = 1e-4
# ShineCV's own bounds, and the candidates that it is held against.
BOUNDS = (1e-8, 1e8)
CANDIDATES = np.geomspace(*BOUNDS, 20)
# Real data, those that take a few seconds first.
ZOO = [*SMALL, *LARGE]
# Starts that are eight decades apart.
STARTS = (1e-4, 1e4)
# Numbers of X up to which a criterion's kinks are wider than what differences are taken over.
FEW_NUMBERS = 1e5
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


def search_of(drawn, verdict, patience=PATIENCE, **options):
    """Return a search that has been fitted, with its warnings as ``said``."""
    begin = time.process_time()
    search = ShineCV(drawn.estimator, cv=drawn.cv, penalty=drawn.penalty, refit=False, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with limit(patience):
                search.fit(drawn.X, drawn.y, sample_weight=drawn.sample_weight)
        except TooSlow:
            verdict.breaks("slow", np.inf, f"ended after {patience:g} s")
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
    if not drawn.ordinary and any("problems are not solved" in text for text in search.said):
        verdict.undecided.append("the inner problems are not solved, as it says")
        raise Unfit
    return search


def kinked(drawn):
    """Whether the second derivative of the loss jumps, so that the criterion has kinks."""
    return drawn.name.startswith("svc") or drawn.name in ("huber", "built-in-hinge")


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

    def worse(least):
        return value - least > loose * allowed(least, found.null) + error

    if worse(least) and worse(confirmed(truth, search, parameter, candidate)):
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


def confirmed(truth, search, parameter, candidate):
    """Return the criterion at a candidate where the objective is lower still, if it is anywhere."""
    ours = solved_at(truth.drawn, [[theta_of(search, candidate)]])
    closer = truth.criteria([truth.strengths({parameter: candidate}, ("shared",))], ours)
    return float(closer.values[0])


def check_score(verdict, search, found):
    """``best_score_`` is the criterion at ``best_params_``, as accurately as is said."""
    value, claimed = float(found.values[0]), search.history_[search.best_index_]["error"]
    size = max(abs(value), NULL_SHARE * found.null)
    off = abs(-search.best_score_ - value)
    promised = min(0.5 * search.tol**2, PROMISED) * size
    if not search.certificate_.certain:  # without convexity, nothing bounds an error
        promised += ESTIMATE * size
    if off <= claimed + promised + found.errors[0]:
        return
    lost = float(found.rounding()[0])
    if off > claimed + promised + found.errors[0] + lost:
        verdict.breaks(
            "score",
            off / size,
            f"best_score_ {search.best_score_:.9g} +- {claimed:.2g}, true {-value:.9g}",
        )


# Never worse than fewer penalties.


@dataclass
class Climber:
    """A point on its way down: each penalty's block, and each block's log alpha."""

    blocks: np.ndarray
    x: np.ndarray
    value: float = np.inf
    step: float = 2.0

    @property
    def theta(self):
        return self.x[self.blocks]

    def around(self):
        """Return the points a step away, along each axis."""
        steps = self.step * np.eye(len(self.x))
        return [Climber(self.blocks, self.x + e, step=self.step) for e in (*steps, *-steps)]

    def jump(self, around):
        """Return the lowest point of parabolas along the axes, given what lies around."""
        up, down = np.array([t.value for t in around]).reshape(2, -1)
        curved = up + down - 2.0 * self.value
        slope = 0.5 * (down - up)
        ahead = np.where(curved > 0.0, slope / np.where(curved > 0.0, curved, 1.0), np.sign(slope))
        ahead = np.clip(np.nan_to_num(ahead), -2.0, 2.0)
        return Climber(self.blocks, self.x + self.step * ahead, step=self.step)


class Reference:
    """The criterion of several penalties in log alpha, and its lowest values.

    ``values`` returns it at several points, infinite where it is not known.
    """

    def __init__(self, values, low, high):
        self.values, self.low, self.high = values, low, high

    def shared(self):
        """Return the lowest point where all penalties are equal."""
        together = np.zeros(len(self.low), dtype=int)
        scan = np.linspace(self.low.max(), self.high.min(), 25)
        climbers = [Climber(together, np.array([x]), step=0.5) for x in scan]
        return self.descend(climbers, 2)

    def merged(self, shared, found, partitions):
        """Return the lowest point where blocks of penalties are equal; ``found`` is a start."""
        climbers = []
        for blocks in partitions:
            k = blocks.max() + 1
            middle = np.repeat(shared.x, k)
            climbers.append(Climber(blocks, [found[blocks == j].mean() for j in range(k)]))
            for away in (0.0, 3.0, -3.0):
                climbers += [
                    Climber(blocks, middle + away * e) for e in np.eye(k)[: k if away else 1]
                ]
        return self.descend(climbers, 3)

    def inside(self, theta, n_points=41):
        """Return the lowest point of a scan between the bounds, and of descents from its best."""
        alone, k = np.arange(len(theta)), len(theta)
        if k == 1:
            points = np.linspace(self.low, self.high, n_points)
        else:
            rng = np.random.default_rng(0)
            points = rng.uniform(self.low, self.high, (n_points, k))
        step = min(1.0, 0.25 * float((self.high - self.low).max()))
        climbers = [Climber(alone, x, step=step) for x in (theta, *points)]
        return self.descend(climbers, 3, smallest=0.03 * step)

    def descend(self, climbers, keep, smallest=0.03):
        """Return the lowest of the best few of them after a search along their axes."""
        self._evaluate(climbers)
        climbers = sorted(climbers, key=lambda c: c.value)[:keep]
        while going := [c for c in climbers if c.step > smallest and np.isfinite(c.value)]:
            around = [c.around() for c in going]
            self._evaluate([t for tries in around for t in tries])
            jumps = [c.jump(tries) for c, tries in zip(going, around, strict=True)]
            self._evaluate(jumps)
            for c, tries, jump in zip(going, around, jumps, strict=True):
                best = min([*tries, jump], key=lambda t: t.value)
                gained = c.value - best.value
                if gained > 0.0:
                    c.x, c.value = best.x, best.value
                if best is jump or gained <= 1e-6 * abs(c.value):
                    c.step *= 0.25
        return min(climbers, key=lambda c: c.value)

    def _evaluate(self, climbers):
        """Move them inside the bounds, and set their values."""
        for c in climbers:
            own = [c.blocks == j for j in range(len(c.x))]
            c.x = np.clip(c.x, [self.low[o].max() for o in own], [self.high[o].min() for o in own])
        for c, value in zip(climbers, self.values([c.theta for c in climbers]), strict=True):
            c.value = float(value)


def reference_of(drawn, names):
    """Return the exact reference of a drawn problem, between the bounds of a search."""
    truth, names = Truth(drawn, thorough=False), list(names)

    def values(thetas):
        strengths = [truth.strengths({"alpha": np.exp(t)}, names) for t in thetas]
        seen = truth.criteria(strengths)
        return np.where(seen.errors <= DECISIVE * np.abs(seen.values), seen.values, np.inf)

    unit = np.zeros(len(names))
    if not isinstance(drawn.penalty, str) or drawn.penalty == "feature":
        # Bounds are in proportion to variances, and have those given as their geometric means.
        X = np.asarray(truth.X[:, :-1], dtype=float)
        variance = np.where(np.ptp(X, axis=0) > 0.0, X.var(axis=0), 0.0)
        labels = names if isinstance(drawn.penalty, str) else drawn.penalty
        sizes = np.array([variance[[label == n for label in labels]].mean() for n in names])
        known = sizes > 0.0
        unit[known] = np.log(sizes[known])
        unit = np.where(known, unit - unit[known].mean(), 0.0) if known.any() else unit
    low, high = np.log(BOUNDS)
    return Reference(values, low + unit, high + unit)


def partitions_of(k, rng, most=6):
    """Return ways to merge two of k groups, some if many; all coarser ones are among them."""
    pairs = [(i, j) for i in range(k) for j in range(i)]
    chosen = rng.permutation(len(pairs))[:most]
    found = []
    for i, j in (pairs[c] for c in chosen):
        blocks = np.arange(k)
        blocks[i] = j
        found.append(np.unique(blocks, return_inverse=True)[1])
    return found


def log_alpha(search):
    """Return the logarithms of the penalties of the result, as alpha."""
    ((parameter, value),) = search.best_params_.items()
    value = np.log(np.atleast_1d(np.asarray(value, dtype=float)))
    return -value if parameter.endswith("C") else value


def check_fewer(number):
    """Several penalties: the result is no worse than one penalty, or than merged groups.

    With the same model: where one penalty would have the intercept pay, too, it does not here.
    """
    drawn = several_penalties(number)
    verdict = Verdict("fewer", number, family(drawn), str(drawn))
    try:
        search = search_of(drawn, verdict)
    except Unfit:
        return verdict
    found = at_result(Truth(drawn), search)
    value, error = float(found.values[0]), float(found.errors[0])
    if not error <= 0.1 * FEWER * abs(value):
        verdict.undecided.append(f"result: {value:.6g} +- {error:.1g}")
        return verdict
    reference = reference_of(drawn, search.penalty_names_)
    rng = np.random.default_rng([26, number])
    shared = reference.shared()
    partitions = partitions_of(len(reference.low), rng)
    merged = reference.merged(shared, log_alpha(search), partitions)
    for what, best in {"shared": shared, "merged groups": merged}.items():
        if value - best.value > max(FEWER * abs(best.value), WORSE_OF_NULL * found.null) + error:
            verdict.breaks(
                f"worse than {what}",
                (value - best.value) / max(abs(best.value), WORSE * found.null),
                f"{value:.8g} ({outcome(search)}), {best.value:.8g} at alpha="
                f"{np.exp(best.theta).round(8).tolist()} of {list(search.penalty_names_)}",
            )
    return verdict


# A penalty for each target: no worse than separate searches.


def by_target(truth, values):
    """Return the criterion of each target, of shape (penalties, targets)."""
    each = values.solution.f.reshape(values.n, -1, truth.n_outputs)
    return each.mean(axis=1).astype(float)


def check_outputs(number):
    """A penalty for each target: each is no worse than a search, or a scan, of its own."""
    drawn = several_targets(number)
    verdict = Verdict("outputs", number, family(drawn), str(drawn))
    truth = Truth(drawn)
    m = truth.n_outputs
    try:
        search = search_of(drawn, verdict)
        apart = [search_of(_alone(drawn, j), verdict) for j in range(m)]
    except Unfit:
        return verdict
    found = by_target(truth, at_result(truth, search))[0]
    own = np.exp([log_alpha(s)[0] for s in apart])
    alone = by_target(truth, truth.criteria([truth.strengths({"alpha": own}, range(m))]))[0]
    scan = CANDIDATES if kinked(drawn) else np.geomspace(*BOUNDS, 101)
    truth.thorough = False
    seen = truth.criteria([truth.strengths({"alpha": np.full(m, a)}, range(m)) for a in scan])
    known = seen.solution.error <= DECISIVE * np.abs(seen.solution.f[:, 0].astype(float))
    scanned = by_target(truth, seen)
    scanned[~known.reshape(len(scan), -1, m).all(axis=1)] = np.inf
    for what, least in {"own search": alone, "scan": scanned.min(axis=0)}.items():
        excess = found / least - 1.0
        j = int(np.argmax(excess))
        if excess[j] > WORSE:
            verdict.breaks(
                f"worse than {what}",
                excess[j],
                f"target {j} of {m}: {found[j]:.8g} ({outcome(search)}), {least[j]:.8g} at alpha="
                f"{own[j] if what == 'own search' else scan[scanned[:, j].argmin()]:.4g}",
            )
    return verdict


def _alone(drawn, j):
    """Return the problem of one target, or of one class against the rest."""
    if drawn.kind.targets != "classes":
        return replace(drawn, y=drawn.y[:, j], penalty="shared")
    # The folds are those of all classes.
    splits = splits_of(drawn.cv, drawn.kind, drawn.y)
    return replace(drawn, y=(drawn.y == j).astype(int), penalty="shared", cv=splits)


# What the certificate says.


def check_certificate(number):
    """The certificate is true: its slope, its interval, what is left to gain, and when it ends."""
    drawn = any_penalty(number)
    verdict = Verdict("certificate", number, family(drawn), str(drawn))
    try:
        search = search_of(drawn, verdict)
    except Unfit:
        return verdict
    certificate = getattr(search, "certificate_", None)
    if certificate is None:
        verdict.breaks("missing", np.inf, "no certificate_")
        return verdict
    examine(verdict, drawn, search, certificate)
    return verdict


def examine(verdict, drawn, search, certificate):
    """Note what a certificate says that is not so, by exact values."""
    if not drawn.kind.convex:
        verdict.undecided.append("several minima")
        return
    found = at_result(Truth(drawn), search)
    value, error = float(found.values[0]), float(found.errors[0])
    if not error <= 1e-6 * max(abs(value), NULL_SHARE * found.null):
        verdict.undecided.append(f"result: {value:.6g} +- {error:.1g}")
        return
    error += float(found.rounding()[0])
    reference = reference_of(drawn, search.penalty_names_)
    check_result(verdict, search, certificate, value, error)
    # Kinks of the criterion hide humps that no curvature tells of.
    slack = WORSE * abs(value) if kinked(drawn) else 0.0
    check_interval(verdict, search, certificate, reference, value, error + slack)
    check_gain(verdict, search, certificate, max(abs(value), NULL_VALUE_SHARE * found.null))
    slope, doubt = Truth(drawn).slope(np.asarray(certificate.theta), search.penalty_names_)
    check_slope(verdict, certificate, slope.astype(float), doubt, value)


def check_result(verdict, search, certificate, value, error):
    """The certificate is of ``best_params_``, whose criterion it knows to its ``error``."""
    theta = np.asarray(certificate.theta, dtype=float)
    if np.shape(theta) != log_alpha(search).shape or not np.allclose(theta, log_alpha(search)):
        verdict.breaks("theta", np.inf, f"{theta} is not log alpha of {search.best_params_}")
    off = abs(-search.best_score_ - value)
    error += (1e-12 if certificate.certain else PROMISED) * abs(value)
    if off > certificate.error + error:
        verdict.breaks("error", off / abs(value), f"off {off:.2g}, not {certificate.error:.2g}")


def check_slope(verdict, certificate, slope, doubt, value):
    """The slope is within its bound of the true one, which is known up to ``doubt``."""
    off, size = np.linalg.norm(slope - certificate.slope), np.linalg.norm(slope)
    if not doubt <= max(0.1 * size, 0.1 * certificate.slope_error, WORSE * abs(value)):
        verdict.undecided.append(f"slope: {size:.3g} +- {doubt:.1g}")
    elif off > certificate.slope_error * (1.0 + 1e-9) + doubt:
        text = f"{certificate.slope} +- {certificate.slope_error:.3g}, true {slope}"
        verdict.breaks("slope", off / (size or 1.0), text)


def check_interval(verdict, search, certificate, reference, value, error, n_points=41):
    """The interval has been seen, and no more than ``gain`` is to be had inside it."""
    low, high = (np.asarray(end, dtype=float) for end in certificate.interval)
    seen_low, seen_high = (np.asarray(end, dtype=float) for end in certificate.seen)
    theta = np.asarray(certificate.theta, dtype=float)
    if (theta < low - 1e-9).any() or (theta > high + 1e-9).any():
        verdict.breaks("outside", np.inf, f"theta {theta} is not in {low} to {high}")
    # Where looks are dear, they end before the bounds, and ``seen`` says where.
    unseen = (seen_low > low + 1e-9).any() or (seen_high < high - 1e-9).any()
    if unseen and certificate.certain:
        verdict.breaks("unseen", np.inf, f"{low} to {high} is not in {seen_low} to {seen_high}")
    ends = (np.clip(end, reference.low, reference.high) for end in (low, high))
    inner = Reference(reference.values, *ends)
    best = inner.inside(theta, n_points)
    left = value - best.value
    if left > certificate.gain + certificate.error + error + 1e-9 * abs(value):
        verdict.breaks(
            "gain",
            left / abs(value),
            f"{value:.8g} ({outcome(search)}) and at most {certificate.gain:.2g} to gain, but "
            f"{best.value:.8g} at alpha={np.exp(best.theta).tolist()} in the interval",
        )


def check_gain(verdict, search, certificate, size):
    """What a search that has converged leaves to gain is little."""
    most = search.tol**2 * size
    if search.outcome_.name == "CONVERGED" and certificate.gain > most * (1.0 + 1e-9):
        text = f"gain {certificate.gain:.2g} above {most:.2g}"
        verdict.breaks("converged", certificate.gain / size, text)
    record = search.history_[search.best_index_]
    bounds = certificate.slope_error + float(record["hypergradient_bound"])
    off = np.linalg.norm(np.ravel(record["hypergradient"]) - certificate.slope)
    if off > bounds * (1.0 + 1e-9):
        text = f"{record['hypergradient']} of history_, {certificate.slope} of the certificate"
        verdict.breaks("record", off, text)


# The same on real data, whose references are scikit-learn's.


def kinked_and_small(animal, X):
    """Whether the criterion has kinks that differences would meet."""
    return isinstance(animal.estimator, LinearSVC) and X.size <= FEW_NUMBERS


def check_zoo(number):
    """One penalty on real data: no worse than the candidates, and a certificate that is true."""
    animal = ZOO[number]
    X, y = animal.data()
    drawn = Drawn(number, "", animal.estimator, X, y, None, animal.cv, "shared", {}, True)
    verdict = Verdict("zoo", number, str(animal), f"{X.shape[0]} x {X.shape[1]}")
    try:
        search = search_of(drawn, verdict, 20.0 * PATIENCE)
    except Unfit:
        return verdict
    criterion = Criterion(animal)
    theta = log_alpha(search)
    value = float(criterion(np.exp(theta))[0])
    if not np.isfinite(value):
        verdict.undecided.append("the reference has not converged")
        return verdict
    seen = criterion(CANDIDATES)  # of C as of alpha
    least, alpha = float(seen.min()), CANDIDATES[int(seen.argmin())]
    if value - least > allowed(least, criterion.null):
        verdict.breaks(
            "worse than a grid",
            (value - least) / max(abs(least), WORSE * criterion.null),
            f"{value:.8g} ({outcome(search)}), {least:.8g} at alpha={alpha:.4g}",
        )
    certificate = getattr(search, "certificate_", None)
    if certificate is None:
        verdict.breaks("missing", np.inf, "no certificate_")
        return verdict

    def true_slope(theta):
        classes = "svc" if np.unique(y).size == 2 else "svc-classes"
        return Truth(replace(drawn, name=classes)).slope(theta, search.penalty_names_)

    bounds = np.log(BOUNDS)[:, None]
    reference = Reference(lambda thetas: criterion(np.exp(np.ravel(thetas))), *bounds)
    error = criterion.accuracy * abs(value)
    check_result(verdict, search, certificate, value, error)
    check_interval(verdict, search, certificate, reference, value, error, n_points=11)
    check_gain(verdict, search, certificate, max(abs(value), NULL_VALUE_SHARE * criterion.null))
    slope, doubt = (true_slope if kinked_and_small(animal, X) else criterion.slope)(theta)
    check_slope(verdict, certificate, slope.astype(float), doubt, value)
    return verdict


# Results do not depend on where a search starts, on orders, or on units.


def check_independence(number):
    """The criterion at the result is the same from other starts, and of one problem restated."""
    drawn = any_penalty(number)
    drawn = replace(drawn, cv=splits_of(drawn.cv, drawn.kind, drawn.y))
    verdict = Verdict("independence", number, family(drawn), str(drawn))
    restated = list(stated_otherwise(drawn, np.random.default_rng([27, number])).items())
    what, other = restated[number // 4 % len(restated)]
    tries = {"default": (drawn, {}), what: (other, {})}
    tries |= {f"init={init:g}": (drawn, {"init": init}) for init in STARTS}
    results, said = {}, {}
    try:
        for name, (problem, options) in tries.items():
            search = search_of(problem, verdict, **options)
            results[name] = _in_units(problem, drawn, search)
            said[name] = outcome(search)
    except Unfit:
        return verdict
    values = np.array([r[0] for r in results.values()])
    errors = np.array([r[1] for r in results.values()])
    if not (errors <= 0.1 * WORSE * values).all():
        verdict.undecided.append(f"results known to {errors.max():.1g} only")
        return verdict
    null = max(r[2] for r in results.values())
    loose = 1.0 if drawn.kind.convex else APART / WORSE
    for cause in (what, "start"):
        names = [k for k in results if k == "default" or (k == what) == (cause == what)]
        own = np.array([results[k][0] for k in names])
        least, most = own.min(axis=0), own.max(axis=0)
        bound = loose * np.maximum(WORSE * least, WORSE_OF_NULL * null)
        if (most - least > bound + errors.max(axis=0)).any():
            j = int(np.argmax((most - least) / bound))
            shown = "; ".join(f"{k}: {results[k][0][j]:.8g} ({said[k]})" for k in names)
            excess = (most[j] - least[j]) / max(least[j], WORSE * null)
            verdict.breaks(f"depends on {cause}", excess, shown)
    return verdict


def _in_units(problem, original, search):
    """Return the criterion at a result, its error, and the null model's loss.

    Of each target, in the units of the original, where each has a penalty.
    """
    truth = Truth(problem)
    found = at_result(truth, search)
    if not isinstance(problem.penalty, str) or problem.penalty != "output":
        return found.values, found.errors, found.null
    values = by_target(truth, found)[0]
    errors = found.errors[0] * values / values.max()
    if problem.kind.targets == "classes":
        return np.sort(values), errors, 0.0
    unit = problem.y.std(axis=0) / original.y.std(axis=0)
    return values / unit**2, errors / unit**2, 0.0


# The script.

CHECKS = {
    "grid": check_grid,
    "fewer": check_fewer,
    "outputs": check_outputs,
    "certificate": check_certificate,
    "independence": check_independence,
    "zoo": check_zoo,
}
PROBLEMS = {
    "grid": one_penalty,
    "fewer": several_penalties,
    "outputs": several_targets,
    "certificate": any_penalty,
    "independence": any_penalty,
}


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
    for promise in options.only or PROBLEMS:
        for number in numbers(promise, options):
            verdicts.append(check(promise, number))
            if verdicts[-1].broken:
                write(verdicts[-1])
    write(summary(verdicts))
    write(f"{time.perf_counter() - begin:.0f} s, {sum(v.seconds for v in verdicts):.0f} s of fits")
    return 1 if any(v.broken for v in verdicts) else 0


def numbers(promise, options):
    """Return the numbers of as many problems as are asked for, of the kinds asked for."""
    if promise == "zoo":
        wanted = (k for k, animal in enumerate(ZOO) if str(animal).startswith(options.kind))
    else:
        of = PROBLEMS[promise]
        every = itertools.count(options.seed)
        wanted = (k for k in every if family(of(k)).startswith(options.kind))
    return itertools.islice(wanted, options.n)


def write(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
