"""Reading files of which nothing is known: what is in them, or a sentence that says what is not."""

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
    # Readers of archives, arrays, pickles and images raise whatever they trip over.
    except Exception as error:
        # The system's errors have a number; those of a format have none, or lead to a place that no
        # file has.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        # Some readers quote all that they trip over.
        reason = shortened(str(error).rstrip(".") or type(error).__name__)
        raise ValueError(f"{os.fspath(path)!r} is not {kind}: {reason}.") from error
