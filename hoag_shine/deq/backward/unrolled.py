"""Backpropagation through unrolled Picard iterations."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..low_rank import LowRank
from ..solvers import Monitor, Solution, Stopping
from ..state import FlatMap


def unrolled(f: FlatMap, z0: Tensor, stopping: Stopping) -> tuple[Tensor, Solution]:
    """Take ``max_iter`` Picard steps that autograd records; memory grows with their number.

    Parameters
    ----------
    f : FlatMap
    z0 : Tensor of shape (batch, n)
    stopping : Stopping
        Only ``max_iter`` and ``indexing`` are used: all samples take all steps.

    Returns
    -------
    z : Tensor of shape (batch, n)
        With its graph.
    solution : Solution
        Diagnostics of the last iterate at which f was evaluated, whose image is z. Its
        ``iterates`` have their graphs.
    """
    monitor = Monitor(z0, replace(stopping, tol=0.0, indexing=()))
    iterates = [z0]
    for _ in range(stopping.max_iter):
        z = iterates[-1]
        value = f(z)
        monitor.update(z.detach(), (value - z).detach(), value.detach())
        iterates.append(value)
    solution = monitor.solution(LowRank.identity(z0))
    kept = tuple(iterates[step] for step in stopping.indexing)
    return iterates[-1], replace(solution, iterates=kept)
