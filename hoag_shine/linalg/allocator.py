"""How much memory there is, and how the memory of vectors is kept for the next ones."""

from __future__ import annotations

import ctypes
import os
from functools import cache

# Parameters of mallopt(3), by their numbers in malloc.h.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
# Bytes of the largest array that the GNU C library keeps when it is freed; it keeps twice as much
# of free memory in all.
# Why: mallopt(3): the limit is 32 MiB, and where the library learns, it ends at these two.
LARGEST_KEPT_BYTES = 1 << 25


@cache
def keep_freed_memory() -> None:
    """Have the allocator keep what is freed, instead of fetching new pages for each vector.

    The GNU C library gives the memory of an array back to the system when it is freed, unless a
    larger one has been freed before. New pages then have to be found and filled with zeros, which
    takes longer than to compute a vector. On IMDB, it saves a sixth of a search. A worker of Dask
    would never learn that: it is started with MALLOC_TRIM_THRESHOLD_, and then took twice the
    processor time for a pass over mnist. Other C libraries are not changed by this.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
    mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_KEPT_BYTES)


def check_room_for_classes(n_classes: int, n_samples: int, n_features: int) -> None:
    """Refuse more classes than memory has room for.

    A fit of a single fold holds, in float64, the indicators of the classes, the linear predictors
    and their derivative, and twice the coefficients.

    Raises
    ------
    ValueError
        If that is more than the machine has.
    """
    needed = 8 * n_classes * (3 * n_samples + 2 * n_features)
    if needed > installed():
        raise ValueError(
            f"y has {n_classes} classes, and a model of {n_samples} samples and {n_features} "
            f"features with an output for each class needs {needed / 2**30:.0f} GiB of memory "
            f"where there are {installed() / 2**30:.0f}: use fewer classes, or check that y does "
            "not hold numbers to be predicted by a regression."
        )


@cache
def installed() -> float:
    """Return the bytes of memory that the machine has; infinity where it does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not POSIX
        return float("inf")
