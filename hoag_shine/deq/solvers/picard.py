"""Picard iteration, damped or not."""

from __future__ import annotations

import torch
from torch import Tensor

from ..capabilities import declares
from ..low_rank import LowRank
from ..state import FlatMap
from .base import Solution, Stopping, check_damping, make_monitor


@declares(estimates_inverse=False, takes_outer_grad=False)
def picard(f: FlatMap, z0: Tensor, stopping: Stopping, *, damping: float = 1.0) -> Solution:
    r"""Iterate :math:`z \leftarrow (1 - \tau) z + \tau f(z)`.

    It converges linearly if :math:`(1 - \tau) I + \tau J` has a spectral radius below 1 and it
    starts near the fixed point.

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
    monitor = make_monitor(z0, stopping)
    z = z0
    for step in range(stopping.max_iter + 1):
        value = f(z)
        last = step == stopping.max_iter
        measured = stopping.monitor or last  # else the residual is not used
        monitor.update(z, value - z if measured else value, value)
        if last or monitor.finished():
            break
        z = monitor.moved(z, value if damping == 1 else torch.lerp(z, value, damping))
    return monitor.solution(LowRank.identity(z0))
