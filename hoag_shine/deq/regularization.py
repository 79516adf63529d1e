"""Regularising terms for a loss, and the spectral radius of the Jacobian at a fixed point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import separability
from .info import Info
from .state import FlatMap, Layout, State


def jacobian_penalty(
    f: Callable[..., State],
    z: State,
    *inputs: Any,
    n_samples: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Estimate the squared Frobenius norm of the Jacobian, per component, differentiably.

    Hutchinson's estimator (1990): :math:`\|J\|_F^2 = E \|J^\top \epsilon\|^2` for standard normal
    :math:`\epsilon`. It is divided by the number of components of z.

    Parameters
    ----------
    f : callable
    z : state
        A fixed point; it is taken as a constant.
    *inputs
        Passed on to f.
    n_samples : int, default=1
        Number of vectors :math:`\epsilon`, each for one vector-Jacobian product.
    generator : torch.Generator, optional
        Of :math:`\epsilon`.

    Returns
    -------
    penalty : Tensor of shape ()
        Mean over the batch, with gradients to f's parameters and the inputs. Add it to the loss
        with a small weight.

    References
    ----------
    Bai, Koltun and Kolter (2021), *Stabilizing equilibrium models by Jacobian regularization*,
    equation 5.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples!r}.")
    layout = Layout.of(z, batch_dims=0)  # the Jacobian of the whole state: samples may be coupled
    point = layout.flatten(z).detach()
    _, vjp = FlatMap(f, layout, inputs).value_and_vjp(point, create_graph=True)
    total = point.new_zeros(())
    for _ in range(n_samples):
        noise = _random_like(point, generator)
        total = total + vjp(noise).square().mean()
    return total / n_samples


def fixed_point_correction(
    loss: Callable[[State], Tensor], z: State, info: Info, *, decay: float = 0.8
) -> Tensor:
    r"""Add the losses of earlier iterates to that of the fixed point, with decaying weights.

    Parameters
    ----------
    loss : callable
        Maps a state to a tensor of shape ().
    z : state
        As a layer returned it.
    info : Info
        As the layer returned it, with the iterates that ``indexing`` asked for.
    decay : float, default=0.8
        :math:`\gamma`, in (0, 1].

    Returns
    -------
    loss : Tensor of shape ()
        :math:`L(z) + \sum_i \gamma^{k - i} L(z_i)` over the iterates :math:`z_0, ..., z_{k-1}`.

    References
    ----------
    Bai, Geng, Savani and Kolter (2022), *Deep equilibrium optical flow estimation*, where it is
    called sparse fixed-point correction.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be in (0, 1], got {decay!r}.")
    total = loss(z)
    for age, iterate in enumerate(reversed(info.iterates), start=1):  # age = k - i
        total = total + decay**age * loss(iterate)
    return total


def spectral_radius(
    f: Callable[..., State],
    z: State,
    *inputs: Any,
    n_iter: int = 50,
    generator: torch.Generator | None = None,
    batch_dims: int = 1,
    check_separable: bool = True,
) -> Tensor:
    r"""Estimate the spectral radius of the Jacobian by power iteration.

    With a radius below 1, Picard iteration converges if it starts near the fixed point. (The
    Jacobian-free gradient is a descent direction under stronger assumptions, a norm of J below 1
    among them: Fung et al., 2022.)

    Parameters
    ----------
    f : callable
    z : state
        A fixed point.
    *inputs
        Passed on to f.
    n_iter : int, default=50
        Number of vector-Jacobian products.
    generator : torch.Generator, optional
        Of the random first vector.
    batch_dims, check_separable
        As in :func:`fixed_point`.

    Returns
    -------
    radius : Tensor of shape (batch,)
        Geometric mean of the growth :math:`\|J^\top v_k\|`, with :math:`\|v_k\| = 1`, over the last
        half of the iterations. That is the modulus of the leading eigenvalues also if they are a
        complex pair, for which the growth itself oscillates.

    References
    ----------
    Golub and Van Loan, *Matrix Computations*, section 7.3.
    """
    if n_iter < 2:
        raise ValueError(f"n_iter must be at least 2, got {n_iter!r}.")
    layout = Layout.of(z, batch_dims=batch_dims)
    point = layout.flatten(z).detach()
    flat_f = FlatMap(f, layout, inputs)
    _, vjp = flat_f.value_and_vjp(point)
    if check_separable:
        separability.check_separable(flat_f, point)
    v = _random_like(point, generator)
    growth = []
    for _ in range(n_iter):
        norm = torch.linalg.vector_norm(v, dim=1, keepdim=True)
        v = vjp(torch.where(norm > 0, v / norm, 0))
        growth.append(torch.linalg.vector_norm(v, dim=1))
    return torch.stack(growth[n_iter // 2 :]).log().mean(0).exp()


def _random_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
