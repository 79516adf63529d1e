"""What any backward method can be wrapped in: steps that refine it, a test that rejects it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..capabilities import uses_inverse
from ..execution import select_rows
from ..low_rank import LowRank
from .base import Adjoint, Linearisation, Method, relative_norm
from .implicit import refine

Test = Literal["auto", "residual", "norm-ratio"]

_LIMITS: dict[str, float] = {"auto": 5.0, "residual": 1.0, "norm-ratio": 1.3}


def with_refinement(method: Method, steps: int) -> Method:
    """Return the method, refined by GMRES steps that start from its estimate.

    Parameters
    ----------
    method : callable
    steps : int
        Number of GMRES steps, at least 1; two more products give the first and the last residual.

    Returns
    -------
    method : callable
    """
    if not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"refine must be an integer of at least 1, got {steps!r}.")

    return _Refined(method, steps)


def with_fallback(
    method: Method, test: Test = "residual", *, threshold: float | None = None
) -> Method:
    r"""Return the method with samples that fail a test replaced by :math:`u = \nabla L`.

    Parameters
    ----------
    method : callable
    test : {"residual", "norm-ratio", "auto"}, default="residual"
        ``"residual"`` computes :math:`\nabla L - (I - J^\top) u`, for one product, and rejects a
        sample where its norm exceeds that of :math:`\nabla L`, the residual of u = 0.
        ``"norm-ratio"`` is the paper's test, for no product: reject a sample where the norm of u
        exceeds that of :math:`\nabla L`.
        ``"auto"`` is a safeguard, for no product: the test of norms only for samples whose forward
        pass has not converged, and only for methods that use the solver's estimate, which may be
        far too large there. With ``tol=0`` no sample counts as converged.
    threshold : float, optional
        By default 1 for the residual, 1.3 for the ratio of norms, the paper's value for CIFAR-10,
        and 5 for ``"auto"``, the largest ratio if no eigenvalue of a symmetric J exceeds 0.8.

    Returns
    -------
    method : callable

    References
    ----------
    Ramzi et al. (2022), *SHINE*, section 3 and appendix on the fallback strategy.
    """
    if test not in _LIMITS:
        raise ValueError(f"fallback must be 'auto', 'residual' or 'norm-ratio', got {test!r}.")
    limit = _LIMITS[test] if threshold is None else threshold
    if not limit > 0:
        raise ValueError(f"threshold must be positive, got {threshold!r}.")
    if test == "auto" and not uses_inverse(method):
        return method

    return _Tested(method, test, limit)


@dataclass(frozen=True)
class _Wrapped:
    """A class, not a function within one: a layer has to be pickled."""

    method: Method

    @property
    def uses_inverse(self) -> bool:
        return uses_inverse(self.method)


@dataclass(frozen=True)
class _Refined(_Wrapped):
    steps: int

    def __call__(self, linearisation: Linearisation, inverse: LowRank, grad: Tensor) -> Adjoint:
        first = self.method(linearisation, inverse, grad)
        better = refine(linearisation, grad, first.value, self.steps)
        return Adjoint(better.value, better.residual, first.fell_back)


@dataclass(frozen=True)
class _Tested(_Wrapped):
    test: Test
    limit: float

    def __call__(self, linearisation: Linearisation, inverse: LowRank, grad: Tensor) -> Adjoint:
        adjoint = self.method(linearisation, inverse, grad)
        u, residual = adjoint.value, adjoint.residual
        if self.test == "residual":
            size = residual = relative_norm(linearisation.residual(u, grad), grad)
        else:
            size = relative_norm(u, grad)
        rejected = ~(size <= self.limit)  # NaN as well
        if self.test == "auto":
            rejected &= ~(linearisation.converged & torch.isfinite(size))
        if residual is not None:
            residual = residual.masked_fill(rejected, torch.nan)
        return Adjoint(select_rows(rejected, grad, u), residual, rejected)
