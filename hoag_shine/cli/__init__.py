"""The command ``hoag-shine``.

It imports nothing large before Ctrl-C is handled; the commands are in
:mod:`hoag_shine.cli.commands`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

ERROR, INTERRUPTED = 2, 130  # exit codes: as argparse's, and the shell's for Ctrl-C
MESSAGE = "hoag-shine: interrupted"
STDERR = 2  # the number of its file
DEMONSTRATION = "demonstrate"  # what ``python -m hoag_shine`` does without arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments, by default those of the process.

    Returns
    -------
    code : int
        0 for success, 2 for an error, whose message is one line on standard error, 130 after
        Ctrl-C.
    """
    # pyarrow's own pool would reserve a gigabyte, and a limit counts that. It looks when imported.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        if argv == [DEMONSTRATION]:
            with _ended_by_interrupts():
                from .demonstration import demonstrate

            return demonstrate()
        with _ended_by_interrupts():
            from .commands import run

        return run(argv)
    except KeyboardInterrupt:
        print(MESSAGE, file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _ended_by_interrupts() -> Iterator[None]:
    """Have Ctrl-C end the process at once.

    While modules are imported, a ``KeyboardInterrupt`` is sometimes lost: it is raised within a
    callback of the garbage collector, or caught as an import that has failed.
    """
    before = signal.getsignal(signal.SIGINT)
    here = threading.current_thread() is threading.main_thread()
    if not here or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(*_: Any) -> None:
    """End the process; there is nothing to clean up yet."""
    os.write(STDERR, f"{MESSAGE}\n".encode())
    os._exit(INTERRUPTED)
