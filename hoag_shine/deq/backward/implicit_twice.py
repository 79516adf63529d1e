"""The implicit gradient in a form that can be differentiated again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..capabilities import declares
from ..execution import in_torch_func, torch_func_transforms
from ..state import FlatMap
from .base import ADJOINT_MAX_ITER, ADJOINT_TOL
from .conjugate_residuals import ConjugateResiduals


@declares(records=True)
def implicit_twice(
    f: FlatMap, z: Tensor, *, max_iter: int = ADJOINT_MAX_ITER, tol: float = ADJOINT_TOL
) -> Tensor:
    r"""Give a fixed point the graph of two Newton steps, whose first two derivatives are exact.

    Let :math:`P = (I - J)^{-1}` at the fixed point, held constant. From a constant :math:`z_0`, a
    step :math:`z_{k+1} = z_k + P (f(z_k, \theta) - z_k)` raises the order of the error in
    :math:`\theta` by one: :math:`z_1` has the first derivative of the fixed point, and :math:`z_2`
    the second one, too. The value does not change. Each product with P or its transpose is a linear
    system, which is solved only in backward passes.

    Parameters
    ----------
    f : FlatMap
    z : Tensor of shape (batch, n)
        The fixed point. Its error carries over to the derivatives.
    max_iter : int, default=30
        Largest number of products with J or its transpose in each system. Within ``torch.func`` all
        of them are made.
    tol : float, default=1e-6
        Of the residual of a system, relative to its right-hand side.

    Returns
    -------
    z : Tensor of shape (batch, n)

    Raises
    ------
    RuntimeError
        Within nested derivatives of ``torch.func``, such as ``torch.func.hessian``.

    Notes
    -----
    It keeps two graphs of f where ``"implicit"`` keeps one. Products are computed by
    ``torch.func.vjp``, which must support all operations of f.

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
    # z_1 = z_0 + P (f(z_0) - z_0), and z_2 from z_1; the values of both are that of z_0.
    for _ in range(2):
        z = z + _apply(_Step, f(z) - z, system)
    return z


class _System:
    """Linear systems with A = I - J at a fixed point, and with its transpose."""

    def __init__(self, f: FlatMap, z: Tensor, max_iter: int, tol: float) -> None:
        self.f, self.z, self.max_iter, self.tol = f, z.detach(), max_iter, tol

    def solve(self, b: Tensor, *, transposed: bool) -> Tensor:
        """Return the solution for b of shape (batch, n), by conjugate residuals.

        Within ``torch.func`` no operation works in place, so that it can differentiate them. The
        directions b, A b, A^2 b, ... span the Krylov space; GCR's own choice, the residual, breaks
        down where a step leaves it unchanged.
        """
        product = self._transposed_product() if transposed else self._product()
        solver = ConjugateResiduals(b, self.max_iter)
        direction = b
        for _ in range(self.max_iter):
            if self._is_solved(solver.residual, b):
                break
            image = direction - product(direction)
            solver.add(direction, image)
            direction = image
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
        """Return the function v -> J v, as the transposed derivative of w -> J^T w.

        Not all operations of PyTorch have forward-mode derivatives.
        """

        def transposed(w: Tensor) -> Tensor:
            vjp = torch.func.vjp(self.f, self.z)[1]
            product: Tensor = vjp(w)[0]
            return product

        vjp = torch.func.vjp(transposed, torch.zeros_like(self.z))[1]
        return lambda v: vjp(v)[0]


class _Step(torch.autograd.Function):
    """P times the residual f(z) - z: the value is taken as zero, the derivative is P."""

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
            # An autograd function would hide the tensors of f from torch.func, so that the steps of
            # the solver are recorded instead.
            return ctx.system.solve(grad, transposed=True), None
        return _apply(_Solve, grad, ctx.system, True), None


class _Solve(torch.autograd.Function):
    """P or its transpose times a vector; its derivative is a product with the other one."""

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
