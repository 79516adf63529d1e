"""The command ``hoag-shine``.

It imports nothing heavy before it can answer Ctrl-C; the commands are in
:mod:`hoag_shine.cli.commands`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

INTERRUPTED = 130  # the shell's exit code for Ctrl-C
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
        0 for success, 2 for an error that is told in one line on standard error, 130 after Ctrl-C.
    """
    try:
        if argv == [DEMONSTRATION]:
            from .demonstration import demonstrate

            return demonstrate()
        from .commands import run

        return run(argv)
    except KeyboardInterrupt:
        print("hoag-shine: interrupted", file=sys.stderr)
        return INTERRUPTED
