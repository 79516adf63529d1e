"""The graph of a fixed point: that of one evaluation of f, with a backward method in between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..utils.warn import warn
from .backward import Linearisation, Method
from .execution import can_read_values, finite_rows, in_torch_func, select_rows
from .info import BackwardInfo, Info
from .state import without_autocast


def with_implicit_backward(image: Tensor, z: Tensor, rule: Rule) -> Tensor:
    """Return z with the graph of ``image = f(z)``, through which gradients go as ``rule`` says.

    Raises
    ------
    RuntimeError
        Within a transformation of ``torch.func``, which takes no graph of this kind.
    """
    if in_torch_func():
        raise RuntimeError(
            "within torch.func a fixed point needs backward='implicit-twice', 'phantom-unrolled' "
            "or 'unrolled'."
        )
    return _apply(_Reattach, image, image[:, :0].sum(), z, rule)


class Rule:
    """The backward method with what it needs, for one solve.

    Parameters
    ----------
    method : callable
    linearisation : Linearisation
    info : Info
        Gets a :class:`BackwardInfo`.
    lost : bool Tensor of shape (batch,)
        Samples that were not finite at any iterate: they get a gradient of zero.
    measure : bool, default=False
        Whether to measure the residual where the method does not.
    """

    def __init__(
        self,
        method: Method,
        linearisation: Linearisation,
        info: Info,
        lost: Tensor,
        measure: bool = False,
    ) -> None:
        self.method = method
        self.linearisation = linearisation
        self.info = info
        self.lost = lost
        self.measure = measure

    def __call__(self, grad: Tensor) -> Tensor:
        """Return the adjoint u for a gradient with respect to z, both of shape (batch, n)."""
        before = self.linearisation.n_vjp
        # Backward may be called under autocast, where solvers would lose their precision.
        with torch.no_grad(), without_autocast(grad.device.type):
            adjoint = self.method(self.linearisation, self.info.inverse_jacobian, grad)
            residual = adjoint.residual
            # Where samples fell back the residual that is known is not that of the result.
            if self.measure and (residual is None or adjoint.fell_back is not None):
                residual = self.linearisation.measured(adjoint.value, grad).residual
        self.info.backward = BackwardInfo(
            residual, adjoint.fell_back, self.linearisation.n_vjp - before
        )
        self.linearisation.free()
        unsolved = self._unsolved(grad, adjoint.value)
        self._tell(unsolved)
        return select_rows(self.lost | unsolved, torch.zeros_like(grad), adjoint.value)

    def _unsolved(self, grad: Tensor, u: Tensor) -> Tensor:
        """Return where a finite gradient got an adjoint that is not: it would reach all others.

        In half precision products overflow, and a gradient scaler has to see that.
        """
        if self.linearisation.precision == torch.float16:
            return torch.zeros_like(self.lost)
        return ~finite_rows(u) & finite_rows(grad) & ~self.lost

    def _tell(self, unsolved: Tensor) -> None:
        if not can_read_values(self.lost) or not bool((self.lost | unsolved).any()):
            return
        for samples, fault in (
            (self.lost, "f was not finite"),
            (unsolved, "the backward method gave numbers that are not finite"),
        ):
            rows = samples.nonzero().ravel().tolist()
            if rows:
                warn(
                    f"{fault} for {len(rows)} of {len(samples)} samples (the first is sample "
                    f"{rows[0]}). Their share of the gradient is zero; where inputs or derivatives "
                    "of f are not finite, gradients of what samples share may not be so either: "
                    "leave out such samples.",
                    RuntimeWarning,
                )


class _Reattach(torch.autograd.Function):
    """Give the value of z the graph of f(z), with a backward rule in between.

    The graph of f(z) does not contain z, so that backward computes no derivative that is thrown
    away; methods that need J^T build a graph of their own. ``anchor`` is a number with that graph:
    u depends on everything that f(z) depends on, and a second derivative has to find that out.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, anchor: Tensor, z: Tensor, rule: Rule) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(anchor)
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        u = ctx.rule(grad)
        if torch.is_grad_enabled():
            u = _apply(_SecondDerivative, u, grad, *ctx.saved_tensors)
        return u, None, None, None


class _SecondDerivative(torch.autograd.Function):
    """Refuse to be differentiated."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, grad: Tensor, anchor: Tensor) -> Tensor:
        return u.view_as(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise RuntimeError(
            "second derivatives through a DEQ are not supported by this backward method, but a "
            "graph of its backward pass was made (create_graph=True) and differentiated. "
            "backward='implicit-twice' has them, as 'phantom-unrolled' and 'unrolled' have."
        )


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result
