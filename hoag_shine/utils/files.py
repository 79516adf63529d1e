"""Reading files that may be anything: either their content, or one sentence on what is wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from .text import shortened


@contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turn what is raised within for a damaged file into a ValueError that names it.

    Parameters
    ----------
    path : str or path-like
    kind : str
        What the file should be, with its article.

    Raises
    ------
    ValueError
        If the file is something else, or needs more memory than there is.
    OSError
        If the file cannot be opened or read.
    """
    try:
        yield
    except MemoryError as error:
        raise ValueError(f"{os.fspath(path)!r} needs more memory than there is.") from error
    # Readers of archives, arrays and images raise all kinds of errors for damaged files.
    except Exception as error:
        # Errors of the system have a number. Those of a format have none, or EINVAL for a position
        # that is not in the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        # Some readers quote a whole damaged line.
        reason = shortened(str(error).rstrip(".") or type(error).__name__)
        raise ValueError(f"{os.fspath(path)!r} is not {kind}: {reason}.") from error
