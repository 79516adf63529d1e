"""The public interface: the function :func:`fixed_point` and the layer :class:`DEQ`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from .backward import Method, Recorder
from .backward.wrappers import Test
from .info import Info
from .options import Options
from .solve import solve
from .solvers import Solver
from .solvers.base import DEFAULT_DIVERGENCE, DEFAULT_MAX_ITER, DEFAULT_TOL
from .state import State


def fixed_point(
    f: Callable[..., State],
    z0: State,
    *inputs: Any,
    solver: str | Solver = "broyden",
    backward: str | Method | Recorder = "auto",
    backward_tol: float | None = None,
    max_iter: int = DEFAULT_MAX_ITER,
    tol: float = DEFAULT_TOL,
    stop: Literal["relative", "absolute", "batch"] = "relative",
    divergence: float = DEFAULT_DIVERGENCE,
    check_every: int | None = None,
    refine: int = 0,
    fallback: Test | None = "auto",
    state_dtype: torch.dtype | None = None,
    outer_grad: Callable[[State], State] | None = None,
    batch_dims: int = 1,
    check_separable: bool = True,
    measure: bool = False,
    monitor: bool = True,
    indexing: Sequence[int] = (),
) -> tuple[State, Info]:
    r"""Find the fixed point z = f(z) for every sample of a batch, differentiably.

    Parameters
    ----------
    f : callable or Module
        ``f(z, *inputs)`` maps a state to a state of the same shapes. It must be deterministic and,
        unless ``batch_dims=0``, treat samples separately. Its parameters and the inputs get
        gradients.
    z0 : Tensor of shape (batch, ...), or nested tuples, lists or dicts of them
        Start of the solver, for instance the z of an earlier call. It gets no gradient.
    *inputs
        Passed on to f. For keywords use ``functools.partial(f, name=value)``.
    solver : {"broyden", "adjoint-broyden", "anderson", "picard"} or callable, default="broyden"
        See :mod:`hoag_shine.deq.solvers`.
    backward : str or callable, default="auto"
        ``"auto"``, ``"shine"``, ``"implicit"``, ``"jacobian-free"``, ``"phantom"``,
        ``"phantom-unrolled"``, ``"implicit-twice"`` or a function, see
        :mod:`hoag_shine.deq.backward`; or ``"unrolled"``, which backpropagates through
        ``max_iter`` Picard steps.
    backward_tol : float, optional
        Residual of the adjoint system, relative to the norm of the gradient of the loss, at which
        ``"auto"`` and ``"implicit"`` stop; by default that of the method, 0.1 and 1e-6.
    max_iter : int, default=18
        Largest number of solver steps; f is evaluated once more than that.
    tol : float, default=1e-4
        Residual at which samples stop. With 0 all steps are taken, and the host never waits for
        the device.
    stop : {"relative", "absolute", "batch"}, default="relative"
        The residual that is compared with ``tol``: the norm of z - f(z) over that of f(z); the norm
        of z - f(z); or its norm over the whole batch, so that all samples stop at the same step.
        Iterates that grow without bound do not count as converged; see :class:`Stopping`.
    divergence : float, default=1000
        A sample whose residual grows by this factor stops, and is marked as diverged.
    check_every : int, optional
        See :class:`Stopping`.
    refine : int, default=0
        Number of GMRES steps that improve the adjoint of the backward method.
    fallback : {"auto", "residual", "norm-ratio"} or None, default="auto"
        Samples whose adjoint fails this test get the Jacobian-free one; see
        :func:`~hoag_shine.deq.backward.with_fallback`. ``"auto"`` rejects adjoints that are far too
        large, of samples that have not converged.
    state_dtype : {torch.float32, torch.float64}, optional
        Precision of the solver. By default that of z0, also under autocast, or float32 for a less
        precise z0.
    outer_grad : callable, optional
        Gradient of the loss with respect to z, for the outer-problem awareness of
        ``"adjoint-broyden"``.
    batch_dims : {1, 0}, default=1
        1: the first dimension of the state is a batch of problems, each solved separately. 0: the
        whole state is one problem, for an f that couples rows, such as a graph network on nodes or
        a batch normalisation in training; tensors of ``info`` then have one entry.
    check_separable : bool, default=True
        Whether to check, in the first call with an f, that it treats samples separately; see the
        notes. The check costs an evaluation of f and two vector-Jacobian products.
    measure : bool, default=False
        Whether to compute ``info.backward.residual``, for one more vector-Jacobian product, if the
        backward method does not.
    monitor : bool, default=True
        Whether the solver computes residuals. Without, it saves their time, takes all ``max_iter``
        steps, and returns the last iterate, the only one whose residual is known.
    indexing : sequence of int, default=()
        Steps whose iterates go to ``info.iterates``, with gradients as if the solver had ended
        there, for losses on the trajectory such as :func:`fixed_point_correction`.

    Returns
    -------
    z : state
        Every sample's iterate with the smallest residual.
    info : Info

    Raises
    ------
    TypeError
        If the state is not made of floating-point tensors of one dtype and device, or f changes its
        nesting or dtype.
    ValueError
        If f changes shapes, writes to its argument or couples samples, an option is out of range,
        the backward method needs an estimate that the solver does not make, or the solver does not
        use ``outer_grad``.
    RuntimeError
        If the backward method does not support second derivatives or ``torch.func`` and they are
        asked for, or vector-Jacobian products are needed under ``torch.inference_mode()``.

    Warns
    -----
    RuntimeWarning
        In the backward pass, if a sample was not finite from the start. Its share of the gradient
        is zero. If f is not finite because the sample's inputs are not, gradients of parameters
        that all samples share may still not be finite: leave such samples out.

    Notes
    -----
    Whether f couples samples is checked once for each f (the object, or a method's owner), number
    of dimensions of the state and mode of its modules. A function that is created in each call,
    such as a lambda in a loop, is checked each time: create it once, or turn the check off. Nothing
    is checked under ``torch.inference_mode()``, in an export and within ``torch.func``.
    """
    options = Options(
        solver=solver,
        backward=backward,
        backward_tol=backward_tol,
        max_iter=max_iter,
        tol=tol,
        stop=stop,
        divergence=divergence,
        check_every=check_every,
        refine=refine,
        fallback=fallback,
        state_dtype=state_dtype,
        batch_dims=batch_dims,
        check_separable=check_separable,
        measure=measure,
        monitor=monitor,
        indexing=tuple(indexing),
    )
    return solve(options, f, z0, inputs, outer_grad)


class DEQ(nn.Module):
    """A layer whose output is the fixed point of a function.

    Parameters
    ----------
    f : callable or Module
        As in :func:`fixed_point`.
    solver, backward, backward_tol, max_iter, tol, stop, divergence, check_every
        As in :func:`fixed_point`.
    refine, fallback, state_dtype, batch_dims, check_separable, measure, monitor, indexing
        As in :func:`fixed_point`.
    eval_max_iter : int, optional
        Largest number of steps in evaluation mode, by default ``max_iter``.
    eval_tol : float, optional
        Tolerance in evaluation mode, by default ``tol``.

    Notes
    -----
    The layer has no state of its own: its ``state_dict`` is that of f with the prefix ``f.``. For a
    warm start, keep z and pass it as z0.
    """

    def __init__(
        self,
        f: Callable[..., State],
        *,
        solver: str | Solver = "broyden",
        backward: str | Method | Recorder = "auto",
        backward_tol: float | None = None,
        max_iter: int = DEFAULT_MAX_ITER,
        tol: float = DEFAULT_TOL,
        stop: Literal["relative", "absolute", "batch"] = "relative",
        divergence: float = DEFAULT_DIVERGENCE,
        check_every: int | None = None,
        refine: int = 0,
        fallback: Test | None = "auto",
        state_dtype: torch.dtype | None = None,
        batch_dims: int = 1,
        check_separable: bool = True,
        measure: bool = False,
        monitor: bool = True,
        indexing: Sequence[int] = (),
        eval_max_iter: int | None = None,
        eval_tol: float | None = None,
    ) -> None:
        super().__init__()
        if not callable(f):
            raise TypeError(f"f must be a module or another callable, got {type(f).__name__}.")
        self.f = f
        self._train_options = Options(
            solver=solver,
            backward=backward,
            backward_tol=backward_tol,
            max_iter=max_iter,
            tol=tol,
            stop=stop,
            divergence=divergence,
            check_every=check_every,
            refine=refine,
            fallback=fallback,
            state_dtype=state_dtype,
            batch_dims=batch_dims,
            check_separable=check_separable,
            measure=measure,
            monitor=monitor,
            indexing=tuple(indexing),
        )
        self._eval_options = dataclasses.replace(
            self._train_options,
            indexing=(),
            max_iter=max_iter if eval_max_iter is None else eval_max_iter,
            tol=tol if eval_tol is None else eval_tol,
        )

    def forward(
        self,
        z0: State,
        *inputs: Any,
        outer_grad: Callable[[State], State] | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        measure: bool | None = None,
        indexing: Sequence[int] | None = None,
    ) -> tuple[State, Info]:
        """Return the fixed point and its diagnostics; see :func:`fixed_point`.

        In this call, ``max_iter``, ``tol``, ``measure`` and ``indexing`` replace the layer's.
        """
        options = self._train_options if self.training else self._eval_options
        given = {"max_iter": max_iter, "tol": tol, "measure": measure, "indexing": indexing}
        changed: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if indexing is not None:
            changed["indexing"] = tuple(indexing)
        if changed:
            options = dataclasses.replace(options, **changed)
        return solve(options, self.f, z0, inputs, outer_grad)

    @property
    def solver_name(self) -> str:
        """Name of the solver in ``SOLVERS``, or that of the function, with its options."""
        return self._train_options.solver_name

    @property
    def takes_outer_grad(self) -> bool:
        """Whether the solver uses ``outer_grad``."""
        return self._train_options.takes_outer_grad

    @property
    def measurable(self) -> bool:
        """Whether the backward method solves the adjoint system, whose residual can be measured."""
        return self._train_options.method is not None

    def described(self) -> dict[str, Any]:
        """Return the options of the layer in JSON's types, for a file beside its weights.

        Functions are described by their names and options. :func:`restored_options` turns the
        result into keyword arguments.
        """
        options = self._eval_options
        in_evaluation = {"eval_max_iter": options.max_iter, "eval_tol": options.tol}
        return self._train_options.described() | in_evaluation

    def extra_repr(self) -> str:
        options = self._train_options
        return (
            f"solver={options.solver_name!r}, backward={options.backward_name!r}, "
            f"max_iter={options.max_iter}, tol={options.tol}"
        )
