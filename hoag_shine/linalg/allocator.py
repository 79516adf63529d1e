"""How much memory there is, and how the memory of vectors is kept for the next ones."""

from __future__ import annotations

import os
from functools import cache

import numpy as np

# Bytes of the largest array from which the GNU C library learns to keep what is freed.
# Why: mallopt(3), M_MMAP_THRESHOLD: the limit is 32 MiB, from which the array's header and its
# alignment are taken off.
LARGEST_LEARNT_BYTES = (1 << 25) - (1 << 16)


@cache
def keep_freed_memory() -> None:
    """Have the allocator keep what is freed, instead of fetching new pages for each vector.

    The GNU C library gives the memory of an array back to the system when it is freed, unless a
    larger one has been freed before. New pages then have to be found and filled with zeros, which
    takes longer than to compute a vector. So a large array is made and freed once; it is never
    written to and takes no memory. Other C libraries are not changed by this. On IMDB, it saves a
    sixth of a search.
    """
    np.empty(LARGEST_LEARNT_BYTES, dtype=np.uint8)


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
