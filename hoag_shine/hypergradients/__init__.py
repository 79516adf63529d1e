r"""Hypergradients: the derivative of the outer loss with respect to the hyperparameters.

By the implicit function theorem, at the solution w of the inner problem,

.. math::
    \frac{df}{d\theta} = -\Bigl(\frac{\partial^2 g}{\partial\theta\,\partial w}\Bigr)^{\!\top} q,
    \qquad q = H^{-1} \nabla f(w), \qquad H = \frac{\partial^2 g}{\partial w^2}.

The methods differ only in how they find q. Each is a function

    ``method(adjoint) -> Hypergradient``

of an :class:`AdjointProblem`: the inner solution, the gradient of the outer loss there, and how
well the linear system must be solved.

A method may call ``problem.hessp``. If it is a generator that yields
:class:`~hoag_shine.problems.requests.HessianProduct` requests instead, its products are made in the
same data passes as those of the other folds. Wherever the name of a method is accepted, a method of
your own can be passed. One that also adds pairs to the inner solver's memory has a ``probe``, see
:class:`ShineOPA`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from ..utils.validation import shown
from .auto import auto
from .base import AdjointProblem, Hypergradient, Method, as_solvers
from .conjugate_gradient import cg, cg_limited, shine_refine
from .exact import exact
from .shine import jacobian_free, shine
from .shine_opa import ShineOPA

__all__ = [
    "METHODS",
    "AdjointProblem",
    "Hypergradient",
    "Method",
    "MethodName",
    "ShineOPA",
    "as_solvers",
    "auto",
    "cg",
    "cg_limited",
    "exact",
    "jacobian_free",
    "resolve_method",
    "shine",
    "shine_refine",
]

MethodName: TypeAlias = Literal[
    "auto", "shine", "shine-opa", "shine-refine", "cg", "cg-limited", "jacobian-free", "exact"
]
METHODS: dict[str, Method] = {
    "auto": auto,
    "shine": shine,
    "shine-opa": ShineOPA(),
    "shine-refine": shine_refine,
    "cg": cg,
    "cg-limited": cg_limited,
    "jacobian-free": jacobian_free,
    "exact": exact,
}


def resolve_method(hypergradient: str | Method, name: str = "hypergradient") -> Method:
    """Return the method of that name, or the callable itself."""
    if callable(hypergradient):
        return hypergradient
    if not isinstance(hypergradient, str) or hypergradient not in METHODS:
        raise ValueError(
            f"{name} must be one of {sorted(METHODS)} or a callable, got {shown(hypergradient)}."
        )
    return METHODS[hypergradient]
