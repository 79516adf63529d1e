"""Warnings that point to the user's line, and a single one for what belongs together.

The user's line is the nearest one that called this package, directly or through scikit-learn: a
warning from ``cross_val_score`` points to the line with ``cross_val_score``, because that is the
line that its reader can find and change. Filters by module, such as
``filterwarnings("error", module="__main__")``, then mean the user's module.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NamedTuple, TypeGuard

# Whose code stands between the user's line and a warning: this package, what calls it or is called
# by it on the user's behalf, and the standard library's ways to call a function.
_PACKAGE = __name__.partition(".")[0]
_BETWEEN = frozenset(
    {
        _PACKAGE,
        *("joblib", "numba", "numpy", "sklearn", "torch"),
        *("concurrent", "contextlib", "functools", "multiprocessing", "runpy", "threading"),
        *("importlib", "_frozen_importlib", "_frozen_importlib_external"),
    }
)


class Line(NamedTuple):
    """A line of code, as ``warnings.warn_explicit`` takes it."""

    filename: str
    lineno: int
    module: str
    registry: dict[Any, Any]


@dataclass(frozen=True)
class _Gathered:
    """The warnings of one category by one call of the package, from one line."""

    category: type[Warning]
    line: Line
    messages: list[str] = field(default_factory=list)


_gathered: ContextVar[_Gathered | None] = ContextVar("_gathered", default=None)
# The user's line, in a thread that was started by this package and has no frames of the user.
_line_of_thread: ContextVar[Line | None] = ContextVar("_line_of_thread", default=None)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the user's line.

    Parameters
    ----------
    message : str
    category : type of Warning, default=UserWarning
        That of an enclosing :func:`one_warning` waits for its end.
    """
    line, gathered = _users_line(), _gathered.get()
    if _belongs(gathered, category, line):
        gathered.messages.append(message)
    else:
        warnings.warn_explicit(message, category, *line)


@contextmanager
def one_warning(category: type[Warning]) -> Iterator[None]:
    """Join the warnings of a category within, for the same user's line, to one at the end.

    Within another such context of the same line, they are left to that one. They are shown even if
    an error ends the context.
    """
    line = _users_line()
    if _belongs(_gathered.get(), category, line):
        yield
        return
    own = _Gathered(category, line)
    token = _gathered.set(own)
    try:
        yield
    finally:
        _gathered.reset(token)
        if own.messages:
            text = " ".join(dict.fromkeys(own.messages))
            warnings.warn_explicit(text, category, *line)


def as_here() -> Callable[[], None]:
    """Return a function that a new thread calls, to warn as the present thread does."""
    line, gathered = _users_line(), _gathered.get()

    def adopt() -> None:
        _line_of_thread.set(line)
        _gathered.set(gathered)

    return adopt


def _belongs(
    gathered: _Gathered | None, category: type[Warning], line: Line
) -> TypeGuard[_Gathered]:
    """Whether a warning is one of those that are being gathered."""
    return gathered is not None and (gathered.category, *gathered.line[:2]) == (category, *line[:2])


def _users_line() -> Line:
    """Return the user's line, or without one, as in another process, the package's caller."""
    frame: FrameType | None = sys._getframe(1)
    caller = None
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in _BETWEEN:
            return _line(frame)
        if caller is None and package != _PACKAGE:
            caller = frame
        frame = frame.f_back
    return _line_of_thread.get() or _line(caller or sys._getframe(1))


def _line(frame: FrameType) -> Line:
    """Return a frame's line, with the registry of warnings that were shown there."""
    names = frame.f_globals
    registry = names.setdefault("__warningregistry__", {})
    return Line(frame.f_code.co_filename, frame.f_lineno, str(names.get("__name__")), registry)
