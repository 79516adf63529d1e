"""A matrix whose rows are held by the workers of a Dask cluster.

The blocks of a collection are dealt out once, consecutive ones to each worker. What a worker has of
them is a *shard*: an actor, which stays there with its rows and whatever is computed of them. A
pass asks all shards at once and takes their answers in the order of the rows, so that sums do not
depend on who is the first.

A worker that is lost takes its shard with it. The blocks are then computed again on another worker,
and what the driver had given to the shard is given once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from threading import Lock
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary, finalize

import numpy as np
from numpy.typing import NDArray

from ..utils.interrupts import SECONDS_BETWEEN_LOOKS, Deferred, Interrupts
from .dask_blocks import DaskBlocks
from .design import Part, in_memory_design
from .streams import Facts, PartedMatrix, merged_moments

Vector = NDArray[np.float64]
Prepare = Callable[[Any], Any]
T = TypeVar("T")

# Seconds that a worker may take for its part of a pass, or for a block of X.
# Why: by judgement: a pass over what fits into a worker's memory takes some seconds, and what takes
# longer than this will not come.
MAX_SECONDS_FOR_ANSWER = 600.0
# Seconds to wait for a new worker in the place of one that was lost, before another one, which has
# rows of its own, gets its rows as well.
# Why: by judgement: Dask starts a process anew in some seconds, and a machine in minutes.
SECONDS_FOR_NEW_WORKER = 20.0
# Seconds to wait for a worker if there is none.
# Why: by judgement: a cluster that is being started has its machines within minutes.
SECONDS_FOR_ANY_WORKER = 300.0
# Seconds that the scheduler may take to list its workers.
# Why: by judgement: it answers in milliseconds, and in seconds where it is busy.
MAX_SECONDS_FOR_LIST = 60.0
# Seconds between two looks at the list of workers.
# Why: by judgement: a second is nothing beside the time in which Dask notices that one is lost.
SECONDS_BETWEEN_LISTS = 1.0
# Workers that the rows of a shard may cost until the rows count as what ends them.
# Why: Dask itself gives up a task that has ended four workers.
MAX_WORKERS_LOST = 4


class ClusterMatrix(PartedMatrix):
    """Rows in the memories of a cluster's workers.

    Parameters
    ----------
    source : DaskBlocks
    client : distributed.Client
    check : callable
        Returns a block validated: as a finite ndarray or CSR matrix.

    Attributes
    ----------
    rows : list of slice
        Those of each shard.

    Raises
    ------
    RuntimeError
        Whenever the workers are used, if the collection cannot be computed, or no workers are left.
    TimeoutError
        If a worker does not answer.
    ValueError
        If a block is not valid.
    """

    def __init__(self, source: DaskBlocks, client: Any, check: Prepare) -> None:
        single = np.dtype(source.dtype) == np.float32
        self.dtype = np.dtype(np.float32 if single else np.float64)
        self._source, self._client, self._check = source, client, check
        # What shards hold beside their rows: for each key, what makes it in each of them.
        self._made: WeakValueDictionary[str, Held] = WeakValueDictionary()
        self._shards: list[_Shard] = []
        self._one_at_a_time = Lock()
        with Deferred() as interrupts:
            workers = self._workers(interrupts)
            runs = _consecutive(source.edges, len(workers))
            self._shards = [_Shard(*run) for run in runs]
            finalize(self, _let_go, client, self._shards).atexit = False
            self.rows = [slice(*(source.edges[i] for i in run)) for run in runs]
            for shard, address in zip(self._shards, workers, strict=False):
                self._send(shard, address)
            for shard in self._shards:
                self._settle(shard, interrupts)
        found = self._ask_all(lambda shard: shard.actor.facts())
        super().__init__(source.shape, self._facts_of(found))

    def parts(self) -> Iterator[Part]:
        raise TypeError("the rows of a cluster are used where they are.")

    def moments(self) -> tuple[Vector, Vector]:
        return merged_moments(self.apply(_counted_moments))

    def product(self, w: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate(self.apply(_product, [(w,)] * len(self.rows)))

    def apply(
        self, function: Callable[..., Any], args: Sequence[tuple[Any, ...]] | None = None
    ) -> list[Any]:
        """Call a function with the matrix of each shard; return the answers in order."""
        given = args or [()] * len(self.rows)
        own = dict(zip(self._shards, given, strict=True))
        return self._ask_all(lambda shard: shard.actor.apply(function, *own[shard]))

    def hold(self, held: Held) -> None:
        """Have each shard make something of its rows; it is kept as long as ``held`` is."""
        self._made[held.key] = held

    def call(self, key: str, method: str, args: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of what each shard holds by a key; return the answers in order."""
        questions = [Question(key, method, own) for own in args]
        own = dict(zip(self._shards, questions, strict=True))
        return self._ask_all(lambda shard: shard.actor.call(own[shard]), key)

    # --- questions --------------------------------------------------------------------------------

    def _ask_all(self, ask: Callable[[_Shard], Any], key: str | None = None) -> list[Any]:
        """Ask all shards at once, and return their answers in the order of the rows."""
        with self._one_at_a_time, Deferred() as interrupts:
            for shard in self._shards:
                self._prepare(shard, key, interrupts)
            asked = [shard.begin(ask) for shard in self._shards]
            return [
                self._answer(shard, answer, ask, key, interrupts)
                for shard, answer in zip(self._shards, asked, strict=True)
            ]

    def _prepare(self, shard: _Shard, key: str | None, interrupts: Interrupts) -> None:
        """See to it that a shard has its rows, and what a key stands for."""
        if shard.actor is None:  # an interrupt came when its worker was replaced
            if shard.future is None:
                self._resend(shard, interrupts)
            self._settle(shard, interrupts)
        if key is None or key in shard.keys:
            return
        held = self._made[key]
        index, known = self._shards.index(shard), list(self._made)

        def give(shard: _Shard) -> Any:
            return shard.actor.hold(key, known, held.make, held.args(self.rows[index]))

        self._answer(shard, shard.begin(give), give, None, interrupts)
        shard.keys.add(key)

    def _answer(
        self,
        shard: _Shard,
        answer: Any,
        ask: Callable[[_Shard], Any],
        key: str | None,
        interrupts: Interrupts,
    ) -> Any:
        """Wait for an answer; where the worker is lost, find another one and ask again."""
        for _ in range(MAX_WORKERS_LOST):
            try:
                return self._wait(shard, answer, interrupts)
            except _LostError:
                self._replace(shard, interrupts)
                self._prepare(shard, key, interrupts)
                answer = shard.begin(ask)
        raise self._ends_workers(shard)

    def _wait(self, shard: _Shard, answer: Any, interrupts: Interrupts) -> Any:
        """Wait for an answer, for as long as the worker is there."""
        latest = time.monotonic() + MAX_SECONDS_FOR_ANSWER
        while True:
            if answer is None or shard.lost:
                raise _LostError
            interrupts.check()
            try:
                with interrupts.held():
                    return answer.result(timeout=SECONDS_BETWEEN_LOOKS)
            except TimeoutError as error:
                _drop_frames(error)
                if time.monotonic() > latest:
                    raise TimeoutError(
                        f"the worker {shard.address} did not answer for "
                        f"{MAX_SECONDS_FOR_ANSWER:.0f} s."
                    ) from None
            except OSError as error:  # of the connection
                raise _LostError from _drop_frames(error)

    # --- workers ----------------------------------------------------------------------------------

    def _workers(self, interrupts: Interrupts) -> list[str]:
        """Return the addresses of all workers; wait a little if there is none."""
        latest = time.monotonic() + SECONDS_FOR_ANY_WORKER
        while True:
            workers = self._listed(interrupts)
            if workers:
                return workers
            if time.monotonic() > latest:
                raise RuntimeError(
                    f"the Dask cluster has had no worker for {SECONDS_FOR_ANY_WORKER:.0f} s."
                )
            self._pause(interrupts)

    def _listed(self, interrupts: Interrupts) -> list[str]:
        """Return the addresses of the workers that there are."""
        error: Exception | None = None
        if self._client.status == "running":
            try:
                with interrupts.held():
                    return sorted(self._client.nthreads(callback_timeout=MAX_SECONDS_FOR_LIST))
            except (OSError, TimeoutError) as caught:
                error = caught
        raise RuntimeError(
            "the scheduler of the Dask cluster is gone: nothing can be computed there any more."
        ) from error

    @staticmethod
    def _pause(interrupts: Interrupts) -> None:
        interrupts.check()
        time.sleep(SECONDS_BETWEEN_LOOKS)

    def _free_worker(self, interrupts: Interrupts) -> str:
        """Return a worker without a shard, or else the one with the fewest rows."""
        latest = time.monotonic() + SECONDS_FOR_NEW_WORKER
        while True:
            taken = dict.fromkeys(self._workers(interrupts), 0)
            for shard, rows in zip(self._shards, self.rows, strict=True):
                if shard.address in taken and not shard.lost:
                    taken[shard.address] += rows.stop - rows.start
            address = min(taken, key=taken.__getitem__)
            if not taken[address] or time.monotonic() > latest:
                return address
            self._pause(interrupts)

    def _replace(self, shard: _Shard, interrupts: Interrupts) -> None:
        """Find another worker for a shard whose own is lost."""
        self._resend(shard, interrupts)
        self._settle(shard, interrupts)

    def _resend(self, shard: _Shard, interrupts: Interrupts) -> None:
        """Have a shard made by another worker, without waiting for it."""
        _let_go(self._client, [shard])  # if the worker is there after all
        shard.forget()
        self._send(shard, self._free_worker(interrupts))

    def _send(self, shard: _Shard, address: str) -> None:
        """Have the blocks of a shard computed, and held by a worker."""
        delayed = import_module("dask").delayed
        prepared = delayed(_prepared, pure=False)
        blocks = [
            prepared(block, self._check, self.dtype)
            for block in self._source.blocks[shard.first : shard.stop]
        ]
        shard.address = address
        # Blocks may be computed elsewhere, or they would wait for ever for a worker that is lost.
        shard.blocks = self._client.compute(blocks, workers=[address], allow_other_workers=True)
        shard.future = self._client.submit(
            HeldRows, shard.blocks, actor=True, workers=[address], pure=False
        )

    def _settle(self, shard: _Shard, interrupts: Interrupts) -> None:
        """Wait until a shard has its rows; if its worker is lost, try others."""
        for _ in range(MAX_WORKERS_LOST):
            try:
                return self._wait_for_rows(shard, interrupts)
            except _LostError:
                self._resend(shard, interrupts)
        raise self._ends_workers(shard)

    def _wait_for_rows(self, shard: _Shard, interrupts: Interrupts) -> None:
        distributed = import_module("distributed")
        n_done, now = -1, time.monotonic()
        latest, next_look = now + MAX_SECONDS_FOR_ANSWER, now + SECONDS_BETWEEN_LISTS
        while True:
            interrupts.check()
            try:
                with interrupts.held():
                    distributed.wait([shard.future], timeout=SECONDS_BETWEEN_LOOKS)
            except TimeoutError as error:
                _drop_frames(error)
            if shard.future.status == "finished":
                # The worker keeps its blocks by itself from now on.
                shard.actor, shard.blocks = shard.future.result(), []
                return
            if shard.future.status != "pending":
                self._raise_unless_lost(shard, interrupts)
            now = time.monotonic()
            done = sum(block.done() for block in shard.blocks)
            if done > n_done:
                n_done, latest = done, now + MAX_SECONDS_FOR_ANSWER
            if now > latest:
                raise TimeoutError(f"no block of X was computed in {MAX_SECONDS_FOR_ANSWER:.0f} s.")
            if now > next_look:
                if shard.address not in self._workers(interrupts):
                    raise _LostError
                next_look = now + SECONDS_BETWEEN_LISTS

    def _raise_unless_lost(self, shard: _Shard, interrupts: Interrupts) -> None:
        """Raise what went wrong when the rows of a shard were computed."""
        if shard.future.status != "error" or shard.address not in self._workers(interrupts):
            raise _LostError
        error = shard.future.exception()
        raise RuntimeError(f"X could not be computed on the Dask cluster: {error}") from error

    def _ends_workers(self, shard: _Shard) -> RuntimeError:
        rows = self.rows[self._shards.index(shard)]
        return RuntimeError(
            f"{MAX_WORKERS_LOST} workers in turn were lost with rows {rows.start} to {rows.stop} "
            "of X: these may need more memory than a worker has; use more workers or smaller "
            "blocks."
        )

    def _facts_of(self, found: list[RowFacts]) -> Facts:
        """Return what is known of all rows, if they are what was promised."""
        for own in found:
            if own.error is not None:
                raise own.error
        facts, n_columns = Facts(), self._source.shape[1]
        for own, rows in zip(found, self.rows, strict=True):
            if own.shape != (rows.stop - rows.start, n_columns):
                raise RuntimeError(
                    f"X has {rows.stop - rows.start} rows and {n_columns} columns from row "
                    f"{rows.start} by its chunks, but these are of shape {own.shape}."
                )
            facts = facts.with_facts(own.facts)
        return facts


class Held:
    """What each shard makes of its rows and keeps.

    Parameters
    ----------
    key : str
        Its name, unlike any other.
    make : callable
        Called on a worker with the matrix of its rows, and arguments.
    args : callable
        Returns the arguments of a shard, given the slice of its rows.
    """

    def __init__(
        self, key: str, make: Callable[..., Any], args: Callable[[slice], tuple[Any, ...]]
    ) -> None:
        self.key, self.make, self.args = key, make, args


class Question(NamedTuple):
    """A call of a method of what a shard holds by a key.

    Dask pickles it as a whole; it would take arguments, tuples and dicts apart and serialise all
    that is in them one by one.
    """

    key: str
    method: str
    args: tuple[Any, ...]


class _LostError(Exception):
    """The worker of a shard is lost."""


class _Shard:
    """A shard, as the driver knows it: blocks ``first`` to ``stop``, and where they are.

    Attributes
    ----------
    keys : set of str
        What it holds beside its rows.
    """

    def __init__(self, first: int, stop: int) -> None:
        self.first, self.stop = first, stop
        self.forget()

    def forget(self) -> None:
        """Forget where the shard was."""
        self.address = ""
        self.actor: Any = None
        self.future: Any = None
        self.blocks: list[Any] = []
        self.keys: set[str] = set()

    @property
    def lost(self) -> bool:
        return self.future is None or self.future.status not in ("finished", "pending")

    def begin(self, ask: Callable[[_Shard], Any]) -> Any:
        """Ask; return what the answer will come from, or None if the worker is lost."""
        if self.lost:
            return None
        try:
            return ask(self)
        except RuntimeError:
            if self.lost:
                return None
            raise


def _let_go(client: Any, shards: Sequence[_Shard]) -> None:
    """Have workers forget their rows, without waiting for it.

    What refers to an actor refers to itself, so that the garbage collector would let them go, and
    that only when it comes.
    """
    futures = [shard.future for shard in shards if shard.future is not None]
    if futures and client.status == "running":
        client.loop.add_callback(client.cancel, futures, asynchronous=True, force=True)


def _drop_frames(error: Exception) -> Exception:
    """Return an error of Dask's without its traceback.

    Dask's own frames keep the error, whose traceback has our frames as well: a cycle that would
    hold the rows on the workers until the garbage collector comes.
    """
    return error.with_traceback(None)


def _consecutive(edges: Sequence[int], n_runs: int) -> list[tuple[int, int]]:
    """Deal blocks out in runs of about as many rows, at least a block each."""
    n_blocks, n_rows = len(edges) - 1, edges[-1]
    targets = np.arange(1, n_runs) * (n_rows / n_runs)
    inner = np.asarray(edges[1:-1])
    # A run ends at the edge of a block that is nearest to an equal share of the rows.
    cuts = {int(np.abs(inner - t).argmin()) + 1 for t in targets} if inner.size else set()
    places = [0, *sorted(cuts), n_blocks]
    return list(pairwise(places))


def n_bytes(value: Any) -> int:
    """Return the bytes of the arrays in a value."""
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return 0
    return sum(map(n_bytes, value))


# --- on the workers -------------------------------------------------------------------------------


class RowFacts(NamedTuple):
    """What a shard knows of its rows, or the first error of its blocks."""

    shape: tuple[int, int]
    facts: Facts
    error: Exception | None


def _prepared(block: Any, check: Prepare, dtype: np.dtype[Any]) -> Any:
    """Return a block validated, or its error: errors are raised in the order of the rows."""
    try:
        return check(block).astype(dtype, copy=False)
    except (TypeError, ValueError) as error:
        return error


class HeldRows:
    """The actor: rows of a matrix, and what is made of them."""

    def __init__(self, blocks: list[Any]) -> None:
        self._errors = [block for block in blocks if isinstance(block, Exception)]
        self._matrix = _InMemory([b for b in blocks if not isinstance(b, Exception)])
        self._held: dict[str, Any] = {}

    def facts(self) -> RowFacts:
        first = self._errors[0] if self._errors else None
        return RowFacts(self._matrix.shape, self._matrix.facts, first)

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(self._matrix, *args)

    def hold(self, key: str, known: list[str], make: Any, args: tuple[Any, ...]) -> None:
        """Make something of the rows and keep it; what is not known any more is dropped."""
        self._held = {k: held for k, held in self._held.items() if k in known}
        self._held[key] = make(self._matrix, *args)

    def call(self, question: Question) -> Any:
        """Call a method of what was made."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # checked by the driver
            return getattr(self._held[question.key], question.method)(*question.args)


def _counted_moments(X: PartedMatrix) -> tuple[int, Vector, Vector]:
    return X.shape[0], *X.moments()


def _product(X: PartedMatrix, w: NDArray[Any]) -> NDArray[Any]:
    return X.product(w)


class _InMemory(PartedMatrix):
    """Blocks in memory, as they are."""

    def __init__(self, blocks: list[Any]) -> None:
        first, facts, n_columns = 0, Facts(), 0
        self._parts: list[Part] = []
        for block in blocks:
            part = Part(first, in_memory_design(_owned(block)))
            first, n_columns = part.rows.stop, block.shape[1]
            facts = facts.with_part(part)
            self._parts.append(part)
            self.dtype = block.dtype
        self.facts = facts
        super().__init__((first, n_columns), facts)

    def parts(self) -> list[Part]:
        return self._parts


def _owned(block: Any) -> Any:
    """Return a block whose arrays can be written to; compiled code is made for these alone."""
    arrays = (block.data, block.indices, block.indptr) if hasattr(block, "tocsr") else (block,)
    return block if all(array.flags.writeable for array in arrays) else block.copy()
