"""Picard iteration."""

from __future__ import annotations

from torch import Tensor

from ..abilities import declares
from ..low_rank import LowRank
from ..state import FlatMap
from .base import Solution, Stopping, check_damping, watched


@declares(estimates_inverse=False, takes_outer_grad=False)
def picard(f: FlatMap, z0: Tensor, stopping: Stopping, *, damping: float = 1.0) -> Solution:
    r"""Iterate :math:`z \leftarrow (1 - \tau) z + \tau f(z)`.

    Parameters
    ----------
    f : FlatMap
    z0 : Tensor of shape (batch, n)
    stopping : Stopping
    damping : float, default=1
        :math:`\tau`, in (0, 1].

    Returns
    -------
    solution : Solution
        Its inverse Jacobian is the identity.
    """
    check_damping(damping)
    monitor = watched(z0, stopping)
    z = z0
    for step in range(stopping.max_iter + 1):
        value = f(z)
        g = value - z
        monitor.update(z, g, value)
        if step == stopping.max_iter or monitor.finished():
            break
        z = monitor.moved(z, value if damping == 1 else z + damping * g)
    return monitor.solution(LowRank.identity(z0))
