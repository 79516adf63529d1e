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
from .capabilities import makes_products
from .execution import can_read_values, finite_rows, in_torch_func, select_rows
from .info import BackwardInfo, Info
from .state import Graph, without_autocast


def with_implicit_backward(z: Tensor, graph: Graph, adjoint: AdjointRule) -> Tensor:
    """Return z with a graph of f(z), whose gradient is replaced by the adjoint.

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
    value = graph.value
    return _apply(_ImplicitBackward, value, value[:, :0].sum(), graph.point, z, adjoint)


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

    @property
    def makes_products(self) -> bool:
        """Whether the adjoint takes vector-Jacobian products."""
        return self.measure or makes_products(self.method)

    def __call__(self, grad: Tensor, graph: Graph) -> Tensor:
        """Return the adjoint u for a gradient with respect to z, both of shape (batch, n)."""
        n_vjp = self.linearisation.n_vjp
        if graph.point.requires_grad:
            self.linearisation.use(graph)
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

    A backward method that makes products with J^T makes them by this graph, so that f is evaluated
    and its graph kept only once. For other methods the graph treats z as a constant, and the
    backward pass computes no derivative with respect to z.

    ``anchor`` is the sum over no entries of f(z): zero, with the graph of f(z). The adjoint depends
    on all that f(z) depends on; with ``anchor`` as its input, :class:`_NoSecondDerivative` is
    reached by every second derivative.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, anchor: Tensor, point: Tensor, z: Tensor, adjoint: AdjointRule
    ) -> Tensor:
        ctx.adjoint = adjoint
        ctx.save_for_backward(value, anchor, point)
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        value, anchor, point = ctx.saved_tensors
        u = ctx.adjoint(grad, Graph(point, value))
        if torch.is_grad_enabled():
            u = _apply(_NoSecondDerivative, u, grad, anchor)
        return u, None, None, None, None


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
