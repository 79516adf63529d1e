"""The record of a search, and the best of it."""

from __future__ import annotations

import time
from collections.abc import Container
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inner.lbfgs import Solution
from .separate_oracles import Oracle
from .steps import Ask, Sample
from .steps.base import NotFiniteError, accurately, pessimistic


class Trace:
    """The record of the search, and the best of it.

    Its criterion is to be known to ``accuracy`` of itself in the end. Where the inner problems are
    so small that an exact oracle is at hand, that one looks at the result, whatever has led there.
    """

    def __init__(self, sampler: Oracle, accuracy: float, exact: Oracle | None = None) -> None:
        self.history: list[dict[str, Any]] = []
        self.solutions: list[Solution] = []
        self.unsolved = False
        self.chosen: int | None = None
        self._samples: list[Sample] = []
        self._looks: set[int] = set()  # records that are no candidates for the result
        self._solved_index = 0  # the record that ``solutions`` belong to
        self.sampler = sampler
        self._exact = exact
        self._accuracy = accuracy
        self._spent = self._counters()

    def add(self, sample: Sample, *, look: bool = False) -> dict[str, Any]:
        """Record a sample; one at the theta of the last record takes its place."""
        if not (self._samples and np.array_equal(self._samples[-1].theta, sample.theta)):
            self.history.append({"iteration": len(self.history)})
            self._samples.append(sample)
        self._samples[-1] = sample
        record = self.history[-1]
        record.update(self._facts(sample), **self._costs(record))
        newest = len(self.history) - 1
        record["look"] = look
        (self._looks.add if look else self._looks.discard)(newest)
        if newest in (self.best_index, self._solved_index):
            self._keep_solutions(newest)
        return record

    def _keep_solutions(self, index: int) -> None:
        self.solutions, self._solved_index = self.sampler.solutions, index

    def keep_what_is_solved(self) -> None:
        """Return a record that the solutions belong to, where the end came before all were."""
        if self.chosen is None and self._solved_index != self.best_index:
            self.chosen = self._solved_index

    @property
    def best_index(self) -> int:
        """The record that is lowest even if its error is against it; what is newer replaces."""
        return self._lowest(self._candidates())

    def best_elsewhere(self, theta: NDArray[np.float64]) -> Sample | None:
        """Return the best sample that does not lie at this theta, if there is one."""
        candidates = self._candidates()
        candidates.pop(theta.tobytes(), None)
        return self._samples[self._lowest(candidates)] if candidates else None

    def _candidates(self) -> dict[bytes, int]:
        """Return the newest record at each theta, without looks."""
        return {
            sample.theta.tobytes(): i
            for i, sample in enumerate(self._samples)
            if i not in self._looks
        }

    def _lowest(self, records: dict[bytes, int]) -> int:
        return min(records.values(), key=lambda i: pessimistic(self._samples[i]))

    @property
    def latest(self) -> list[Sample]:
        """The newest sample at each theta."""
        return list({sample.theta.tobytes(): sample for sample in self._samples}.values())

    @property
    def best(self) -> Sample:
        return self._samples[self.best_index]

    @property
    def result_index(self) -> int:
        """The record that is returned: the best, unless another was chosen."""
        return self.best_index if self.chosen is None else self.chosen

    def choose_last(self) -> None:
        """Return the last sample, whichever is best."""
        self.chosen = len(self.history) - 1
        self.solutions = self.sampler.solutions

    @property
    def standard_error(self) -> float:
        """The criterion's standard error at the best sample: that of a mean over the problems."""
        values = self.history[self.best_index]["fold_criteria"]
        return float(np.std(values, ddof=1) / np.sqrt(values.size))

    @property
    def final_ask(self) -> Ask:
        """What makes a sample as accurate as the result must be."""
        return self._accurately(self.best_index)

    def polish(self) -> None:
        """Solve accurately at the best theta, so that its criterion can be taken at its word.

        What looked best may no longer do so then; the next best is tried in its place, and so is
        the start where its error leaves open which is lower.
        """
        exact = None if self.sampler is self._exact else self._exact
        solved: dict[int, list[Solution]] = {}
        while (index := self._doubtful(solved)) is not None:
            if self._solved_index != index or self._short(index):
                self._go_to(index)
            # The error is relative to the value, which may have become smaller.
            while self._short(index) and not (self._ended(index) or self.sampler.late):
                self._replace(index, self.sampler.sample(self._accurately(index)))
            if exact is not None:
                self._settle(index, exact)
            solved[index] = self.solutions
        self.solutions, self._solved_index = solved[self.best_index], self.best_index
        if exact is not None:
            self._measure_errors(solved, exact)
        # What a solver has given up is no more solved than what it had no time for.
        best, ask = self.best, self._accurately(self.best_index)
        unfinished = not best.final and best.tolerance > ask.tolerance
        self.unsolved = unfinished or not best.error <= ask.accuracy

    def _go_to(self, index: int) -> None:
        """Solve accurately at the theta of a record."""
        theta = self._samples[index].theta
        if not np.array_equal(theta, self.sampler.theta):
            self.sampler.restart(theta, [s.w for s in self.solutions])
        try:
            self._replace(index, self.sampler.sample(self._accurately(index)))
        except NotFiniteError:
            # It was once, from other solutions: so little is certain of it.
            self._samples[index] = replace(self._samples[index], error=np.inf, final=True)
            self.history[index]["error"] = np.inf

    def _settle(self, index: int, exact: Oracle) -> None:
        """Replace value and solutions by the exact oracle's; the derivative stays the method's."""
        true = exact.sample(Ask(self._samples[index].theta))
        old, record = self._samples[index], self.history[index]
        self._samples[index] = replace(old, value=true.value, error=true.error, final=True)
        record |= self._costs(record) | {
            "criterion": true.value - true.prior,
            "fold_criteria": exact.fold_values.copy(),
            "error": true.error,
        }
        self.solutions, self._solved_index = exact.solutions, index

    def _measure_errors(self, solved: Container[int], exact: Oracle) -> None:
        """Replace estimated errors of records by what they are, if those are larger."""
        for index, sample in enumerate(self._samples):
            if index not in solved and not self.sampler.late:
                true = exact.sample(Ask(sample.theta))
                error = abs(sample.value - true.value) + true.error
                record = self.history[index]
                record |= self._costs(record) | {"error": max(record["error"], error)}

    def _replace(self, index: int, sample: Sample) -> None:
        """Put a more accurate sample in the place of one at the same theta."""
        self._samples[index] = sample
        record = self.history[index]
        record.update(self._facts(sample), **self._costs(record))
        self._keep_solutions(index)

    def _short(self, index: int) -> bool:
        """Whether a sample is less accurate than a result must be."""
        sample, ask = self._samples[index], self._accurately(index)
        return bool(sample.error > ask.accuracy or sample.tolerance > ask.tolerance)

    def _ended(self, index: int) -> bool:
        return self._samples[index].final or self._samples[index].exhausted

    def _accurately(self, index: int) -> Ask:
        sample = self._samples[index]
        return accurately(sample, self._accuracy)

    def _doubtful(self, solved: Container[int]) -> int | None:
        """Return the record that is to be solved accurately next."""
        best, start = self.best, self._samples[0]
        if self.best_index not in solved:
            return self.best_index
        # Errors are estimates: they may be wrong by a factor.
        behind = best.value + 2.0 * best.error - (start.value - 2.0 * start.error)
        open_question = behind > self._accuracy * best.size
        return 0 if open_question and 0 not in solved else None

    def _facts(self, sample: Sample) -> dict[str, Any]:
        return {
            "theta": sample.theta.copy(),
            "criterion": sample.value - sample.prior,
            "fold_criteria": self.sampler.fold_values.copy(),
            "error": sample.error,
            "hypergradient": sample.grad,
            "hypergradient_norm": float(np.linalg.norm(sample.grad)),
            "hypergradient_error": sample.grad_error,
            "hypergradient_bound": sample.grad_bound,
            "method": sample.used,
            "residual": sample.residual,
            "inner_tolerance": sample.tolerance,
        }

    def _costs(self, record: dict[str, Any]) -> dict[str, float]:
        """Add what was spent since the last record to what this one had cost before."""
        spent, self._spent = self._spent, self._counters()
        return {name: record.get(name, 0) + self._spent[name] - spent[name] for name in spent}

    def _counters(self) -> dict[str, float]:
        return {
            "inner_iterations": self.sampler.n_iter,
            "hessian_products": self.sampler.n_hvp,
            "data_passes": self.sampler.problems.n_passes,
            "seconds": time.perf_counter(),
        }
