"""What any backward method can be wrapped in: steps that refine it, a test that rejects it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..low_rank import LowRank
from .base import Adjoint, Linearisation, Method, relative_norm
from .implicit import refine

Test = Literal["residual", "norm-ratio"]


def with_refinement(method: Method, steps: int) -> Method:
    """Return the method, refined by GMRES steps that start from its estimate.

    Parameters
    ----------
    method : callable
    steps : int
        Number of GMRES steps, at least 1; one more product gives the first residual.

    Returns
    -------
    method : callable
    """
    if not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"refine must be an integer of at least 1, got {steps!r}.")

    def refined(linearisation: Linearisation, inverse: LowRank, grad: Tensor) -> Adjoint:
        first = method(linearisation, inverse, grad)
        better = refine(linearisation, grad, first.value, steps)
        return Adjoint(better.value, better.residual, first.fell_back)

    return refined


def with_fallback(
    method: Method, test: Test = "residual", *, threshold: float | None = None
) -> Method:
    r"""Return the method with samples that fail a test replaced by :math:`u = \nabla L`.

    Parameters
    ----------
    method : callable
    test : {"residual", "norm-ratio"}, default="residual"
        ``"residual"`` computes :math:`\nabla L - (I - J^\top) u`, for one product, and rejects a
        sample where its norm exceeds that of :math:`\nabla L`, the residual of u = 0.
        ``"norm-ratio"`` is the paper's test, for no product: reject a sample where the norm of u
        exceeds that of :math:`\nabla L`.
    threshold : float, optional
        By default 1 for the residual and 1.3 for the ratio of norms, the paper's value for
        CIFAR-10.

    Returns
    -------
    method : callable

    References
    ----------
    Ramzi et al. (2022), *SHINE*, section 3 and appendix on the fallback strategy.
    """
    if test not in ("residual", "norm-ratio"):
        raise ValueError(f"fallback must be 'residual' or 'norm-ratio', got {test!r}.")
    limit = threshold if threshold is not None else (1.0 if test == "residual" else 1.3)
    if not limit > 0:
        raise ValueError(f"threshold must be positive, got {threshold!r}.")

    def tested(linearisation: Linearisation, inverse: LowRank, grad: Tensor) -> Adjoint:
        u = method(linearisation, inverse, grad).value
        residual: Tensor | None = None
        if test == "residual":
            residual = relative_norm(linearisation.residual(u, grad), grad)
            rejected = ~(residual <= limit)  # NaN as well
            residual = residual.masked_fill(rejected, torch.nan)
        else:
            rejected = ~(relative_norm(u, grad) <= limit)
        return Adjoint(torch.where(rejected[:, None], grad, u), residual, rejected)

    return tested
