"""Capabilities of solvers and backward methods, declared as attributes of the functions.

An attribute stays with a function that is wrapped by ``functools.partial`` or a decorator, and a
user's own function can have it, too. A table of names could do neither.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def declares(**capabilities: bool) -> Callable[[Function], Function]:
    """Return a decorator that sets attributes of a function."""

    def declared(function: Function) -> Function:
        for name, value in capabilities.items():
            setattr(function, name, value)
        return function

    return declared


def estimates_inverse(solver: Callable[..., Any]) -> bool:
    """Whether a solver's ``inverse_jacobian`` is an estimate, not the identity; by default yes."""
    return _capability(solver, "estimates_inverse", True)


def takes_outer_grad(solver: Callable[..., Any]) -> bool:
    """Whether a solver makes use of the gradient of the outer loss; by default yes."""
    return _capability(solver, "takes_outer_grad", True)


def uses_inverse(method: Callable[..., Any]) -> bool:
    """Whether a backward method uses the solver's estimate of the inverse; by default no."""
    return _capability(method, "uses_inverse", False)


def makes_products(method: Callable[..., Any]) -> bool:
    """Whether a backward method makes vector-Jacobian products; by default no."""
    return _capability(method, "makes_products", False)


def takes_tol(method: Callable[..., Any]) -> bool:
    """Whether a backward method takes a tolerance, ``tol``; by default no."""
    return _capability(method, "takes_tol", False)


def records(method: Callable[..., Any]) -> bool:
    """Whether autograd records a backward method (a ``Recorder``); by default no."""
    return _capability(method, "records", False)


def _capability(function: Any, name: str, default: bool) -> bool:
    while not hasattr(function, name) and isinstance(function, partial):
        function = function.func
    return bool(getattr(function, name, default))
