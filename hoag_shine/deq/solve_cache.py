"""Tensors that are computed or drawn once per solve: normalised weights and dropout masks.

A solver calls f tens of times, and the backward pass calls it again. There is a fixed point only if
f stays the same function: an ordinary dropout would draw a new mask in each call, and a spectral
normalisation in training would change its weight. To normalise a weight in each call would also
take time.

Invariant: within a solve and its backward pass, a key stands for one tensor. The cache belongs to
the :class:`~hoag_shine.deq.FlatMap` of the solve, which makes it the current one of its thread
during each call of f.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import local
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Layer = TypeVar("Layer", bound=nn.Module)


class _Current(local):
    """The cache of the solve that this thread is in; None outside solves."""

    cache: dict[Any, Any] | None = None


_current = _Current()


class caching_in:
    """Context in which :func:`cached` uses a given cache, for one call of f.

    A class, because entering a generator-based context costs as much as a small f.
    """

    def __init__(self, cache: dict[Any, Any]) -> None:
        self.cache = cache

    def __enter__(self) -> None:
        self.previous, _current.cache = _current.cache, self.cache

    def __exit__(self, *error: object) -> None:
        _current.cache = self.previous


def cached(key: Any, compute: Callable[[], Tensor]) -> Tensor:
    """Return the tensor of the current solve for a key, with its graph if gradients are recorded.

    Parameters
    ----------
    key : hashable
    compute : callable
        Called at the first use in a solve, and at every use outside solves.
    """
    cache = _current.cache
    if cache is None:
        return compute()
    if key not in cache:
        # The solver calls f without gradients, but the backward pass needs the graph.
        with torch.enable_grad():
            cache[key] = compute()
    value: Tensor = cache[key]
    return value if torch.is_grad_enabled() else value.detach()


class VariationalDropout(nn.Module):
    """Dropout with one mask for all calls in a solve and in its backward pass.

    Within a solve, a module applies the same mask to all tensors of the same shape. Outside solves
    it is an ordinary dropout.

    Parameters
    ----------
    p : float, default=0.5
        Probability that an entry is set to zero. The others are divided by ``1 - p``.

    Raises
    ------
    ValueError
        If ``p`` is not in [0, 1).

    References
    ----------
    Gal and Ghahramani (2016), *A theoretically grounded application of dropout in recurrent neural
    networks*; Bai, Kolter and Koltun (2019), *Deep equilibrium models*, section 3.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be in [0, 1), got {p!r}.")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return x with some entries set to zero and the others divided by ``1 - p``."""
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        return x * cached(
            (self, x.shape), lambda: torch.empty_like(x).detach().bernoulli_(keep).div_(keep)
        )

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _CachedParametrisation(nn.Module):
    """A parametrisation that is computed once per solve."""

    def __init__(self, parametrisation: nn.Module) -> None:
        super().__init__()
        self.parametrisation = parametrisation

    def forward(self, *originals: Tensor) -> Tensor:
        return cached(self, lambda: self.parametrisation(*originals))

    def right_inverse(self, value: Tensor) -> Any:
        inverse: Callable[[Tensor], Any] = self.parametrisation.right_inverse  # type: ignore[assignment]
        return inverse(value)


def once_per_solve(module: Layer) -> Layer:
    """Have all parametrised weights of a module computed once per solve.

    Parameters
    ----------
    module : Module
        With parametrisations of PyTorch, such as ``weight_norm`` and ``spectral_norm`` of
        ``torch.nn.utils.parametrizations``. It is changed in place.

    Returns
    -------
    module : Module
        The same object.

    Raises
    ------
    ValueError
        If no weight is parametrised.

    Notes
    -----
    Outside solves, weights are still computed at every use. In ``state_dict``, the names of a
    parametrisation's buffers, such as those of a spectral normalisation, get ``parametrisation.``
    in front of their last part.
    """
    lists = [m for m in module.modules() if isinstance(m, parametrize.ParametrizationList)]
    if not lists:
        raise ValueError(
            "module must have parametrised weights, such as those of "
            "torch.nn.utils.parametrizations.weight_norm(layer), got none."
        )
    for parametrisations in lists:
        for i, parametrisation in enumerate(parametrisations):
            if not isinstance(parametrisation, _CachedParametrisation):
                parametrisations[i] = _CachedParametrisation(parametrisation)
    return module
