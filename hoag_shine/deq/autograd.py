r"""The autograd function of a fixed point: its value from a solver, its gradient from a method.

By the implicit function theorem, a loss L of the fixed point :math:`z = f(z, \theta)` has the
gradient

.. math::

    \frac{dL}{d\theta} = u^\top \frac{\partial f}{\partial \theta}, \qquad
    (I - J^\top) u = \nabla L, \qquad J = \frac{\partial f}{\partial z}

(Bai, Kolter and Koltun, 2019, *Deep equilibrium models*, theorem 1). So f is evaluated once more
with a graph to the parameters and the inputs. In the backward pass, :math:`\nabla L` is replaced by
the adjoint u, which a backward method computes, before it goes on through that graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..utils.warn import warn
from .backward import Linearisation, Method
from .execution import can_read_values, finite_rows, in_torch_func, select_rows
from .info import BackwardInfo, Info
from .state import without_autocast


def with_implicit_backward(image: Tensor, z: Tensor, adjoint: AdjointRule) -> Tensor:
    """Return z with the graph of ``image = f(z)``, whose gradient is replaced by the adjoint.

    Raises
    ------
    RuntimeError
        Within a transform of ``torch.func``, which does not support such a function.
    """
    if in_torch_func():
        raise RuntimeError(
            "within torch.func a fixed point needs backward='implicit-twice', 'phantom-unrolled' "
            "or 'unrolled'."
        )
    return _apply(_ImplicitBackward, image, image[:, :0].sum(), z, adjoint)


class AdjointRule:
    """From the gradient of the loss to the adjoint, by a backward method, for one solve.

    Parameters
    ----------
    method : callable
    linearisation : Linearisation
    info : Info
        Gets a :class:`BackwardInfo`.
    non_finite : bool Tensor of shape (batch,)
        Samples without a finite iterate; their adjoint is zero.
    measure : bool, default=False
        Whether to measure the residual where the method does not.
    """

    def __init__(
        self,
        method: Method,
        linearisation: Linearisation,
        info: Info,
        non_finite: Tensor,
        measure: bool = False,
    ) -> None:
        self.method = method
        self.linearisation = linearisation
        self.info = info
        self.non_finite = non_finite
        self.measure = measure

    def __call__(self, grad: Tensor) -> Tensor:
        """Return the adjoint u for a gradient with respect to z, both of shape (batch, n)."""
        n_vjp = self.linearisation.n_vjp
        # backward() may be called under autocast, in which the solvers would lose precision.
        with torch.no_grad(), without_autocast(grad.device.type):
            adjoint = self.method(self.linearisation, self.info.inverse_jacobian, grad)
            residual = adjoint.residual
            # Where samples fell back, the known residual is that of the rejected estimate.
            if self.measure and (residual is None or adjoint.fell_back is not None):
                residual = self.linearisation.measured(adjoint.value, grad).residual
        self.info.backward = BackwardInfo(
            residual, adjoint.fell_back, self.linearisation.n_vjp - n_vjp
        )
        self.linearisation.free()
        failed = self._failed(grad, adjoint.value)
        self._warn(failed)
        return select_rows(self.non_finite | failed, torch.zeros_like(grad), adjoint.value)

    def _failed(self, grad: Tensor, u: Tensor) -> Tensor:
        """Return which samples have a finite gradient but an adjoint that is not finite.

        Their adjoint is set to zero, or the sum over samples would spread it to all parameters.
        Not in half precision: there products overflow, and a gradient scaler has to see that.
        """
        if self.linearisation.precision == torch.float16:
            return torch.zeros_like(self.non_finite)
        return ~finite_rows(u) & finite_rows(grad) & ~self.non_finite

    def _warn(self, failed: Tensor) -> None:
        if not can_read_values(failed) or not bool((self.non_finite | failed).any()):
            return
        for samples, fault in (
            (self.non_finite, "f was not finite"),
            (failed, "the backward method gave numbers that are not finite"),
        ):
            rows = samples.nonzero().ravel().tolist()
            if rows:
                warn(
                    f"{fault} for {len(rows)} of {len(samples)} samples (the first is sample "
                    f"{rows[0]}). Their share of the gradient is zero. If their inputs, or the "
                    "derivatives of f at them, are not finite, gradients of parameters that all "
                    "samples share may still not be finite: leave such samples out.",
                    RuntimeWarning,
                )


class _ImplicitBackward(torch.autograd.Function):
    """Return z with the graph of f(z), and replace the gradient by the adjoint in backward.

    The graph of f(z) treats z as a constant, so that the backward pass computes no derivative with
    respect to it; methods that need products with J^T build a graph of their own.

    ``anchor`` is an empty sum with the graph of f(z). The adjoint depends on all that f(z) depends
    on, and a second derivative has to reach :class:`_NoSecondDerivative` by that way.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, anchor: Tensor, z: Tensor, adjoint: AdjointRule) -> Tensor:
        ctx.adjoint = adjoint
        ctx.save_for_backward(anchor)
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        u = ctx.adjoint(grad)
        if torch.is_grad_enabled():
            u = _apply(_NoSecondDerivative, u, grad, *ctx.saved_tensors)
        return u, None, None, None


class _NoSecondDerivative(torch.autograd.Function):
    """The identity on u, whose derivative is an error."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, grad: Tensor, anchor: Tensor) -> Tensor:
        return u.view_as(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise RuntimeError(
            "this backward method does not support second derivatives through a DEQ, but its "
            "backward pass was recorded (create_graph=True) and differentiated. Use "
            "backward='implicit-twice', 'phantom-unrolled' or 'unrolled', which have them."
        )


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result
