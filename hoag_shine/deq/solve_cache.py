"""What is computed or drawn once in a solve, however often f is called: weights and masks.

A solver calls f tens of times, and its backward pass calls it again. Weights that are normalised
anew in each call cost time, those that change from call to call (a spectral normalisation in
training) make f another function each time, as does an ordinary dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import local
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Layer = TypeVar("Layer", bound=nn.Module)


class _Now(local):
    """What the solve of this thread remembers; None outside solves."""

    memory: dict[Any, Any] | None = None


_now = _Now()


class remembering:
    """Have what is computed once per solve kept in ``memory``, for one call of f.

    A class: a generator would cost as much as a small f.
    """

    def __init__(self, memory: dict[Any, Any]) -> None:
        self.memory = memory

    def __enter__(self) -> None:
        self.before, _now.memory = _now.memory, self.memory

    def __exit__(self, *error: object) -> None:
        _now.memory = self.before


def once(key: Any, compute: Callable[[], Tensor]) -> Tensor:
    """Return the tensor of this solve for a key, with its graph where one is recorded.

    Parameters
    ----------
    key : hashable
    compute : callable
        Called at the first use in a solve, or at every use outside.
    """
    memory = _now.memory
    if memory is None:
        return compute()
    if key not in memory:
        with torch.enable_grad():  # the solver has no use for a graph, but the backward pass has
            memory[key] = compute()
    value: Tensor = memory[key]
    return value if torch.is_grad_enabled() else value.detach()


class VariationalDropout(nn.Module):
    """Dropout whose mask is the same in all calls of a solve, and its backward pass.

    Uses of one module on tensors of one shape share theirs. Outside a solve it is an ordinary
    dropout.

    Parameters
    ----------
    p : float, default=0.5
        Probability of a zero.

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
        """Return x with some entries zero, and the others larger for it."""
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        return x * once(
            (self, x.shape), lambda: torch.empty_like(x).detach().bernoulli_(keep).div_(keep)
        )

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _Once(nn.Module):
    """A parametrisation that is computed once in a solve."""

    def __init__(self, parametrisation: nn.Module) -> None:
        super().__init__()
        self.parametrisation = parametrisation

    def forward(self, *originals: Tensor) -> Tensor:
        return once(self, lambda: self.parametrisation(*originals))

    def right_inverse(self, value: Tensor) -> Any:
        inverse: Callable[[Tensor], Any] = self.parametrisation.right_inverse  # type: ignore[assignment]
        return inverse(value)


def once_per_solve(module: Layer) -> Layer:
    """Have all parametrised weights within a module computed once in each solve.

    Parameters
    ----------
    module : Module
        With parametrisations of PyTorch, such as ``weight_norm`` and ``spectral_norm`` of
        ``torch.nn.utils.parametrizations``. It is changed in place.

    Returns
    -------
    module : Module
        The same.

    Raises
    ------
    ValueError
        If there are none.

    Notes
    -----
    Outside a solve weights are computed at every use, as before. Buffers of a parametrisation, such
    as those of a spectral normalisation, go by another name in ``state_dict``.
    """
    lists = [m for m in module.modules() if isinstance(m, parametrize.ParametrizationList)]
    if not lists:
        raise ValueError(
            "module must have parametrised weights, such as those of "
            "torch.nn.utils.parametrizations.weight_norm(layer), got none."
        )
    for found in lists:
        for i, parametrisation in enumerate(found):
            if not isinstance(parametrisation, _Once):
                found[i] = _Once(parametrisation)
    return module
