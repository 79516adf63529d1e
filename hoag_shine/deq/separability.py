"""The check that f treats the samples of a batch separately.

Solvers and backward methods treat each row of the state as a problem of its own. That is right only
if the Jacobian of f is block diagonal, with a block for each sample.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .state import FlatMap

# Number of different weights, powers of two, that tell samples apart.
# Why: by judgement; with more, the smallest would be lost beside the largest in half precision.
DISTINCT_WEIGHTS = 8
# Samples that an error lists.
# Why: by judgement: enough to see a pattern.
LISTED_SAMPLES = 5

# For each f that has been found separable, the cases it was checked in.
_checked: WeakKeyDictionary[Any, set[Any]] = WeakKeyDictionary()


def check_separable(f: FlatMap, z: Tensor) -> None:
    """Raise an error unless the Jacobian of f at z is block diagonal, with a block for each sample.

    Each function is checked once for each number of dimensions of its state and each mode of its
    modules (batch normalisation couples samples in training only). A check costs one evaluation of
    f with its graph and two vector-Jacobian products, and waits for the device.

    Parameters
    ----------
    f : FlatMap
    z : Tensor of shape (batch, n)

    Raises
    ------
    ValueError
        If a sample depends on another one.
    """
    if z.shape[0] < 2 or z.shape[1] == 0 or torch.is_inference_mode_enabled():
        return
    checked, case = _checked_cases(f)
    if case in checked:
        return
    coupled = _coupling(f, z)
    if bool(coupled.any()):
        raise ValueError(_message(coupled))
    checked.add(case)


def _coupling(f: FlatMap, z: Tensor) -> Tensor:
    """Return which samples act on other ones, a bool tensor of shape (batch,).

    A diagonal matrix D with one weight per sample commutes with a block-diagonal Jacobian: J^T D v
    = D J^T v. If samples of different weights are coupled, the two sides differ. The weights are
    powers of two, which multiply without rounding in any precision. And both products come from one
    evaluation of f, which may therefore be random.
    """
    v, weights = _direction(z), _weights(z)
    with _eager():
        _, vjp = f.value_and_vjp(z)
        plain, weighted = vjp(v), vjp(weights * v)
    difference = torch.linalg.vector_norm(weighted - weights * plain, dim=1)
    norm = torch.linalg.vector_norm
    scale = weights[:, 0] * (norm(plain, dim=1) + norm(v, dim=1))
    # Kernels whose order of summation varies leave rounding differences, far below sqrt(eps). NaN
    # compares as False: a sample that is not finite is not reported.
    tolerance: float = torch.finfo(f.precision).eps ** 0.5
    coupled: Tensor = difference > scale * tolerance
    return coupled


def _direction(z: Tensor) -> Tensor:
    """Return one random vector with entries in [0.5, 1.5) for all samples.

    Positive entries do not cancel in an f that takes means.
    """
    generator = torch.Generator().manual_seed(0)
    entries = torch.rand(z.shape[1], dtype=z.dtype, generator=generator) + 0.5
    return entries.to(z.device).expand_as(z)


def _weights(z: Tensor) -> Tensor:
    """Return powers of two in random order, of shape (batch, 1); those of 8 samples all differ."""
    order = torch.randperm(z.shape[0], generator=torch.Generator().manual_seed(0))
    return (2.0 ** (order % DISTINCT_WEIGHTS)).to(z)[:, None]


def _eager() -> AbstractContextManager[Any]:
    """Return a context without compilation of f, which would cost more than the check.

    If PyTorch's compiler is not loaded, nothing is compiled, and loading it would take a second.
    """
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    set_stance: Callable[..., AbstractContextManager[Any]] | None = getattr(
        torch.compiler, "set_stance", None
    )  # since 2.6
    return nullcontext() if set_stance is None else set_stance("force_eager")


def _checked_cases(f: FlatMap) -> tuple[set[Any], Any]:
    """Return the cases in which a function has been checked, and the present case."""
    function = f.f
    while isinstance(function, partial):
        function = function.func
    owner = function.__self__ if isinstance(function, MethodType) else function
    modes = tuple(m.training for m in owner.modules()) if isinstance(owner, nn.Module) else ()
    key = (getattr(function, "__func__", None), f.layout.dimensions, modes)
    try:
        return _checked.setdefault(owner, set()), key
    except TypeError:  # no weak reference or no hash: it is checked in every call
        return set(), key


def _message(coupled: Tensor) -> str:
    rows = coupled.nonzero().ravel().tolist()
    some = ", ".join(map(str, rows[:LISTED_SAMPLES]))
    some += ", ..." if len(rows) > LISTED_SAMPLES else ""
    return (
        f"f must treat the samples of a batch separately, but {len(rows)} of {len(coupled)} act on "
        f"other ones (samples {some}), so that gradients would be wrong. With batch_dims=0 the "
        "whole state is solved as one problem: use it if rows are nodes of a graph, or if f has a "
        "batch normalisation in training mode. check_separable=False turns this check off."
    )
