"""How many threads BLAS computes with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

_limited = threading.Lock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Have BLAS compute with one thread meanwhile, in the whole process.

    It is for matrices so small that the threads of BLAS wait for each other longer than they
    compute: with two of them, a search on breast_cancer took four times as much processor time as
    with one. Where another Python thread has set the limit, it also lifts it.
    """
    if not _limited.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        _limited.release()


@cache
def _controller() -> ThreadpoolController:
    """Return what knows the process's libraries, which takes milliseconds to look for."""
    return ThreadpoolController()
