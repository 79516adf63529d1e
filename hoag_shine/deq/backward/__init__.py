"""Backward methods: how the gradient gets through a fixed point.

A method is a function ``method(linearisation, inverse_jacobian, grad) -> Adjoint`` that solves
:math:`(I - J^T) u = grad`, well or roughly. Options beyond these are keyword arguments, set with
``functools.partial``. What a method is are attributes of the function, all of them false where they
are not set: one of which ``uses_inverse`` is true is refused for solvers that do not estimate the
inverse Jacobian; one of which ``takes_tol`` is true gets ``backward_tol`` as its keyword ``tol``.
One of which ``records`` is true is another kind of function, ``method(f, z) -> z``, which autograd
records as it goes on from the solver's z.
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
