"""The history of a search, and the best of it."""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inner import Solution
from .oracle import Oracle
from .steps import Ask, Evaluation
from .steps.base import NotFiniteError, accurately, pessimistic

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Costs:
    """What has been spent: inner iterations, Hessian products, data passes, bytes and seconds.

    Bytes that are sent go to the workers of a cluster, or come from them.
    """

    inner_iterations: int = 0
    hessian_products: int = 0
    data_passes: float = 0.0
    bytes_read: int = 0
    bytes_sent: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, oracle: Oracle) -> Costs:
        """Return all that an oracle has spent so far."""
        read = oracle.n_passes, oracle.n_bytes_read, oracle.n_bytes_sent
        return cls(oracle.n_iter, oracle.n_hvp, *read, time.perf_counter())

    def plus(self, later: Costs, earlier: Costs) -> Costs:
        """Add what was spent between two times."""
        return Costs(
            self.inner_iterations + later.inner_iterations - earlier.inner_iterations,
            self.hessian_products + later.hessian_products - earlier.hessian_products,
            self.data_passes + later.data_passes - earlier.data_passes,
            self.bytes_read + later.bytes_read - earlier.bytes_read,
            self.bytes_sent + later.bytes_sent - earlier.bytes_sent,
            self.seconds + later.seconds - earlier.seconds,
        )


@dataclass(frozen=True, eq=False)
class Record:
    """One outer iteration: the last evaluation at its theta, and what all of them there have cost.

    A ``look`` only explores another part of the range: it is no candidate for the result.
    ``measured_error`` is how far the criterion was off, where an exact oracle has checked it.
    """

    evaluation: Evaluation
    fold_values: Vector
    costs: Costs
    look: bool = False
    measured_error: float = 0.0

    def as_dict(self, iteration: int) -> dict[str, Any]:
        """Return what users are shown, see :func:`~hoag_shine.hoag`; the arrays are copies."""
        e = self.evaluation
        return {
            "iteration": iteration,
            "theta": e.theta.copy(),
            "criterion": e.value - e.prior,
            "fold_criteria": self.fold_values.copy(),
            "error": max(e.error, self.measured_error),
            "hypergradient": e.grad.copy(),
            "hypergradient_norm": float(np.linalg.norm(e.grad)),
            "hypergradient_error": e.grad_error,
            "hypergradient_bound": e.grad_bound,
            "method": e.used,
            "residual": e.residual,
            "inner_tolerance": e.tolerance,
            **vars(self.costs),
            "look": self.look,
        }


# Error at the start that tells it from the best, as a share of what it seems to be higher by.
# Why: twice that error, which counts, is a fifth of the difference. A solve to all digits takes
# many times the passes.
DECISIVE_SHARE = 0.1


class History:
    """The outer iterations of a search, and the best of them.

    The criterion is to be known to ``accuracy`` of itself in the end. Where the inner problems are
    so small that an exact oracle is at hand, that one checks the result, whichever oracle has led
    there.

    The last record is the present outer iteration; a new evaluation at its theta replaces it.
    ``solutions`` belong to the record ``_solved_index``, which is the best one whenever the oracle
    still had its solutions.
    """

    def __init__(self, oracle: Oracle, accuracy: float, exact: Oracle | None = None) -> None:
        self.records: list[Record] = []
        self.solutions: Sequence[Solution] = []
        self.unsolved = False
        self.chosen: int | None = None
        self._solved_index = 0  # the record that ``solutions`` belong to
        self.oracle = oracle
        self._exact = exact
        self._accuracy = accuracy
        self._spent = Costs.of(oracle)

    def add(self, evaluation: Evaluation, *, look: bool = False) -> None:
        """Record an evaluation; one at the theta of the last record takes its place."""
        known, again = np.isfinite(evaluation.value), self._continues(evaluation)
        values = self.oracle.fold_values
        values = values.copy() if known else np.full_like(values, np.inf)
        before = self.records.pop().costs if again else Costs()
        self.records.append(Record(evaluation, values, self._charged(before), look))
        newest = len(self.records) - 1
        if newest in (self.best_index, self._solved_index):
            self._keep_solutions(newest)

    def _continues(self, evaluation: Evaluation) -> bool:
        return bool(self.records) and np.array_equal(
            self.records[-1].evaluation.theta, evaluation.theta
        )

    def _charged(self, costs: Costs) -> Costs:
        """Add what was spent since the last record."""
        earlier, self._spent = self._spent, Costs.of(self.oracle)
        return costs.plus(self._spent, earlier)

    def _keep_solutions(self, index: int) -> None:
        self.solutions, self._solved_index = self.oracle.solutions, index

    def keep_what_is_solved(self) -> None:
        """Choose the record that the solutions belong to, if the search ended before a polish."""
        if self.chosen is None and self._solved_index != self.best_index:
            self.chosen = self._solved_index

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return what users are shown."""
        return [record.as_dict(i) for i, record in enumerate(self.records)]

    # --- the best ---------------------------------------------------------------------------------

    @property
    def best_index(self) -> int:
        """The record that is lowest with its error added; of each theta, the newest counts."""
        return self._lowest(self._candidates())

    @property
    def best(self) -> Evaluation:
        return self.records[self.best_index].evaluation

    def best_elsewhere(self, theta: Vector) -> Evaluation | None:
        """Return the best evaluation that does not lie at this theta, if there is one."""
        candidates = self._candidates()
        candidates.pop(theta.tobytes(), None)
        return self.records[self._lowest(candidates)].evaluation if candidates else None

    @property
    def latest(self) -> list[Evaluation]:
        """The newest evaluation at each theta."""
        return list({r.evaluation.theta.tobytes(): r.evaluation for r in self.records}.values())

    def _candidates(self) -> dict[bytes, int]:
        """Return the newest candidate at each theta."""
        return {r.evaluation.theta.tobytes(): i for i, r in enumerate(self.records) if not r.look}

    def _lowest(self, candidates: dict[bytes, int]) -> int:
        seen = {i: self.records[i].evaluation for i in candidates.values()}
        if not all(evaluation.parts for evaluation in seen.values()):
            return min(seen, key=lambda i: pessimistic(seen[i]))
        # Each of separate searches counts in units of its own lowest value: in their sum, a large
        # one would hide the others.
        units = np.array([[p.size for p in e.parts] for e in seen.values()]).min(axis=0)
        units = np.where(units > 0.0, units, 1.0)

        def in_units(i: int) -> tuple[float, float]:
            pairs = np.array([pessimistic(part) for part in seen[i].parts])
            high, value = (pairs / units[:, None]).sum(axis=0)
            return float(high), float(value)

        return min(seen, key=in_units)

    # --- the result -------------------------------------------------------------------------------

    @property
    def result_index(self) -> int:
        """The record that is returned: the best, unless another was chosen."""
        return self.best_index if self.chosen is None else self.chosen

    def choose_last(self) -> None:
        """Return the last evaluation, whichever is best."""
        self.chosen = len(self.records) - 1
        self.solutions = self.oracle.solutions

    @property
    def standard_error(self) -> float:
        """The criterion's standard error at the best: that of a mean over the problems."""
        return standard_error(self.records[self.best_index].fold_values)

    @property
    def final_ask(self) -> Ask:
        """What makes an evaluation as accurate as the result must be."""
        return self._accurately(self.best_index)

    def polish(self) -> None:
        """Solve accurately at the best theta, so that its criterion can be relied on.

        If another theta looks better then, it is solved accurately in turn; so is the start, if
        the error of its newest evaluation leaves open which of the two is lower, and a solve that
        should tell them apart does not. This ends since no record is solved twice.
        """
        exact = None if self.oracle is self._exact else self._exact
        solved: dict[int, Sequence[Solution]] = {}
        told_apart = False
        while (index := self._doubtful(solved)) is not None:
            if index != self.best_index and not told_apart:
                self._tell_from_best(index)
                told_apart = True
                continue
            if self._solved_index != index or self._short(index):
                self._go_to(index, self._accurately(index))
            # The error is relative to the value, which may have become smaller.
            while self._short(index) and not (self._ended(index) or self.oracle.late):
                self._replace(index, self.oracle.evaluate(self._accurately(index)))
            if exact is not None:
                self._settle(index, exact)
            solved[index] = self.solutions
        self.solutions, self._solved_index = solved[self.best_index], self.best_index
        self._renew()
        if exact is not None:
            self._measure_errors(solved, exact)
        # A problem that its solver has given up is as unsolved as one that it had no time for.
        best, ask = self.best, self._accurately(self.best_index)
        unfinished = not best.final and best.tolerance > ask.tolerance
        self.unsolved = unfinished or not best.error <= ask.accuracy

    def _tell_from_best(self, index: int) -> None:
        """Solve as accurately as it takes to know that a record is as high as it seems to be."""
        evaluation = self.records[index].evaluation
        accuracy = DECISIVE_SHARE * (evaluation.value - self.best.value)
        if accuracy > self._accurately(index).accuracy:
            self._go_to(index, Ask(evaluation.theta, accuracy))

    def _go_to(self, index: int, ask: Ask) -> None:
        """Solve at the theta of a record, as accurately as asked."""
        record = self.records[index]
        theta = record.evaluation.theta
        if not np.array_equal(theta, self.oracle.theta):
            self.oracle.restart(theta, [s.w for s in self.solutions])
        try:
            self._replace(index, self.oracle.evaluate(ask))
        except NotFiniteError:
            # It was finite once, from other solutions: nothing is certain of it.
            unknown = replace(record.evaluation, error=np.inf, final=True)
            self.records[index] = replace(record, evaluation=unknown)

    def _replace(self, index: int, evaluation: Evaluation) -> None:
        """Put a more accurate evaluation in the place of one at the same theta."""
        record = self.records[index]
        self.records[index] = replace(
            record,
            evaluation=evaluation,
            fold_values=self.oracle.fold_values.copy(),
            costs=self._charged(record.costs),
        )
        self._keep_solutions(index)

    def _renew(self) -> None:
        """Let earlier records at a theta say what a later evaluation has found more accurately."""
        newest = self._candidates()
        for index, record in enumerate(self.records):
            latest = self.records[newest.get(record.evaluation.theta.tobytes(), index)]
            if latest.evaluation.error < record.evaluation.error:
                self.records[index] = replace(
                    record, evaluation=latest.evaluation, fold_values=latest.fold_values
                )

    def _settle(self, index: int, exact: Oracle) -> None:
        """Take value and solutions from the exact oracle, and leave the method's derivative."""
        record = self.records[index]
        true = _true(exact, record.evaluation)
        if true is None:
            return
        self.records[index] = replace(
            record,
            evaluation=replace(record.evaluation, value=true.value, error=true.error, final=True),
            fold_values=exact.fold_values.copy(),
            costs=self._charged(record.costs),
        )
        self.solutions, self._solved_index = exact.solutions, index

    def _measure_errors(self, solved: Container[int], exact: Oracle) -> None:
        """Measure the errors of the other records; a larger one replaces the estimate."""
        for index, record in enumerate(self.records):
            if index not in solved and not self.oracle.late:
                true = _true(exact, record.evaluation)
                error = abs(record.evaluation.value - true.value) + true.error if true else np.inf
                self.records[index] = replace(
                    record, measured_error=error, costs=self._charged(record.costs)
                )

    def _short(self, index: int) -> bool:
        """Whether an evaluation is less accurate than a result must be."""
        evaluation, ask = self.records[index].evaluation, self._accurately(index)
        return bool(evaluation.error > ask.accuracy or evaluation.tolerance > ask.tolerance)

    def _ended(self, index: int) -> bool:
        evaluation = self.records[index].evaluation
        return evaluation.final or evaluation.exhausted

    def _accurately(self, index: int) -> Ask:
        return accurately(self.records[index].evaluation, self._accuracy)

    def _doubtful(self, solved: Container[int]) -> int | None:
        """Return the record that is to be solved accurately next."""
        if self.best_index not in solved:
            return self.best_index
        first = self._candidates().get(self.records[0].evaluation.theta.tobytes(), 0)
        best, start = self.best, self.records[first].evaluation
        # Errors are estimates: they may be wrong by a factor.
        behind = best.value + 2.0 * best.error - (start.value - 2.0 * start.error)
        open_question = behind > self._accuracy * best.size
        return first if open_question and first not in solved else None


def standard_error(values: Vector) -> float:
    """Return the standard error of the mean; NaN for a single value."""
    return float(np.std(values, ddof=1) / np.sqrt(values.size)) if values.size > 1 else np.nan


def _true(exact: Oracle, evaluation: Evaluation) -> Evaluation | None:
    """Return what an exact oracle says at the same theta; None where that is not finite."""
    try:
        return exact.evaluate(Ask(evaluation.theta)) if np.isfinite(evaluation.value) else None
    except NotFiniteError:
        return None
