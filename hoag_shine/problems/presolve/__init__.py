"""Reductions of the data that leave the solutions as they are.

Those of the columns change the variables and the groups of penalties: they form a chain, each with
its way back, see :mod:`~hoag_shine.problems.presolve.chain`. Those of the rows leave the variables
as they are, and the losses of every fold, so that they need no way back: see
:mod:`~hoag_shine.problems.presolve.rows`. Each is made once, before the search.

The idea is that of presolve in linear programming, whose first reductions are empty, duplicate and
parallel rows and columns [1]_.

References
----------
.. [1] E. D. Andersen and K. D. Andersen, "Presolving in linear programming", Mathematical
   Programming 71, 1995.
"""

from __future__ import annotations

# Share of the columns, or of the rows, that must go for a copy of X to be made.
# Why: by judgement; a copy costs a few passes, and a search makes 50 to 100.
WORTHWHILE_SHARE = 0.1
