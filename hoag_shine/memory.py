"""How the memory of vectors is kept for the next ones."""

from __future__ import annotations

from functools import cache

import numpy as np

# The GNU C library learns from no larger array: mallopt(3), M_MMAP_THRESHOLD.
LARGEST = (1 << 25) - (1 << 16)


@cache
def keep_freed_memory() -> None:
    """Have the allocator keep what is freed, instead of fetching new pages for each vector.

    The GNU C library gives an array back to the system when it is freed, unless a larger one has
    been freed before, and a new page has to be found and filled with zeros, which takes longer than
    to compute a vector. So it is shown a large one, which is never touched and takes no memory.
    Others do as they do.
    """
    np.empty(LARGEST, dtype=np.uint8)
