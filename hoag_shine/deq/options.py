"""The options of a layer: their validation, and their form in JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from numbers import Real
from typing import Any, Literal, cast

import torch

from .backward import METHODS, RECORDERS, Method, Recorder, with_fallback, with_refinement
from .backward.wrappers import Test
from .capabilities import estimates_inverse, records, takes_outer_grad, takes_tol, uses_inverse
from .solvers import SOLVERS, Solver, Stopping
from .state import check_batch_dims

_RECORDED = (*RECORDERS, "unrolled")
_BACKWARDS: dict[str, Any] = {**METHODS, **RECORDERS}


@dataclass(frozen=True)
class Options:
    """How a fixed point and its gradient are computed; see :func:`fixed_point` for each."""

    solver: str | Solver
    backward: str | Method | Recorder
    backward_tol: float | None
    max_iter: int
    tol: float
    stop: Literal["relative", "absolute", "batch"]
    divergence: float
    check_every: int | None
    refine: int
    fallback: Test | None
    state_dtype: torch.dtype | None
    batch_dims: int
    check_separable: bool
    measure: bool
    monitor: bool
    indexing: tuple[int, ...]

    def __post_init__(self) -> None:
        check_batch_dims(self.batch_dims)
        _ = self.stopping, self.forward_solver, self.method  # validates them now, not at first use

    @cached_property
    def stopping(self) -> Stopping:
        """When the solver stops."""
        return Stopping(
            max_iter=self.max_iter,
            tol=self.tol,
            mode=self.stop,
            divergence=self.divergence,
            check_every=self.check_every,
            monitor=self.monitor,
            indexing=self.indexing,
        )

    @cached_property
    def forward_solver(self) -> Solver:
        """The solver as a function."""
        solver: Solver = _look_up("solver", self.solver, SOLVERS)
        return solver

    @cached_property
    def method(self) -> Method | None:
        """The backward method with its refinement and fallback; None if autograd records it."""
        if self.unrolled or self.recorder is not None:
            given = (self.refine or None, self.backward_tol, self.fallback)
            if given not in ((None, None, None), (None, None, "auto")) or self.measure:
                raise ValueError(
                    f"backward={self.backward_name!r} solves no adjoint system, so that refine, "
                    "backward_tol, fallback and measure must keep their defaults."
                )
            return None
        method: Method = _look_up("backward", self.backward, METHODS, more=_RECORDED)
        if uses_inverse(method) and not estimates_inverse(self.forward_solver):
            raise ValueError(
                f"backward={self.backward_name!r} needs a solver that estimates the inverse "
                f"Jacobian, got {self.solver_name!r}: use 'broyden' or 'adjoint-broyden', or "
                "backward='jacobian-free', which gives the same result here."
            )
        if self.backward_tol is not None:
            method = self._with_tol(method)
        if self.fallback is not None:
            method = with_fallback(method, self.fallback)
        return with_refinement(method, self.refine) if self.refine != 0 else method

    @property
    def recorder(self) -> Recorder | None:
        """The backward method, if it is one that autograd records."""
        if isinstance(self.backward, str):
            return RECORDERS.get(self.backward)
        return cast(Recorder, self.backward) if records(self.backward) else None

    def _with_tol(self, method: Method) -> Method:
        if not takes_tol(method):
            raise ValueError(
                f"backward_tol is for backward methods that have a tolerance, such as 'auto' and "
                f"'implicit', got backward={self.backward_name!r}."
            )
        if not (isinstance(self.backward_tol, Real) and self.backward_tol >= 0):
            raise ValueError(
                f"backward_tol must be a number of at least 0, got {self.backward_tol!r}."
            )
        return partial(method, tol=self.backward_tol)

    @property
    def unrolled(self) -> bool:
        """Whether the solver's steps are recorded by autograd."""
        return isinstance(self.backward, str) and self.backward == "unrolled"

    @property
    def takes_outer_grad(self) -> bool:
        """Whether the solver uses the gradient of the outer loss."""
        return not self.unrolled and takes_outer_grad(self.forward_solver)

    @property
    def solver_name(self) -> str:
        """Name of the solver, with its options."""
        return name_of(self.solver, SOLVERS)

    @property
    def backward_name(self) -> str:
        """Name of the backward method, with its options."""
        return name_of(self.backward, _BACKWARDS)

    def described(self) -> dict[str, Any]:
        """Return all options in JSON's types; :func:`restored` reads them."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["indexing"] = list(self.indexing)
        plain["solver"] = _described(self.solver, SOLVERS)
        plain["backward"] = _described(self.backward, _BACKWARDS)
        if self.state_dtype is not None:
            plain["state_dtype"] = str(self.state_dtype).removeprefix("torch.")
        return plain


def restored(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a layer from what ``DEQ.described`` wrote.

    A function that is not of this package comes back as the name that ``described`` gave it, which
    a layer refuses.
    """
    options = dict(described)
    if "solver" in options:
        options["solver"] = _restored(options["solver"], SOLVERS)
    if "backward" in options:
        options["backward"] = _restored(options["backward"], _BACKWARDS)
    if "indexing" in options:
        options["indexing"] = tuple(options["indexing"])
    if options.get("state_dtype") is not None:
        options["state_dtype"] = getattr(torch, options["state_dtype"])
    return options


def name_of(choice: Any, table: Mapping[str, Any]) -> str:
    """Return a name for a choice that is the same in every process, if possible that of the table.

    Parameters
    ----------
    choice : str or callable
    table : mapping of str to callable
    """
    if isinstance(choice, str):
        return choice
    if isinstance(choice, partial):
        options = [_text_of(value) for value in choice.args]
        options += [f"{key}={_text_of(value)}" for key, value in choice.keywords.items()]
        return f"{name_of(choice.func, table)}({', '.join(options)})"
    known = (name for name, function in table.items() if function is choice)
    return next(known, _text_of(choice))


def _text_of(value: Any) -> str:
    """Return a text for a value, without an address in memory."""
    if callable(value):
        return str(getattr(value, "__qualname__", None) or type(value).__qualname__)
    return repr(value)


def _described(choice: Any, table: Mapping[str, Any]) -> Any:
    if isinstance(choice, partial) and not choice.args and _is_plain(choice.keywords):
        return {"name": name_of(choice.func, table), "options": dict(choice.keywords)}
    return name_of(choice, table)


def _restored(choice: Any, table: Mapping[str, Any]) -> Any:
    if not isinstance(choice, Mapping):
        return choice
    name = choice["name"]
    return partial(table[name], **choice["options"]) if name in table else name


def _is_plain(keywords: Mapping[str, Any]) -> bool:
    return all(value is None or isinstance(value, str | int | float) for value in keywords.values())


def _look_up(argument: str, choice: Any, table: dict[str, Any], more: tuple[str, ...] = ()) -> Any:
    if callable(choice):
        return choice
    if isinstance(choice, str) and choice in table:
        return table[choice]
    names = ", ".join(sorted([*table, *more]))
    raise ValueError(f"{argument} must be one of {names}, or a function, got {choice!r}.")
