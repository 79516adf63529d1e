"""What rounding does to the numbers of this library, in the units that several rooms share."""

from __future__ import annotations

import numpy as np

# Distance from 1 to the next larger float64.
EPSILON = float(np.finfo(np.float64).eps)
# Smallest positive float64 with all of its bits; a divisor that is at least this cannot be zero.
SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)
# Share of the size of its terms below which a sum over samples or variables is rounding.
# Why: 50 roundings of 1.1e-16 each add up to about this, which is what sums of some thousand terms
# lose (their errors grow with the root of the number of terms).
SUM_ROUNDING = 1e-14
