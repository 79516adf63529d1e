"""What an iterator gives is made ahead by a thread, while the caller works on the last of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar, cast

from .interrupts import SECONDS_BETWEEN_LOOKS, Deferred, as_caller

T = TypeVar("T")

# Seconds that an item may take.
# Why: by judgement: a block of some MiB takes less from the slowest disk or network, and what takes
# longer will not come.
MAX_SECONDS_FOR_ITEM = 600.0
# Seconds that the end of an unfinished iteration waits for the thread.
# Why: by judgement: usually a block's time; whoever has pressed Ctrl-C does not wait for more.
SECONDS_FOR_LEAVING = 2.0


def ahead(make: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Yield the items of an iterable that a thread makes and iterates over.

    One item is kept ready, and the thread holds the next one. What it raises is raised here, after
    the items before. Ctrl-C is acted on between items; the caller must be in a state in which it
    may be, see :mod:`~hoag_shine.utils.interrupts`. Close the iterator to end the thread.

    Raises
    ------
    TimeoutError
        If an item takes more than ten minutes.
    """
    thread = _Thread(make)
    thread.start()
    try:
        while (item := thread.next()) is not None:
            yield item[0]
            del item  # or it would be kept until the next one is there
    finally:
        thread.leave()


class _Thread(Thread, Generic[T]):
    """The thread; it ends with its iterable, or when it is left."""

    def __init__(self, make: Callable[[], Iterable[T]]) -> None:
        super().__init__(daemon=True, name="hoag_shine reads ahead")
        self._make, self._configure = make, as_caller()
        # Items in tuples; None for the end, after which ``_error`` is set if there was one.
        self._ready: Queue[tuple[T] | None] = Queue(maxsize=1)
        self._error: BaseException | None = None
        self._left = Event()

    def run(self) -> None:
        try:
            self._configure()
            for item in self._make():
                if not self._put((item,)):
                    return
                del item
        except BaseException as error:  # noqa: BLE001  raised where the items are taken
            self._error = error
        self._put(None)

    def _put(self, item: tuple[T] | None) -> bool:
        """Hand an item over; return False if nobody wants it any more."""
        while not self._left.is_set():
            try:
                self._ready.put(item, timeout=SECONDS_BETWEEN_LOOKS)
            except Full:
                continue
            return True
        return False

    def next(self) -> tuple[T] | None:
        """Wait for the next item; return None at the end."""
        latest = time.monotonic() + MAX_SECONDS_FOR_ITEM
        with Deferred() as interrupts:
            while True:
                interrupts.check()
                # Not even a second Ctrl-C may break into the queue, whose lock would stay closed.
                with interrupts.held():
                    item = self._look()
                if item is not _NOTHING:
                    break
                if time.monotonic() > latest:
                    raise TimeoutError(f"nothing came for {MAX_SECONDS_FOR_ITEM:.0f} s.")
        if item is None and self._error is not None:
            raise self._error
        return cast("tuple[T] | None", item)

    def _look(self) -> tuple[T] | object | None:
        """Wait a little for the next item."""
        try:
            return self._ready.get(timeout=SECONDS_BETWEEN_LOOKS)
        except Empty:
            return _NOTHING

    def leave(self) -> None:
        """Have the thread end after its present item, and wait for that a little."""
        self._left.set()
        self.join(SECONDS_FOR_LEAVING)


_NOTHING = object()
