"""The implicit gradient as a function that can itself be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..capabilities import declares
from ..execution import in_torch_func, torch_func_transforms
from ..state import FlatMap
from .conjugate_residuals import ConjugateResiduals


@declares(records=True)
def implicit_twice(f: FlatMap, z: Tensor, *, max_iter: int = 30, tol: float = 1e-6) -> Tensor:
    r"""Give a fixed point the graph of two Newton steps: first and second derivatives are exact.

    With :math:`P = (I - J)^{-1}` held fixed, a step :math:`z + P (f(z) - z)` from a constant z has
    the first derivative of the fixed point, and a step from that has the second one, too. The value
    does not move. Every product with P or its transpose is a linear system, solved only in backward
    passes.

    Parameters
    ----------
    f : FlatMap
    z : Tensor of shape (batch, n)
        The fixed point; derivatives are as good as it is.
    max_iter : int, default=30
        Largest number of products with J or its transpose, for each system. Within ``torch.func``
        all of them are made.
    tol : float, default=1e-6
        On the residual of a system, relative to its right-hand side.

    Returns
    -------
    z : Tensor of shape (batch, n)

    Raises
    ------
    RuntimeError
        Within two derivatives of ``torch.func`` at once, such as ``torch.func.hessian``.

    Notes
    -----
    It costs two graphs of f where ``"implicit"`` has one. Products come from
    ``torch.func.vjp``, so that f must be made of what that can differentiate.

    References
    ----------
    Blondel et al. (2022), *Efficient and modular implicit differentiation*, where a fixed point is
    differentiated as the root of an equation, and again.
    """
    if not (isinstance(max_iter, int) and max_iter >= 1):
        raise ValueError(f"max_iter must be an integer of at least 1, got {max_iter!r}.")
    if not tol >= 0:
        raise ValueError(f"tol must be at least 0, got {tol!r}.")
    if torch_func_transforms().count("Grad") > 1:
        raise RuntimeError(
            "backward='implicit-twice' takes one derivative of torch.func at a time. Second ones "
            "come from torch.autograd with create_graph=True, or with backward='phantom-unrolled'."
        )
    system = _System(f, z, max_iter, tol)
    for _ in range(2):
        z = z + _apply(_Step, f(z) - z, system)
    return z


class _System:
    """I - J at a fixed point, and linear systems with it and its transpose."""

    def __init__(self, f: FlatMap, z: Tensor, max_iter: int, tol: float) -> None:
        self.f, self.z, self.max_iter, self.tol = f, z.detach(), max_iter, tol

    def solve(self, b: Tensor, *, transposed: bool) -> Tensor:
        """Return the solution for a right-hand side of shape (batch, n), by functional steps."""
        product = self._transposed_product() if transposed else self._product()
        solver = ConjugateResiduals(b)
        direction = b
        for _ in range(self.max_iter):
            if self._is_solved(solver.residual, b):
                break
            image = direction - product(direction)
            solver.add(direction, image)
            direction = image  # unlike the residual, it always leads on
        return solver.u

    def _is_solved(self, residual: Tensor, b: Tensor) -> bool:
        if in_torch_func():
            return False
        norm = torch.linalg.vector_norm
        open_: Tensor = norm(residual, dim=1) > self.tol * norm(b, dim=1)
        return not bool(open_.any())

    def _transposed_product(self) -> Callable[[Tensor], Tensor]:
        vjp = torch.func.vjp(self.f, self.z)[1]
        return lambda v: vjp(v)[0]

    def _product(self) -> Callable[[Tensor], Tensor]:
        """Return J v as the transpose of J^T v: not all of PyTorch has forward derivatives."""

        def transposed(w: Tensor) -> Tensor:
            vjp = torch.func.vjp(self.f, self.z)[1]
            product: Tensor = vjp(w)[0]
            return product

        vjp = torch.func.vjp(transposed, torch.zeros_like(self.z))[1]
        return lambda v: vjp(v)[0]


class _Step(torch.autograd.Function):
    """P times a vector that is zero up to the tolerance: the value is zero, the derivative P."""

    generate_vmap_rule = True

    @staticmethod
    def forward(residual: Tensor, system: _System) -> Tensor:
        return torch.zeros_like(residual)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.system = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if in_torch_func():
            # A function's forward pass sees none of the tensors of f: steps are recorded instead.
            return ctx.system.solve(grad, transposed=True), None
        return _apply(_Solve, grad, ctx.system, True), None


class _Solve(torch.autograd.Function):
    """P or its transpose times a vector, of which the derivative is another such product."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, system: _System, transposed: bool) -> Tensor:
        ctx.system, ctx.transposed = system, transposed
        return system.solve(b, transposed=transposed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _apply(_Solve, grad, ctx.system, not ctx.transposed), None, None


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result
