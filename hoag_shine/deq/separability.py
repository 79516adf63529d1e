"""Whether f treats the samples of a batch separately, as solvers that go row by row need it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .state import FlatMap

# Powers of two by which samples are scaled to tell them apart.
# Why: by judgement; with more, the smallest would be lost beside the largest in half precision.
_LEVELS = 8

_seen: WeakKeyDictionary[Any, set[Any]] = WeakKeyDictionary()


def check_separable(f: FlatMap, z: Tensor) -> None:
    """Raise an error if the Jacobian of f at z is not block diagonal, a block for each sample.

    Every function is checked once for each number of dimensions of its state and each mode of its
    modules (batch normalisation couples samples in training only). The cost is an evaluation with
    its graph and two products with the transposed Jacobian, and a device is waited for.

    Parameters
    ----------
    f : FlatMap
    z : Tensor of shape (batch, n)

    Raises
    ------
    ValueError
        If a sample acts on another one.
    """
    if z.shape[0] < 2 or z.shape[1] == 0 or torch.is_inference_mode_enabled():
        return
    seen, key = _memory(f)
    if key in seen:
        return
    coupled = _coupling(f, z)
    if bool(coupled.any()):
        raise ValueError(_message(coupled))
    seen.add(key)


def _coupling(f: FlatMap, z: Tensor) -> Tensor:
    """Return which samples act on other ones, a bool tensor of shape (batch,).

    Weights D, one a sample, commute with a block-diagonal Jacobian: J^T D v = D J^T v. Where two
    samples of different weights are coupled, the two differ. Powers of two make multiplication
    exact, so that a separable f leaves no rounding, in whatever precision; and both products come
    from one evaluation, so that it does not matter whether f is random.
    """
    v, weights = _direction(z), _weights(z)
    with _eager():
        _, vjp = f.value_and_vjp(z)
        plain, weighted = vjp(v), vjp(weights * v)
    difference = torch.linalg.vector_norm(weighted - weights * plain, dim=1)
    norm = torch.linalg.vector_norm
    scale = weights[:, 0] * (norm(plain, dim=1) + norm(v, dim=1))
    # Kernels that add in any order leave rounding; a sample that is not finite compares as False.
    tolerance: float = torch.finfo(f.precision).eps ** 0.5
    coupled: Tensor = difference > scale * tolerance
    return coupled


def _direction(z: Tensor) -> Tensor:
    """Return the same vector of positive entries for all samples: means do not vanish in it."""
    generator = torch.Generator().manual_seed(0)
    entries = torch.rand(z.shape[1], dtype=z.dtype, generator=generator) + 0.5
    return entries.to(z.device).expand_as(z)


def _weights(z: Tensor) -> Tensor:
    """Return powers of two in random order, of shape (batch, 1); up to eight samples all differ."""
    order = torch.randperm(z.shape[0], generator=torch.Generator().manual_seed(0))
    return (2.0 ** (order % _LEVELS)).to(z)[:, None]


def _eager() -> AbstractContextManager[Any]:
    """Return a context without compilation, which would cost more than the check."""
    set_stance: Callable[..., AbstractContextManager[Any]] | None = getattr(
        torch.compiler, "set_stance", None
    )  # since 2.6
    return nullcontext() if set_stance is None else set_stance("force_eager")


def _memory(f: FlatMap) -> tuple[set[Any], Any]:
    """Return what is known of a function, and the key of the case at hand."""
    function = f.f
    while isinstance(function, partial):
        function = function.func
    owner = function.__self__ if isinstance(function, MethodType) else function
    modes = tuple(m.training for m in owner.modules()) if isinstance(owner, nn.Module) else ()
    key = (getattr(function, "__func__", None), f.layout.dimensions, modes)
    try:
        return _seen.setdefault(owner, set()), key
    except TypeError:  # no weak reference, or no hash: nothing is remembered
        return set(), key


def _message(coupled: Tensor) -> str:
    rows = coupled.nonzero().ravel().tolist()
    some = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return (
        f"f must treat the samples of a batch separately, but {len(rows)} of {len(coupled)} act on "
        f"other ones (samples {some}), so that gradients would be wrong. With batch_dims=0 the "
        "whole state is solved as one problem: use it where rows are nodes of a graph, or where f "
        "has a batch normalisation in training mode. check_separable=False turns this check off."
    )
