"""Backward methods: how the gradient gets through a fixed point.

A method is a function ``method(linearisation, inverse_jacobian, grad) -> Adjoint`` that solves
:math:`(I - J^T) u = grad`, well or roughly. Options beyond these are keyword arguments, set with
``functools.partial``. A method of which the attribute ``uses_inverse`` is true is refused for
solvers that do not estimate the inverse Jacobian.
"""

from .auto import auto
from .base import Adjoint, Linearisation, Method
from .implicit import implicit
from .jacobian_free import jacobian_free
from .phantom import phantom
from .shine import shine
from .wrappers import with_fallback, with_refinement

METHODS: dict[str, Method] = {
    "auto": auto,
    "implicit": implicit,
    "jacobian-free": jacobian_free,
    "phantom": phantom,
    "shine": shine,
}

__all__ = [
    "METHODS",
    "Adjoint",
    "Linearisation",
    "Method",
    "auto",
    "implicit",
    "jacobian_free",
    "phantom",
    "shine",
    "with_fallback",
    "with_refinement",
]
