"""A solve with its options: from a state to its fixed point, through which gradients flow."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from .autograd import AdjointRule, with_implicit_backward
from .backward import Linearisation
from .backward.unrolled import unrolled
from .execution import (
    finite_rows,
    in_torch_func,
    is_exporting,
    select_rows,
    torch_func_transforms,
)
from .info import Info
from .options import Options
from .separability import check_separable
from .solvers import Solution
from .state import FlatMap, Graph, Layout, State, without_autocast


def solve(
    options: Options,
    f: Callable[..., State],
    z0: State,
    inputs: tuple[Any, ...],
    outer_grad: Callable[[State], State] | None,
) -> tuple[State, Info]:
    """Return the fixed point and what is known of it; see :func:`fixed_point`."""
    if torch.compiler.is_dynamo_compiling():
        # One graph break here is cheaper than many inside. f may still be compiled by itself.
        outside = torch.compiler.disable(solve)  # type: ignore[no-untyped-call]
        result: tuple[State, Info] = outside(options, f, z0, inputs, outer_grad)
        return result
    if outer_grad is not None and not options.takes_outer_grad:
        raise ValueError(
            "outer_grad is of use only to a solver that takes it, such as 'adjoint-broyden', "
            f"got solver={options.solver_name!r} and backward={options.backward_name!r}."
        )
    layout = Layout.of(z0, options.state_dtype, options.batch_dims)
    flat_f = FlatMap(f, layout, inputs, outer_grad)
    start = layout.flatten(z0).detach()
    with without_autocast(layout.device.type):
        z, info = _solve_flat(options, flat_f, start)
    return layout.unflatten(z), info


def _solve_flat(options: Options, f: FlatMap, start: Tensor) -> tuple[Tensor, Info]:
    if options.unrolled:
        z, solution = unrolled(f, start, options.stopping)
        info = _info(solution, f)
        info.iterates = tuple(f.layout.unflatten(iterate) for iterate in solution.iterates)
        return z, info
    _fill_parametrisation_cache(f, start)
    if "Vmap" in torch_func_transforms():
        start = _batched_by_vmap(f, start)
    with torch.no_grad():
        solution = options.forward_solver(f, start, options.stopping)
    info = _info(solution, f)
    if is_exporting():
        return solution.z, info  # an exported program is for inference
    if options.check_separable and options.batch_dims == 1 and not in_torch_func():
        check_separable(f, solution.z)
    z = _differentiable(options, f, solution.z, info)
    info.iterates = tuple(
        f.layout.unflatten(_differentiable(options, f, iterate, copy(info)))
        for iterate in solution.iterates
    )
    return z, info


def _differentiable(options: Options, f: FlatMap, z: Tensor, info: Info) -> Tensor:
    """Return z with its graph if gradients are recorded; ``info`` gets its backward pass."""
    if not torch.is_grad_enabled():
        return z
    non_finite = ~(torch.isfinite(info.residual) & finite_rows(z))
    # Such a sample gets no gradient. f is evaluated at zero for it: NaN in its derivatives would
    # reach the parameters that samples share, even times a gradient of zero.
    point = select_rows(non_finite, torch.zeros_like(z), z)
    if options.recorder is not None:
        return select_rows(non_finite, z, options.recorder(f, point))
    assert options.method is not None
    linearisation = Linearisation(f, z, info.converged)
    adjoint = AdjointRule(options.method, linearisation, info, non_finite, options.measure)
    through_z = adjoint.makes_products and not in_torch_func()
    graph = f.graph(point) if through_z else Graph(point, f(point))
    return with_implicit_backward(z, graph, adjoint) if graph.depends_on_more else z


def _batched_by_vmap(f: FlatMap, start: Tensor) -> Tensor:
    """Return the start as a tensor that vmap maps over, even if only f's parameters differ."""
    value = f(start)
    return torch.where(torch.isnan(value), start, start)


def _fill_parametrisation_cache(f: FlatMap, z: Tensor) -> None:
    """Evaluate f once with a graph, if PyTorch caches parametrised weights.

    Within ``torch.nn.utils.parametrize.cached()`` the first use fills the cache. The solver's would
    fill it with weights that have no graph.
    """
    if torch.is_grad_enabled() and getattr(parametrize, "_cache_enabled", False):
        f(z)


def _info(solution: Solution, f: FlatMap) -> Info:
    return Info(
        residual=solution.residual,
        relative_residual=solution.relative_residual,
        n_steps=solution.n_steps,
        status=solution.status,
        trace=solution.trace,
        inverse_jacobian=solution.inverse_jacobian,
        n_evals=f.n_evals,
    )
