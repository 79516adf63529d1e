"""True values of drawn problems, and what a search reports of them.

The references come from ``exact.py``, which shares no code with the library. Where a reference is
not accurate enough, a case is undecided, and nobody's failure.

Run as a script, it tries more problems than the tests do, and looks closer::

    python tests/truth.py --n 500 --seed 3 --only ridge
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import re
import signal
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from draws import KINDS, Drawn, draw, splits_of
from exact import LONG, Problems, adjoints, objectives, predictors, rounding, solve, squared
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from hoag_shine import ShineCV, fold_problems, hoag
from hoag_shine.estimators.registry import as_model

# What a result promises of its criterion, relative to it, beside its own ``error``.
PROMISED = 3e-6
# A criterion is a number near zero where it is less than this share of the null model's loss.
NULL_SHARE = 1e-3
# Coefficients and predictions of the final fit, relative to their norms.
COEFFICIENTS = 1e-3
# How far a criterion of a loss that is not convex may be off, whatever its estimated error is.
ESTIMATE = 1e-2
# A reference that is not known to this share of the criterion decides nothing.
DECISIVE = 1e-8
# Where a loss is not convex, values further apart may belong to different minima.
APART = 1e-2
# No search of so small data may take longer, on a slow processor either.
MOST_SECONDS = 60.0


# True values of a drawn problem.


class Truth:
    """The exact values of a drawn problem at given penalties."""

    def __init__(self, drawn, *, thorough=True):
        self.drawn, self.thorough, kind = drawn, thorough, drawn.kind
        X = drawn.X.toarray() if sparse.issparse(drawn.X) else drawn.X
        self.n, self.p = X.shape
        estimator = drawn.estimator
        self.intercept = bool(estimator.fit_intercept)
        self.couples = drawn.name in ("multinomial", "huber")
        self.X = np.column_stack([X.astype(LONG), np.ones(self.n, dtype=LONG)])
        self.weight = np.ones(self.n) if drawn.sample_weight is None else drawn.sample_weight
        self.splits = splits_of(drawn.cv, kind, drawn.y)
        self.loss = kind.loss(estimator, drawn.y)
        self.Y = self._targets()  # (n, outputs)
        self.n_outputs = 1 if drawn.name == "huber" else self.Y.shape[1]
        self.free = np.ones((self.p + 1, self.Y.shape[1]), dtype=bool)
        self.free[-1] = self.intercept
        if drawn.name == "huber":
            self.free[:-1, 1], self.free[-1, 1] = False, True
        if drawn.name == "multinomial":  # a constant in all classes changes nothing
            self.free[-1, -1] = False
        if not self.couples:
            self.free = self.free[:, :1]

    def _targets(self):
        kind, y = self.drawn.kind, self.drawn.y
        if kind.targets == "classes":
            member = (y[:, None] == np.arange(kind.n)).astype(float)
            if kind.n == 2:
                member = member[:, 1:]
            return 2.0 * member - 1.0 if kind.coded == "-1/1" else member
        y = np.asarray(y, dtype=float)
        y = y[:, None] if y.ndim == 1 else y
        return np.column_stack([y, np.zeros_like(y)]) if self.drawn.name == "huber" else y

    def training_weights(self, times):
        """Return (n, outputs), or one column where the outputs are coupled."""
        kind, y, name = self.drawn.kind, self.drawn.y, self.drawn.name
        drawn = times * self.weight
        outputs = 1 if self.couples else self.n_outputs
        if kind.normalised:
            drawn = drawn / drawn.sum()
        weights = np.repeat(drawn[:, None], outputs, axis=1)
        asked = getattr(self.drawn.estimator, "class_weight", None)
        if asked is None:
            return weights
        if asked == "balanced":
            # Of rows for RidgeClassifier, of their weights for the others.
            counted = times if name.startswith("ridge") else drawn
            mass = np.bincount(y, counted, minlength=kind.n)
            per_class = mass.sum() / (kind.n * mass)
        else:
            per_class = np.array([asked.get(c, 1.0) for c in range(kind.n)])
        if name == "svc-classes":  # liblinear weighs a class only against the rest
            positive = y[:, None] == np.arange(kind.n)
            return weights * np.where(positive, per_class[y][:, None], 1.0)
        return weights * per_class[y][:, None]

    def strengths(self, params, names):
        """Return h of shape (p + 1, outputs), given ``params`` as in ``best_params_``."""
        ((parameter, value),) = params.items()
        alpha = np.atleast_1d(np.asarray(value, dtype=float))
        alpha = 1.0 / alpha if parameter == "C" else alpha
        alpha = self.drawn.kind.strength * alpha
        h = np.zeros((self.p + 1, self.n_outputs))
        penalty = self.drawn.penalty
        if isinstance(penalty, str):
            h[:-1] = alpha[:, None] if penalty == "feature" else alpha
        else:
            of = dict(zip(names, alpha, strict=True))
            h[:-1] = np.array([of.get(label, 0.0) for label in penalty])[:, None]
        liblinear = self.drawn.name in ("logistic-liblinear", "svc", "svc-classes")
        common = isinstance(penalty, str) and (penalty in ("shared", "output") or self.p == 1)
        if liblinear and self.intercept and common:
            # The coefficient of one more column, which is intercept_scaling everywhere.
            h[-1] = alpha / self.drawn.estimator.intercept_scaling**2
        if self.drawn.name == "huber":
            h = np.column_stack([h, np.zeros(self.p + 1)])
        return h

    def _problems(self, strengths, times):
        """Return the problems of (penalties, folds, outputs), in this order."""
        weights = [self.training_weights(t) for t in times]  # each (n, O)
        y, train, hs = [], [], []
        for h in strengths:
            for w in weights:
                if self.couples:
                    y.append(self.Y)
                    train.append(w[:, 0])
                    hs.append(h)
                    continue
                for o in range(self.n_outputs):
                    y.append(self.Y[:, [o]])
                    train.append(w[:, o])
                    hs.append(h[:, [o]])
        y, train, hs = np.stack(y), np.stack(train), np.stack(hs)
        start = np.zeros_like(hs)
        start[:, -1] = self._guess(y, train)
        return Problems(self.loss, self.X, y, train, hs, self.free, start * self.free)

    def _guess(self, y, train):
        """Return intercepts to start from."""
        mean = np.einsum("bn,bnm->bm", train / train.sum(axis=1, keepdims=True), y)
        kind = self.drawn.kind
        if self.drawn.name == "huber":
            centre = np.median(self.Y[:, 0]) if self.intercept else 0.0
            size = np.median(np.abs(self.Y[:, 0] - centre)) or 1.0
            return np.array([centre, size])
        if kind.targets in ("counts", "positive"):
            return np.log(np.maximum(mean, 1e-300))
        return mean if kind.loss(self.drawn.estimator, None) is squared else 0.0 * mean

    def _folds(self, strengths):
        """Return the problems of all folds, and the weights of their held-out rows."""
        times = [np.bincount(train, minlength=self.n).astype(float) for train, _ in self.splits]
        held = np.stack(
            [np.bincount(test, minlength=self.n) * self.weight for _, test in self.splits]
        )
        held = held / held.sum(axis=1, keepdims=True)
        outputs = 1 if self.couples else self.n_outputs
        test = np.tile(np.repeat(held, outputs, axis=0), (len(strengths), 1)).astype(LONG)
        return self._problems(strengths, times), test

    def hypergradient(self, theta, ws):
        """Return the hypergradient at inner variables of the folds, and what its error may be.

        The error is that of the refinement, and what rounding in products X w changes.
        """
        w = np.concatenate([self._arranged(each) for each in ws])
        return self._slope(theta, w, self._labels())

    def slope(self, theta, names):
        """Return the derivative of the criterion in log alpha, and what its error may be.

        ``names`` are those of the penalties, in the order of theta.
        """
        strengths = self.strengths({"alpha": np.exp(theta)}, names)
        return self._slope(theta, self.criteria([strengths]).solution.w, names)

    def _slope(self, theta, w, names):
        alpha = np.exp(theta)
        units = [self.strengths({"alpha": row}, names) for row in np.eye(len(alpha))]
        parts = [a * unit for a, unit in zip(alpha, units, strict=True)]
        p, test = self._folds([sum(parts)])
        by_penalty = np.stack([self._folds([part])[0].h for part in parts])
        weights = (by_penalty.astype(LONG) * w).reshape(len(alpha), len(w), -1)
        exact = [-np.einsum("jbv,bv->j", weights, q) / len(w) for q in adjoints(p, test, w)]
        *_, before, last, rounded = [each.astype(float) for each in exact]
        doubt = np.linalg.norm(last - before) + np.linalg.norm(last - rounded)
        return last, 10.0 * float(doubt)

    def _labels(self):
        penalty = self.drawn.penalty
        return () if isinstance(penalty, str) else [k for k in np.unique(penalty) if k >= 0]

    def criteria(self, strengths, hints=None, others=None):
        """Return the values of the criterion at several penalties.

        ``hints`` are inner variables of each penalty's folds, to look near to; or near to
        ``others``, where these have a lower objective.
        """
        p, test = self._folds(strengths)

        def functional(z, w, chosen):
            value = p.loss(p.y[chosen].astype(LONG), z)[0]
            v = test[chosen]
            return np.where(v > 0.0, v * value, 0.0).sum(axis=1, keepdims=True)

        if hints is not None:
            hints = np.concatenate([self._arranged(w) for ws in hints for w in ws])
        near = hints
        if others is not None:
            others = np.concatenate([self._arranged(w) for ws in others for w in ws])
            lower = objectives(p, others) < objectives(p, hints)
            near = np.where(lower[:, None, None], others, hints)
        found = solve(p, functional, thorough=self.thorough, hint=near)
        null = functional(predictors(p.X, p.start.astype(LONG)), None, slice(None)).mean()
        values = Values(p, found, functional, len(strengths), abs(float(null)))
        if hints is not None:
            values.excess = values.excess_of(hints)
        return values

    def fit(self, h, hint=None):
        """Return the fit of all rows: coefficients in the penalty's metric, and predictions."""
        p = self._problems([h], [np.ones(self.n)])
        root = np.sqrt(p.h)

        def functional(z, w, chosen):
            parts = [z[..., : 1 if self.drawn.name == "huber" else None], root[chosen] * w]
            flat = [a.reshape(len(a), -1) for a in parts]
            sizes = [np.linalg.norm(a.astype(float), axis=1, keepdims=True) for a in flat]
            return np.hstack(
                [a / np.where(s > 0.0, s, 1.0) for a, s in zip(flat, sizes, strict=True)]
            )

        hint = None if hint is None else self._arranged(hint)
        return Values(p, solve(p, functional, thorough=self.thorough, hint=hint), functional)

    def coefficients(self, w):
        """Return coefficients (p, outputs) and intercepts of a fit."""
        if self.couples:
            w = w[0]
            if self.drawn.name == "multinomial":
                w[-1] -= w[-1].mean()
        else:
            w = w[:, :, 0].T
        return w[:-1, : self.n_outputs], w[-1, : self.n_outputs]

    def _arranged(self, w):
        """Return a fit's variables, (p + 1, outputs), as those of the problems solved here."""
        w = np.array(w, dtype=LONG)
        if self.drawn.name == "multinomial":
            w[-1] -= w[-1, -1]
        return w[None] if self.couples else w.T[:, :, None]


@dataclass
class Values:
    """True values, and what is known of their errors."""

    problems: Problems
    solution: Any
    functional: Any
    n: int = 1
    null: float = 0.0
    excess: Any = None

    def excess_of(self, w):
        """Return by what share w exceeds the least objective, in the worst of the folds.

        Where all variables have penalties, this share of the objective is at least half the squared
        distance to the solution in the metric of the penalty.
        """
        least = self.solution.objective
        excess = (objectives(self.problems, w) - least) / least
        return excess.reshape(self.n, -1).max(axis=1).astype(float)

    @property
    def values(self):
        return self.solution.f.reshape(self.n, -1).mean(axis=1).astype(float)

    @property
    def errors(self):
        return 10.0 * self.solution.error.reshape(self.n, -1).mean(axis=1)

    def rounding(self):
        """Return how far double precision may be off."""
        each = rounding(self.problems, self.solution.w, self.functional)
        return 10.0 * each.reshape(self.n, -1).mean(axis=1)


# The comparison.


@dataclass
class Verdict:
    """What came of one problem."""

    drawn: Drawn
    failures: dict = field(default_factory=dict)
    undecided: list = field(default_factory=list)
    references: list = field(default_factory=list)  # that a closer look has mended
    warned: bool = False
    seconds: float = 0.0
    messages: list = field(default_factory=list)

    def __str__(self):
        what = "; ".join(f"{kind}: {text}" for kind, text in self.failures.items())
        return f"{self.drawn}\n    {what}"


class TooSlow(Exception):
    """A search has taken far too long."""


@contextlib.contextmanager
def limit(seconds):
    """End what takes more of the processor's time, where the platform can."""
    if not hasattr(signal, "SIGPROF"):
        yield
        return

    def late(signum, frame):
        raise TooSlow

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def check(seed, *, thorough=False, patience=1.25 * MOST_SECONDS):
    """Fit the problem of that number and compare it with the truth.

    With ``thorough``, whatever it takes: all records of the history, and all references.
    """
    drawn = draw(seed)
    verdict = Verdict(drawn)
    search = ShineCV(drawn.estimator, cv=drawn.cv, penalty=drawn.penalty, **drawn.options)
    begin = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with limit(patience):
                search.fit(drawn.X, drawn.y, sample_weight=drawn.sample_weight)
        except TooSlow as error:
            verdict.failures["slow"] = f"ended after {patience:g} s, in {_places(error)}"
            return verdict
        except ValueError as error:
            # An exponential that no float holds is an error that says so, and what to do.
            if drawn.ordinary or "not finite" not in str(error):
                verdict.failures["raised"] = f"{type(error).__name__}: {error}"
            verdict.warned = True
            return verdict
        except Exception as error:  # noqa: BLE001
            verdict.failures["raised"] = f"{type(error).__name__}: {error}, in {_places(error)}"
            return verdict
        finally:
            verdict.seconds = time.process_time() - begin
    if verdict.seconds > MOST_SECONDS:
        verdict.failures["slow"] = f"{verdict.seconds:.1f} s"
    verdict.messages = [str(w.message) for w in caught]
    for w in caught:
        if not issubclass(w.category, ConvergenceWarning):
            verdict.failures["other warning"] = f"{w.category.__name__}: {w.message}"
    # That a search was ended early says nothing of the values that it returns.
    told = [part for message in verdict.messages for part in re.split(r"(?<=\.) (?=The )", message)]
    of_values = [part for part in told if "search ended" not in part]
    verdict.warned = bool(of_values)
    if of_values and drawn.ordinary and drawn.kind.convex:  # others may have no end to find
        verdict.failures["warns"] = of_values[0]
    with np.errstate(all="ignore"):
        truth = Truth(drawn, thorough=thorough)
        _check_history(verdict, search, truth)
        _check_fit(verdict, search, truth)
    return verdict


def _places(error):
    """Return the functions of the package that an error has passed through, innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f"{Path(f.filename).stem}.{f.name}" for f in frames if "hoag_shine" in f.filename]
    return " > ".join(inside[-5:])


def _check_history(verdict, search, truth):
    """Compare some records with the truth, after a closer look at those that differ."""
    history, best = search.history_, search.best_index_
    chosen = sorted(range(len(history)) if truth.thorough else {best, len(history) // 2})
    if history[best]["criterion"] != -search.best_score_:
        verdict.failures["best_score is not history's"] = f"{history[best]} {search.best_score_}"
    strengths = [truth.strengths(history[i]["params"], search.penalty_names_) for i in chosen]
    truths = truth.criteria(strengths)
    allowed = np.zeros(len(chosen))
    if _unsure(verdict, search, chosen, truths):
        hints, others = _replayed(verdict.drawn, search, chosen)
        better = truth.criteria(strengths, hints, others) if hints else truths
        if not hints:
            verdict.messages.append("the search could not be repeated")
        moved = np.abs(better.values - truths.values) > truths.errors + better.errors
        verdict.references += [f"record {chosen[k]}" for k in np.flatnonzero(moved)]
        truths, allowed = better, better.rounding()
    for k, i in enumerate(chosen):
        _judge(verdict, search, i, truths, k, float(allowed[k]))


def _unsure(verdict, search, chosen, truths):
    """Whether a record differs, or the truth is not known of one that nobody has warned of."""
    for k, i in enumerate(chosen):
        size, promised, off = _sizes(search, i, truths, k)
        if not truths.errors[k] <= DECISIVE * size:
            if not verdict.warned:
                return True
        elif off > search.history_[i]["error"] + promised + truths.errors[k]:
            return True
    return False


def _sizes(search, i, truths, k):
    """Return a record's size, what is allowed beside its own error, and its difference."""
    record, true = search.history_[i], truths.values[k]
    size = max(abs(true), NULL_SHARE * truths.null)
    best = i == search.best_index_
    promised = min(0.5 * search.tol**2, PROMISED) * size if best else 1e-9 * size
    return size, promised, abs(record["criterion"] - true)


def _judge(verdict, search, i, truths, k, lost):
    """Note what is wrong with a record, of which ``lost`` is what rounding may take."""
    record, best = search.history_[i], i == search.best_index_
    found, claimed = record["criterion"], record["error"]
    name = "best_score" if best else "history"
    true, error = float(truths.values[k]), float(truths.errors[k])
    if not (np.isfinite(found) and found >= 0.0 and claimed >= 0.0):  # as is every loss here
        verdict.failures[f"impossible ({name})"] = f"{found:.6g} +- {claimed:.2g}"
        return
    size, promised, off = _sizes(search, i, truths, k)
    rounded = not lost <= 0.1 * min(0.5 * search.tol**2, PROMISED) * size
    if not error <= DECISIVE * size or rounded:
        verdict.undecided.append(f"{name} {i}: {true:.6g} +- {error:.1g}, rounding {lost:.1g}")
        return
    if not verdict.drawn.kind.convex and off > APART * size:
        verdict.undecided.append(f"{name} {i}: perhaps another minimum")
        return
    # Without convexity, an error is an estimate that nothing bounds.
    doubt = 0.0 if verdict.drawn.kind.convex else ESTIMATE * size
    if off > claimed + promised + error + lost + doubt and not (verdict.warned and best):
        verdict.failures[name + verdict.warned * " (warned)"] = (
            f"record {i} ({record['method'] or 'shine'}) {found:.9g} +- {claimed:.2g}, "
            f"true {true:.9g}, off {off / size:.1e}, rounding {lost / size:.1e}"
            + ("" if truths.excess is None else f", objective off {truths.excess[k]:.1e}")
        )
    if best and claimed > promised + 1e-9 * size + lost and not verdict.warned:
        verdict.failures["error exceeds promise"] = f"{found:.6g} +- {claimed:.2g}, true {true:.9g}"


def _replayed(drawn, search, chosen):
    """Return the inner variables of some records, from the same search once more; None if not.

    With them, those of searches that begin where the records are, and end there.
    """
    problems = problems_of(drawn)
    records = search.history_
    bounds = tuple(np.sort([theta_of(search, b) for b in search.bounds], axis=0))
    found = {}

    def look(record, solutions):
        i = record["iteration"]
        if np.array_equal(record["theta"], records[i]["theta"]):
            found[i] = [np.array(s.w) for s in solutions]
        return i >= max(chosen)

    options = {name: getattr(search, name) for name in ("hypergradient", "tol", "max_iter")}
    first = np.array(records[0]["theta"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ValueError):  # of a search that is told to end
            hoag(problems, first, bounds=bounds, callback=look, **options)
    if not set(chosen) <= set(found):
        return None, None
    hints = [[variables(drawn, w) for w in found[i]] for i in chosen]
    return hints, solved_at(drawn, [records[i]["theta"] for i in chosen])


def problems_of(drawn):
    """Return the library's inner problems of a drawn problem."""
    return fold_problems(
        drawn.estimator,
        drawn.X,
        drawn.y,
        cv=drawn.cv,
        penalty=drawn.penalty,
        sample_weight=drawn.sample_weight,
    )


def theta_of(search, value):
    """Return the hyperparameters of the library's problems for a value of the parameter."""
    first = search.history_[0]
    ((parameter, start),) = first["params"].items()
    sign = -1.0 if parameter == "C" else 1.0
    return np.ravel(first["theta"])[0] + sign * (np.log(value) - np.log(np.ravel(start)[0]))


def solved_at(drawn, thetas):
    """Return the library's accurate solutions, as variables; None where they are not finite."""
    problems = problems_of(drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = [hoag(problems, np.array(theta), max_iter=1) for theta in thetas]
        except ValueError:
            return None
    return [[variables(drawn, s.w) for s in one.solutions] for one in found]


def variables(drawn, w):
    """Return the library's inner variables as coefficients and intercepts, (p + 1, outputs).

    Its intercepts are counted from the middle of the targets, and Huber's scale in their unit.
    """
    huber, p = drawn.name == "huber", drawn.X.shape[1]
    intercept = drawn.estimator.fit_intercept
    w = w.reshape(p + (1 if intercept or huber else 0), -1)
    if not (intercept or huber):
        return np.vstack([w, np.zeros_like(w[:1])])
    model = as_model(clone(drawn.estimator))
    model.encode(drawn.y)
    w = w.copy()
    w[-1] += model.offset
    if huber:
        w[-1, 1] = model.loss.scale(w[-1, 1])
    return w


def _check_fit(verdict, search, truth):
    """Compare the final fit: predictions, and coefficients in the penalty's metric."""
    fitted = search.best_estimator_
    h = truth.strengths(search.best_params_, search.penalty_names_)
    coef = np.atleast_2d(fitted.coef_).T.astype(LONG)
    intercept = np.zeros(truth.n_outputs) + np.atleast_1d(fitted.intercept_)
    if not np.isfinite(coef).all() or not np.isfinite(intercept).all():
        verdict.failures["impossible (coef)"] = "not finite"
        return
    if verdict.warned or not truth.drawn.kind.convex:
        return
    found = truth.fit(h)
    wrong = _wrong(fitted, coef, intercept, h, found, truth)
    lost = 0.0
    if wrong or not found.errors.max() <= DECISIVE:
        hint = np.vstack([coef, intercept])
        if truth.drawn.name == "huber":
            hint = np.column_stack([hint, np.r_[np.zeros(truth.p), fitted.scale_]])
        better = truth.fit(h, hint)
        if (better.solution.objective < (1.0 - 1e-12) * found.solution.objective).any():
            verdict.references.append("fit")
        found = better
        wrong = _wrong(fitted, coef, intercept, h, found, truth)
        lost = float(found.rounding().max()) if wrong else 0.0
    if not found.errors.max() <= DECISIVE or not lost <= 0.1 * COEFFICIENTS:
        verdict.undecided.append(f"fit: error {found.errors.max():.1g}, rounding {lost:.1g}")
        return
    verdict.failures |= wrong


def _wrong(fitted, coef, intercept, h, found, truth):
    """Return what differs from the true fit by more than it should."""
    w, b = truth.coefficients(found.solution.w)
    X = truth.X[:, :-1]
    if truth.intercept and not h[-1].any():
        # Beside a free intercept, a constant column has no coefficient. Where its penalty is weak,
        # no precision tells the two apart by the objective.
        constant = (np.ptp(X, axis=0) == 0.0) & h[:-1].all(axis=1)
        b = b + X[0, constant] @ w[constant]
        w = np.where(constant[:, None], 0.0, w)
    h = h[:-1, : truth.n_outputs]
    z = X @ w + b
    pairs = {
        "coef": (np.sqrt(h) * (coef - w), np.sqrt(h) * w),
        "predictions": (X @ coef + intercept - z, z),
        "intercept": (intercept - b, np.hstack([b, np.sqrt(np.mean((X @ w) ** 2, axis=0))])),
    }
    # What is stored in single precision is rounded to it.
    eps = float(np.finfo(np.asarray(fitted.coef_).dtype).eps)
    wrong = {}
    for name, (difference, whole) in pairs.items():
        size = float(np.linalg.norm(whole.astype(float)))
        off = float(np.linalg.norm(difference.astype(float)))
        parts = np.abs(X) @ np.abs(w) + np.abs(b)
        lost = 0.0 if name == "coef" else eps * float(np.linalg.norm(parts.astype(float)))
        if off > COEFFICIENTS * size + lost + 1e-12 * unit(truth):
            wrong[name] = f"off {off / (size or 1.0):.1e}"
    return wrong


def unit(truth):
    """Return the size of what predictors should reach, for fits that are zero."""
    return float(np.abs(truth.Y).max()) if truth.drawn.kind.targets in ("real", "outliers") else 1.0


def seeds(n, start=0, only=None):
    """Return the numbers of n problems, of the kinds whose name begins with ``only``."""
    names = list(KINDS)
    number, found = start, []
    while len(found) < n:
        if only is None or names[number % len(names)].startswith(only):
            found.append(number)
        number += 1
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=200, help="number of problems")
    parser.add_argument("--seed", type=int, default=0, help="number of the first")
    parser.add_argument("--only", help="beginning of the kinds' names")
    parser.add_argument("--quick", action="store_true", help="look no closer than the tests do")
    parser.add_argument(
        "--patience", type=float, default=1.25 * MOST_SECONDS, help="seconds, then a fit is ended"
    )
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    from joblib import Parallel, delayed

    begin = time.perf_counter()
    numbers = seeds(options.n, options.seed, options.only)
    asked = {"thorough": not options.quick, "patience": options.patience}
    if options.jobs == 1:
        verdicts = []
        for number in numbers:
            verdicts.append(check(number, **asked))
            if verdicts[-1].failures:
                write(verdicts[-1])
    else:
        run = delayed(check)
        verdicts = Parallel(options.jobs)(run(number, **asked) for number in numbers)
        for verdict in verdicts:
            if verdict.failures:
                write(verdict)
    write(summary(verdicts))
    write(f"{time.perf_counter() - begin:.0f} s, {sum(v.seconds for v in verdicts):.0f} s of fits")
    return 1 if any(v.failures for v in verdicts) else 0


def write(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def summary(verdicts):
    """Return how many problems failed, by what and by kind."""
    failed = collections.Counter(k for v in verdicts for k in v.failures)
    where = collections.Counter((k, v.drawn.name) for v in verdicts for k in v.failures)
    head = (
        f"{len(verdicts)} problems: {sum(bool(v.failures) for v in verdicts)} failed, "
        f"{sum(v.warned for v in verdicts)} warned of their accuracy, "
        f"{sum(bool(v.undecided) for v in verdicts)} undecided in part"
    )
    lines = [head]
    mended = [f"{v.drawn.seed} ({', '.join(v.references)})" for v in verdicts if v.references]
    if mended:
        lines.append(f"  references at fault at first: {', '.join(mended)}")
    for kind, count in failed.most_common():
        names = ", ".join(f"{name} {m}" for (k, name), m in where.most_common() if k == kind)
        lines.append(f"  {kind}: {count} ({names})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
