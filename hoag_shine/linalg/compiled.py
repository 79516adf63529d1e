"""Numba's decorators for the loops of this package, for machines that numba does not cope with.

Numba keeps compiled code in files, for later processes. It fails where there is no folder that it
can write to, does not notice that a file is damaged, and has no Python version of functions that
are written in the compiler's language. Here, loops are compiled without files if need be, damaged
files are found by their SHA-256 and replaced, and with ``NUMBA_DISABLE_JIT=1`` everything is
Python.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import config
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.extending import intrinsic

from ..utils.warn import warn

IS_PYTHON = bool(config.DISABLE_JIT)  # type: ignore[attr-defined]

# The type of indices. Compiled code need not check whether an unsigned one counts from the end. In
# Python, NumPy's unsigned integers would overflow below zero and become floats beside others.
unsigned: Any = int if IS_PYTHON else np.uint64

# The files that the code of a loop depends on; numba looks at the file of the loop alone.
_SOURCES = (
    "costs.py",
    "exponentials.py",
    "half.py",
    "kernels.py",
    "pairs.py",
    "precision.py",
    "simd.py",
)
_SIZE = hashlib.sha256().digest_size

# What has been warned of in this process.
_told: list[str] = []


def loop(**options: Any) -> Callable[[Any], Any]:
    """Return a decorator that compiles a function, to run without Python's lock.

    Parameters
    ----------
    **options
        Those of ``numba.njit``.

    Warns
    -----
    RuntimeWarning
        Once in a process, if there is no folder to keep compiled code in, or, when the function is
        called, if what was kept is damaged.
    """

    def decorate(function: Any) -> Any:
        dispatcher = numba.njit(nogil=True, **options)(function)
        if not IS_PYTHON:
            try:
                dispatcher._cache = _CheckedCache(function)
            except (RuntimeError, OSError) as error:
                _tell_uncached(error)
        return dispatcher

    return decorate


def primitive(python: Any) -> Callable[[Any], Any]:
    """Return a decorator of a function in the compiler's language, with its stand-in in Python.

    Parameters
    ----------
    python : callable
        What the decorator returns where ``NUMBA_DISABLE_JIT`` is set.
    """
    return (lambda function: python) if IS_PYTHON else intrinsic


class _CheckedCache(FunctionCache):
    """Numba's cache of a function, which compiles what it cannot load and keeps what it can."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        numbas = self._cache_file
        self._cache_file = _CheckedFile(
            # A name of its own: numba's files have no SHA-256.
            cache_path=numbas._cache_path,
            filename_base=f"{self._impl.filename_base}.checked",
            source_stamp=(numbas._source_stamp, _stamp()),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except _DamagedFile as error:
            _tell_once(
                f"The file {error} of compiled code is damaged: it is compiled again and replaced, "
                "and so is any other that is found damaged."
            )
            self._forget()
        except OSError as error:
            _tell_uncached(error)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except (_DamagedFile, OSError) as error:
            _tell_uncached(error)

    def _forget(self) -> None:
        try:
            self.flush()
        except OSError as error:
            _tell_uncached(error)


class _CheckedFile(IndexDataCacheFile):
    """Numba's files of a function, each with the SHA-256 of its content at its end.

    Nothing is unpickled before its SHA-256 has been found right.
    """

    def _dump(self, obj: Any) -> bytes:
        content: bytes = super()._dump(obj)
        return content + hashlib.sha256(content).digest()

    def _load_index(self) -> Any:
        path = Path(self._index_path)
        if not path.is_file():
            return {}
        # In front of what is dumped.
        version = pickle.dumps(self._version, protocol=-1)
        content = path.read_bytes()
        if not content.startswith(version):
            return {}  # of another version of numba, or damaged there: it is written anew
        _check(path, content[len(version) :])
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        path = Path(self._data_path(name))
        _check(path, path.read_bytes())
        return super()._load_data(name)


class _DamagedFile(Exception):
    """The name of a file whose SHA-256 is wrong."""


def _check(path: Path, content: bytes) -> None:
    if hashlib.sha256(content[:-_SIZE]).digest() != content[-_SIZE:]:
        raise _DamagedFile(repr(str(path)))


@cache
def _stamp() -> str:
    """Return a number of the sources that a loop's code depends on."""
    paths = (Path(__file__).with_name(name) for name in _SOURCES)
    contents = (path.read_bytes() if path.is_file() else b"" for path in paths)
    return hashlib.sha256(b"\0".join(contents)).hexdigest()


def _tell_uncached(error: Exception) -> None:
    """Warn that later processes will have to compile a loop again."""
    _tell_once(
        "The compiled loops of hoag_shine are compiled again in each process, which takes some "
        "seconds, because numba cannot keep them in files: set the environment variable "
        f"NUMBA_CACHE_DIR to a folder that can be written ({error})."
    )


def _tell_once(message: str) -> None:
    """Warn once: what is wrong with the file of one loop is most probably wrong for all."""
    if not _told:
        _told.append(message)
        warn(message, RuntimeWarning)
