"""Refinement and fallback, which can be added to any backward method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..capabilities import makes_products, uses_inverse
from ..execution import select_rows
from ..low_rank import LowRank
from .base import Adjoint, Linearisation, Method, relative_norm
from .implicit import refine

Test = Literal["auto", "residual", "norm-ratio"]

# Largest residual of an estimate, over the norm of the gradient.
# Why: 1 is the residual of u = 0, so that a larger one is worse than no estimate.
MAX_RESIDUAL = 1.0
# Largest ratio of the norms of estimate and gradient.
# Why: the value of the SHINE paper for CIFAR-10.
MAX_NORM_RATIO = 1.3
# Largest such ratio for samples whose forward pass has not converged.
# Why: 5 = 1 / (1 - 0.8) is the largest ratio if no eigenvalue of a symmetric J exceeds 0.8.
MAX_NORM_RATIO_UNCONVERGED = 5.0

_THRESHOLDS: dict[Test, float] = {
    "auto": MAX_NORM_RATIO_UNCONVERGED,
    "residual": MAX_RESIDUAL,
    "norm-ratio": MAX_NORM_RATIO,
}


def with_refinement(method: Method, steps: int) -> Method:
    """Return the method, refined by GMRES steps that start from its estimate.

    Parameters
    ----------
    method : callable
    steps : int
        Number of GMRES steps, at least 1. Two more products compute the residuals before and after.

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
    r"""Return the method with a fallback to :math:`u = \nabla L` for samples that fail a test.

    Parameters
    ----------
    method : callable
    test : {"residual", "norm-ratio", "auto"}, default="residual"
        ``"residual"`` computes :math:`\nabla L - (I - J^\top) u`, for one product, and rejects
        samples for which its norm is larger than that of :math:`\nabla L`, the residual of u = 0.
        ``"norm-ratio"`` is the paper's test and needs no product: it rejects samples for which the
        norm of u is more than ``threshold`` times that of :math:`\nabla L`.
        ``"auto"`` applies ``"norm-ratio"`` only where the solver's estimate of the inverse may be
        far too large: to samples whose forward pass has not converged, of methods that use this
        estimate. With ``tol=0`` no sample counts as converged.
    threshold : float, optional
        Largest ratio that passes. By default 1 for ``"residual"``; 1.3 for ``"norm-ratio"``, the
        paper's value for CIFAR-10; and 5 for ``"auto"``, which no ratio exceeds if J is symmetric
        with eigenvalues up to 0.8.

    Returns
    -------
    method : callable

    References
    ----------
    Ramzi et al. (2022), *SHINE*, section 3 and appendix on the fallback strategy.
    """
    if test not in _THRESHOLDS:
        raise ValueError(f"fallback must be 'auto', 'residual' or 'norm-ratio', got {test!r}.")
    if threshold is None:
        threshold = _THRESHOLDS[test]
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold!r}.")
    if test == "auto" and not uses_inverse(method):
        return method

    return _WithFallback(method, test, threshold)


@dataclass(frozen=True)
class _Wrapped:
    """A method around a method. A class, since functions within functions cannot be pickled."""

    method: Method

    @property
    def uses_inverse(self) -> bool:
        return uses_inverse(self.method)


@dataclass(frozen=True)
class _Refined(_Wrapped):
    steps: int
    makes_products = True

    def __call__(self, linearisation: Linearisation, inverse: LowRank, grad: Tensor) -> Adjoint:
        first = self.method(linearisation, inverse, grad)
        better = refine(linearisation, grad, first.value, self.steps)
        return Adjoint(better.value, better.residual, first.fell_back)


@dataclass(frozen=True)
class _WithFallback(_Wrapped):
    test: Test
    threshold: float

    @property
    def makes_products(self) -> bool:
        return self.test == "residual" or makes_products(self.method)

    def __call__(self, linearisation: Linearisation, inverse: LowRank, grad: Tensor) -> Adjoint:
        adjoint = self.method(linearisation, inverse, grad)
        u, residual = adjoint.value, adjoint.residual
        if self.test == "residual":
            ratio = residual = relative_norm(linearisation.residual(u, grad), grad)
        else:
            ratio = relative_norm(u, grad)
        rejected = ~(ratio <= self.threshold)  # NaN as well
        if self.test == "auto":
            rejected &= ~(linearisation.converged & torch.isfinite(ratio))
        if residual is not None:
            residual = residual.masked_fill(rejected, torch.nan)
        return Adjoint(select_rows(rejected, grad, u), residual, rejected)
