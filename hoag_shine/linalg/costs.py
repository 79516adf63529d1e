"""Sizes at which another way of computing becomes the faster one, where several rooms ask."""

from __future__ import annotations

# float64 numbers that a core's own (second-level) cache holds: 1 MiB.
# Why: that is the size on the server processors that the benchmarks ran on.
CORE_CACHE_NUMBERS = 1 << 17
# Numbers in a vector from which on the pairs of L-BFGS are read from memory and not from a cache:
# they are stored in half precision then, and the last digits of a solution are no longer free.
# Why: 20 pairs of 10,000 float64 numbers take 3.2 MB, more than a core's own cache. At 57,000 and
# 65,000 variables (IMDB, 20news) half precision saves a quarter of the recursion's time; between
# there and here nothing was measured.
LONG_VECTOR_NUMBERS = 10_000
# Largest order of a Hessian that is factorised.
# Why: a Cholesky factorisation of this order makes 3e8 multiplications, some hundredths of a
# second; the time grows with the third power.
MAX_FACTORISED_ORDER = 1000
# Numbers in an array that is made for many folds or columns at once; what needs more is done in
# portions, or without the array.
# Why: by judgement. It bounds the memory, at 32 MiB for an array, and larger portions save nothing.
WORKSPACE_NUMBERS = 1 << 22
