"""Reading files of which nothing is known: what is in them, or a sentence that says what is not."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from zipfile import BadZipFile

# What readers of archives, arrays, pickles and images raise for damaged ones. Of OSError, those
# without a number are not the system's.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    BadZipFile,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,  # of zip files: encrypted; nested too deeply; compressed in an unknown way
    SyntaxError,  # of images
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zlib.error,
)


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
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"{os.fspath(path)!r} is not {kind}: {reason}.") from error
