"""A search in several hyperparameters."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ...inner.inverse_hessian import InverseHessian
from .base import Ask, Evaluation, Outcome, StepRule, Vector, ending, outward, pessimistic
from .certificate import certify, likely_step
from .evaluations import Evaluations
from .global_search import global_search
from .secant import FIRST_STEP_LENGTH

# Trust region radius at first: what one log hyperparameter may change in a step.
# Why: the model knows nothing yet, and over more than one unit the criterion is no parabola.
FIRST_RADIUS = 1.0
# The largest radius.
# Why: by judgement. Penalties of columns that are noise grow without end, and long steps get them
# there sooner.
LARGEST_RADIUS = 4.0
# Pairs that the quasi-Newton model of the criterion keeps.
# Why: by judgement: half of what L-BFGS usually has, since searches take few steps.
MODEL_PAIRS = 10
# Pairs without which the model may not end a search (fewer for fewer hyperparameters).
# Why: by judgement. A model with fewer knows the curvature in one or two directions only, and there
# were searches that ended too early by it.
MIN_MODEL_PAIRS = 3
# Share of the criterion that the model must promise for the search to go on, where evaluations are
# exact; elsewhere it is tol**2.
# Why: less is lost by ending there than fewer hyperparameters would gain: at tol**2 alone, several
# penalties ended above the shared one on 6 of 10 small sets.
EXACT_GAIN_SHARE = 2e-5
# Most steps by all evaluations near by, after those of the model.
# Why: by judgement; with up to 30 hyperparameters such a step is Newton's and few are needed.
MAX_POLISH_STEPS = 10
# Length of a step, in log hyperparameters, that counts as none.
# Why: by judgement; no criterion changes over it by as much as the smallest tol allows.
SHORTEST_STEP_LENGTH = 1e-6
# Most hyperparameters that are searched over their ranges one by one.
# Why: by judgement; each looks at a whole range, of which a grid has 20 values.
MAX_SINGLE_SEARCHES = 12
# Places with two equal hyperparameters that a search goes on from, for each hyperparameter.
# Why: of eight drawn problems with 3 to 8 penalties that had ended above a coarser grouping, one
# place for each penalty left two, and two left one.
MERGED_PLACES = 2
# Error of a value that is allowed here, in units of what a search for one hyperparameter allows.
# Why: a value that is too good to be true makes every later step look like a failure, and searches
# ended too early.
GAIN_CAUTION_FACTOR = 0.3
# Error of a hypergradient that is allowed here, as a share of its norm; see GRADIENT_ERROR_SHARE.
# Why: one that is wrong in some components spoils the model, whose pairs are differences of two.
MODEL_GRADIENT_ERROR_SHARE = 0.5


def trust_region(
    theta: Vector,
    lower: Vector,
    upper: Vector,
    tol: float,
    first_step: float = FIRST_STEP_LENGTH,
    accuracy: float | None = None,
    looks: bool = True,
) -> StepRule:
    r"""Search one common shift of all hyperparameters, then each of them.

    The first stage is :func:`global_search` along :math:`\theta + t\,(1, \ldots, 1)`. The second is
    a trust-region method [1]_ whose quasi-Newton model has the memory of L-BFGS, so that its cost
    is linear in the number of hyperparameters. The region is a box: no hyperparameter moves by more
    than the radius in one step. The radius shrinks where the criterion does not fall and grows
    where it falls as the model says. A hyperparameter on a bound that the criterion falls beyond
    stays there. Where evaluations are exact and the hyperparameters are at most 12, each is then
    searched over its whole range while the others stay, and every two are made equal; the second
    stage is run again wherever that gains something.

    It ends when a step changes no hyperparameter by more than ``tol``, or should gain no more than
    ``tol**2`` of the criterion by a model that has seen curvature; where evaluations are exact, no
    more than 2e-5 of it.

    References
    ----------
    .. [1] A. R. Conn, N. I. M. Gould and P. L. Toint, *Trust-Region Methods*, SIAM 2000, chapter 6.
    """
    search = _Several(theta, lower, upper, tol, accuracy, looks)
    start = np.ones_like(theta)
    best = yield from search.on_line(theta, start, first_step)
    best = yield from search.by_model(best, first_step)
    if looks and best.exact and theta.size <= MAX_SINGLE_SEARCHES:
        alone = yield from search.one_by_one(best, first_step)
        best = yield from search.merged(alone, first_step)
        if best is not alone:
            best = yield from search.one_by_one(best, first_step)
        if search.best is not best:  # by less than counts, but it is the result
            yield from search.by_model(search.best, first_step)
    return search.outcome()


class _Several(Evaluations):
    """The stages of a search in several hyperparameters, which share what they have seen."""

    def __init__(
        self,
        theta: Vector,
        lower: Vector,
        upper: Vector,
        tol: float,
        accuracy: float | None,
        looks: bool,
    ) -> None:
        super().__init__()
        self.looks = looks
        self.lower, self.upper, self.tol, self.accuracy = lower, upper, tol, accuracy

    def negligible(self, evaluation: Evaluation) -> float:
        share = min(self.tol**2, EXACT_GAIN_SHARE) if evaluation.exact else self.tol**2
        return share * evaluation.size

    def outcome(self) -> Outcome:
        """Return how the search ends: uncertain, if errors are known and more may be gained."""
        best = self.best
        certain = self.gain(best) <= self.tol**2 * best.size or not (
            best.exact or best.slope_error < np.inf
        )
        return ending(best, self.lower, self.upper) if certain else Outcome.UNCERTAIN

    def ask(self, ask: Ask) -> Generator[Ask, Evaluation, Evaluation]:
        """Ask, and remember the answer."""
        evaluation = yield ask
        self.add(evaluation, look=ask.look)
        return evaluation

    def gain(self, evaluation: Evaluation) -> float:
        """Return what can at most be gained around an evaluation, by its certificate."""
        return certify(self.newest, evaluation, self.lower, self.upper).gain

    def on_line(
        self, base: Vector, direction: Vector, first_step: float, *, looks: bool | None = None
    ) -> Generator[Ask, Evaluation, Evaluation]:
        """Run :func:`global_search` along a direction of zeros and ones; return the best."""
        # On the line base + t direction, as far as any of those that move is from its bound; those
        # that arrive there sooner wait.
        moved = direction > 0.0
        reach = (self.lower - base)[moved].min(), (self.upper - base)[moved].max()
        lower, upper = np.array(reach[:1]), np.array(reach[1:])
        looks = self.looks if looks is None else looks
        search = global_search(
            np.zeros(1), lower, upper, self.tol, first_step, self.accuracy, looks
        )
        ask = next(search)
        best: Evaluation | None = None
        while True:
            shifted = np.clip(base + ask.theta * direction, self.lower, self.upper)
            evaluation = yield from self.ask(ask._replace(theta=shifted))
            if not ask.look:
                best = evaluation if best is None else min(best, evaluation, key=pessimistic)
            try:
                ask = search.send(_along(evaluation, ask.theta, moved))
            except StopIteration:
                assert best is not None
                return best

    def one_by_one(
        self, best: Evaluation, first_step: float
    ) -> Generator[Ask, Evaluation, Evaluation]:
        """Search each hyperparameter over its range while the others stay; return the best."""
        before = best
        for unit in np.eye(best.theta.size):
            found = yield from self.on_line(best.theta, unit, 0.5 * first_step)
            best = self.lower_of(best, found)
        return best if best is before else (yield from self.by_model(best, first_step))

    def merged(self, best: Evaluation, first_step: float) -> Generator[Ask, Evaluation, Evaluation]:
        """Search from where two hyperparameters are equal, for each two; return the best.

        The criterion may have several minima. Where two groups are merged, it may be lower, near
        another minimum, than at the best place so far. The lowest of these places are gone on from.
        """
        places: list[Evaluation] = []
        for pair in combinations(range(best.theta.size), 2):
            two = np.isin(np.arange(best.theta.size), pair)
            equal = np.where(two, best.theta[two].mean(), best.theta)
            places.append(
                (yield from self.on_line(equal, two.astype(float), first_step, looks=False))
            )
        places.sort(key=pessimistic)
        for place in places[: MERGED_PLACES * best.theta.size]:
            found = yield from self.by_model(place, first_step, polish=False)
            if self.lower_of(best, found) is found:
                best = yield from self.by_model(found, first_step)
        return best

    def lower_of(self, best: Evaluation, found: Evaluation) -> Evaluation:
        """Return the best of two, the first if the second is not lower by more than negligible."""
        gained = best.value - found.value - found.error > self.negligible(best)
        return found if gained else best

    def by_model(
        self, evaluation: Evaluation, first_step: float, *, polish: bool = True
    ) -> Generator[Ask, Evaluation, Evaluation]:
        """Minimise by quasi-Newton steps from an evaluation; return the best one."""
        model, polished = InverseHessian(evaluation.theta.size, MODEL_PAIRS), 0
        better: Vector | None = None
        radius, largest = min(FIRST_RADIUS, first_step), LARGEST_RADIUS
        fewest = min(MIN_MODEL_PAIRS, evaluation.theta.size)
        while True:
            # The model is f + slope t + t**2 kappa / 2 along the step, with its minimum at t = 1:
            # there it promises half of the slope as gain.
            step, slope = self._step(model, better, evaluation, radius)
            gain, length = -0.5 * slope, float(np.abs(step).max())
            wanted = max(GAIN_CAUTION_FACTOR * evaluation.share * gain, self.negligible(evaluation))
            grad = MODEL_GRADIENT_ERROR_SHARE * float(np.linalg.norm(evaluation.grad))
            short = evaluation.error > wanted and not evaluation.final
            if short or evaluation.improvable(grad):
                evaluation = yield from self.ask(Ask(evaluation.theta, wanted, grad_accuracy=grad))
                continue
            seen = model.n_pairs >= fewest or length <= self.tol * radius
            # The certificate takes the slope for constant over twice the step, which is four times
            # the gain; or if the slope is an estimate, over the step, with its error added.
            promised = (4.0 if evaluation.exact else 2.0 + 2.0 * MODEL_GRADIENT_ERROR_SHARE) * gain
            close = length <= self.tol and not evaluation.exact
            if (close or promised <= self.negligible(evaluation)) and seen:
                # Other evaluations near here may know of a gain that the model does not.
                if polished == MAX_POLISH_STEPS or not (polish and evaluation.exact):
                    return evaluation
                if self.gain(evaluation) <= self.negligible(evaluation):
                    return evaluation
                better, polished = likely_step(self.newest, evaluation), polished + 1
                radius = max(radius, 2.0 * float(np.abs(better).max()))
                step, slope = self._step(model, better, evaluation, radius)
                gain, length = -0.5 * slope, float(np.abs(step).max())
            if length < SHORTEST_STEP_LENGTH or not slope < 0.0:
                return evaluation
            trial = yield from self.ask(Ask(evaluation.theta + step, wanted))
            # The pair is exact whether or not the step is taken: the model learns from failures,
            # too.
            if np.isfinite(trial.value):
                model.append(trial.theta - evaluation.theta, trial.grad - evaluation.grad)
            # Conn, Gould and Toint, algorithm 6.1.1: the ratio of the fall to the gain that was
            # promised says how far the model can be trusted; any fall is accepted.
            fall = evaluation.value - trial.value
            if fall > 0.5 * gain:
                radius = min(max(radius, 2.0 * length), largest)
            elif fall <= 0.0:
                # To the minimum of the parabola through both values with the slope -2 gain at the
                # start, but between a tenth and half of the step.
                radius = length * min(max(gain / (2.0 * gain - fall), 0.1), 0.5)
            if fall > 0.0:
                evaluation, better = trial, None

    def _step(
        self, model: InverseHessian, better: Vector | None, evaluation: Evaluation, radius: float
    ) -> tuple[Vector, float]:
        """Return a step within radius and bounds, and the criterion's slope along it.

        The first of these that leads downhill: ``better`` if there is one, the model's step, the
        gradient scaled to the radius. All are given with the opposite sign.
        """
        blocked = outward(evaluation, self.lower, self.upper)
        grad = np.where(blocked, 0.0, evaluation.grad)
        candidates = [grad * radius / max(float(np.abs(grad).max()), np.finfo(float).tiny)]
        if model.n_pairs:
            candidates.insert(0, model @ grad)
        if better is not None:
            candidates.insert(0, better)
        for candidate in candidates:
            reach = np.clip(np.where(blocked, 0.0, candidate), -radius, radius)
            step = np.clip(evaluation.theta - reach, self.lower, self.upper) - evaluation.theta
            slope = float(step @ grad)
            if slope < 0.0:
                break
        return step, slope


def _along(evaluation: Evaluation, theta: Vector, moved: NDArray[np.bool_]) -> Evaluation:
    """Return an evaluation as seen on a line: its derivative is the sum of those that move."""
    # A sum of n errors is at most the root of n times their norm.
    more = float(np.sqrt(moved.sum()))
    return replace(
        evaluation,
        theta=theta,
        grad=np.array([evaluation.grad[moved].sum()]),
        grad_error=more * evaluation.grad_error,
        grad_bound=more * evaluation.grad_bound,
    )
