"""Ctrl-C is noted at once and acted on where the state of a search is consistent.

Python raises ``KeyboardInterrupt`` between any two instructions of the main thread: between the two
halves of an update, or inside of ``threading``, where a lock is then held for ever. While
:class:`Deferred` is entered, the signal is only noted. The code inside calls
:meth:`Interrupts.check` where an interrupt does no harm.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from joblib import effective_n_jobs, parallel_config
from sklearn import get_config, set_config

from .warn import as_here

# Seconds after which a wait for threads looks whether the user insists on an end.
# Why: no user notices a tenth of a second.
SECONDS_BETWEEN_LOOKS = 0.1

_local = threading.local()


def as_caller() -> Callable[[], None]:
    """Return what makes a new thread warn, and use scikit-learn's options, as the present one."""
    adopt, options = as_here(), get_config()

    def configure() -> None:
        adopt()
        set_config(**options)

    return configure


class Interrupts:
    """The interrupts that have arrived, and whether they were acted on.

    Parameters
    ----------
    handler : callable, optional
        What handles the signal otherwise; Python's own raises ``KeyboardInterrupt``.
    """

    def __init__(self, handler: Callable[[int, FrameType | None], Any] | None = None) -> None:
        self._handler = handler
        self._count = 0
        self._held = 0
        self.pending = False

    @property
    def forced(self) -> bool:
        """Whether the user has pressed Ctrl-C more than once: nothing is waited for any more."""
        return self._count > 1

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal: the first waits for a check, a second does not."""
        self._count += 1
        self.pending = True
        if self.forced and not self._held:
            self.restore()  # before the exception, which may come anywhere
            self.check()

    def check(self) -> None:
        """Call the handler for an interrupt that was noted; it usually raises."""
        if self.pending and self._handler is not None:
            self.pending = False
            self._handler(signal.SIGINT, None)

    def take(self) -> bool:
        """Return whether there was an interrupt since the last check."""
        try:
            self.check()
        except KeyboardInterrupt:
            return True
        return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold back even a second interrupt, to the end of this context."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self.forced:
            self.check()

    def install(self) -> None:
        """Become the handler of the signal."""
        signal.signal(signal.SIGINT, self.note)

    def restore(self) -> None:
        """Give the signal back to its handler, unless another one has been installed."""
        self._held += 1  # what arrives just now is noted
        if self._handler is not None and _owner() is self:
            signal.signal(signal.SIGINT, self._handler)
        self._held -= 1


class Deferred:
    """A context in which interrupts are noted; entering it gives the :class:`Interrupts`.

    Does nothing outside of the main thread, which alone gets signals, or where they are ignored.
    Within such a context, another one gives the interrupts of the first. On leaving, the handler is
    what it was before, and an interrupt that is still pending is passed to it.
    """

    def __enter__(self) -> Interrupts:
        self._own: Interrupts | None = None
        if threading.current_thread() is not threading.main_thread():
            return Interrupts()
        outer = _owner()
        if outer is not None:
            return outer
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # ignored, or not Python's
            return Interrupts()
        self._own = Interrupts(handler)
        self._own.install()
        return self._own

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._own is not None:
            self._own.restore()
            if not isinstance(error, KeyboardInterrupt):
                self._own.check()


def _owner() -> Interrupts | None:
    """Return whose method handles the signal at present, if they are interrupts that are noted."""
    owner = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return owner if isinstance(owner, Interrupts) else None


class Threads:
    """Threads that an interrupt cannot break: a context manager.

    Calls wait for the threads until the user presses Ctrl-C a second time; the threads then end
    their present step by themselves.

    Parameters
    ----------
    n_jobs : int or None
        As joblib counts them.
    n_tasks : int
        Number of calls to make at a time: more threads are not started.
    interrupts : Interrupts
    independent : bool, default=False
        Whether calls that still run after an interrupt do no harm, so that even the first interrupt
        is not delayed by them.
    """

    def __init__(
        self,
        n_jobs: int | None,
        n_tasks: int,
        interrupts: Interrupts,
        *,
        independent: bool = False,
    ) -> None:
        with parallel_config(require="sharedmem"):
            self._n: int = min(effective_n_jobs(n_jobs), n_tasks)
        self._interrupts = interrupts
        self._independent = independent
        self._pool: ThreadPoolExecutor | None = None
        self._left = False

    def __enter__(self) -> Self:
        if self._n > 1:
            self._pool = ThreadPoolExecutor(self._n, initializer=_in_pool(as_caller()))
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            with self._interrupts.held():
                self._pool.shutdown(wait=not self._left, cancel_futures=True)

    @property
    def n(self) -> int:
        """Number of threads, 1 for the caller's own."""
        return 1 if self._pool is None else self._n

    def map(self, function: Callable[..., Any], *sequences: Iterable[Any]) -> list[Any]:
        """Check for interrupts, then :meth:`run`."""
        self._interrupts.check()
        return self.run(function, *sequences)

    def map_by_caller(self, function: Callable[..., Any], *sequences: Iterable[Any]) -> list[Any]:
        """Check for interrupts, then call the function without threads: calls that are short."""
        self._interrupts.check()
        return list(map(function, *sequences))

    def run(self, function: Callable[..., Any], *sequences: Iterable[Any]) -> list[Any]:
        """Call the function for the items of the sequences.

        All calls have ended when this returns or raises, unless they need not be waited for. One of
        these threads calls by itself: it would wait for threads that wait for it.
        """
        items = list(zip(*sequences, strict=True))
        if self._pool is None or len(items) == 1 or getattr(_local, "in_pool", False):
            return [function(*each) for each in items]
        answers: list[Any] = [None] * len(items)
        left = deque(enumerate(items))

        def work() -> None:
            # One thread after the other takes what is left: short calls cost no hand-over each.
            while True:
                try:
                    place, each = left.popleft()
                except IndexError:  # nothing is left
                    return
                answers[place] = function(*each)

        try:
            with self._interrupts.held():
                calls = [self._pool.submit(work) for _ in range(min(self._n, len(items)))]
                while _running(calls) and not self._enough:
                    pass
                self._left = self._enough
            if self._left:
                self._interrupts.check()
        except BaseException:
            left.clear()  # nobody wants it any more
            raise
        self._left = False
        for call in calls:
            call.result()
        return answers

    @property
    def _enough(self) -> bool:
        """Whether calls that run are not waited for."""
        return self._interrupts.forced or (self._independent and self._interrupts.pending)


def _in_pool(configure: Callable[[], None]) -> Callable[[], None]:
    """Return what a thread of a pool begins with."""

    def begin() -> None:
        configure()
        _local.in_pool = True

    return begin


def _running(calls: Sequence[Future[Any]]) -> bool:
    """Wait a little, and return whether some calls have not ended."""
    return bool(wait(calls, timeout=SECONDS_BETWEEN_LOOKS).not_done)


def set_fitted(estimator: Any, fitted: Mapping[str, Any]) -> None:
    """Set the fitted attributes of an estimator: all of them or, if interrupted before, none.

    Fitted attributes of an earlier fit that are not among them are removed.
    """
    with Deferred() as interrupts, interrupts.held():
        attributes = vars(estimator)
        for name in [name for name in attributes if name.endswith("_") and name not in fitted]:
            del attributes[name]
        attributes.update(fitted)
