"""Where the parts of a pass are computed: in threads, or by the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol


class Pool(Protocol):
    """Some threads."""

    @property
    def n(self) -> int:
        """Their number."""

    def run(self, function: Callable[..., Any], *sequences: Iterable[Any]) -> list[Any]:
        """Call the function for the items of the sequences; return the answers in their order."""


class _Caller:
    """The thread that calls."""

    n = 1

    @staticmethod
    def run(function: Callable[..., Any], *sequences: Iterable[Any]) -> list[Any]:
        return list(map(function, *sequences))


CALLER: Pool = _Caller()


class Sharing(Protocol):
    """What lets threads share its passes."""

    def share_passes(self, pool: Pool | None) -> None:
        """Have threads share the passes over the data from now on; None ends that."""


@contextmanager
def shared_passes(problems: Sequence[Sharing], pool: Pool) -> Iterator[None]:
    """Have threads share the passes of some problems meanwhile."""
    for each in problems:
        each.share_passes(pool)
    try:
        yield
    finally:
        for each in problems:
            each.share_passes(None)
