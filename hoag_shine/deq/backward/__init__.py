"""Backward methods: how the gradient of a loss is propagated through a fixed point.

A method is a function ``method(linearisation, inverse_jacobian, grad) -> Adjoint`` that solves the
adjoint system :math:`(I - J^T) u = grad`, exactly or approximately. Further options are keyword
arguments, set with ``functools.partial``. A method declares its capabilities as attributes of the
function, each of them false by default:

- ``uses_inverse``: it needs a solver that estimates the inverse Jacobian; others are refused.
- ``makes_products``: it makes vector-Jacobian products, so that the graph of f for them is also
  that for the parameters. A method that makes products without saying so records a second one.
- ``takes_tol``: it gets ``backward_tol`` as its keyword ``tol``.
- ``records``: it is a function ``method(f, z) -> z`` instead, which continues from the solver's z
  while autograd records.
"""

from .auto import auto
from .base import Adjoint, Linearisation, Method, Recorder
from .implicit import implicit
from .implicit_twice import implicit_twice
from .jacobian_free import jacobian_free
from .phantom import phantom, unrolled_phantom
from .shine import shine
from .wrappers import with_fallback, with_refinement

METHODS: dict[str, Method] = {
    "auto": auto,
    "implicit": implicit,
    "jacobian-free": jacobian_free,
    "phantom": phantom,
    "shine": shine,
}

RECORDERS: dict[str, Recorder] = {
    "implicit-twice": implicit_twice,
    "phantom-unrolled": unrolled_phantom,
}

__all__ = [
    "METHODS",
    "RECORDERS",
    "Adjoint",
    "Linearisation",
    "Method",
    "Recorder",
    "auto",
    "implicit",
    "implicit_twice",
    "jacobian_free",
    "phantom",
    "shine",
    "unrolled_phantom",
    "with_fallback",
    "with_refinement",
]
