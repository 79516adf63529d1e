"""Fixed points that gradients flow through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..warn import warn
from .abilities import estimates_inverse, takes_outer_grad, uses_inverse
from .backward import METHODS, Linearisation, Method, with_fallback, with_refinement
from .backward.unrolled import unrolled
from .backward.wrappers import Test
from .low_rank import LowRank
from .separability import check_separable
from .solvers import SOLVERS, Solution, Solver, Status, Stopping
from .state import FlatMap, Layout, State, check_batch_dims


@dataclass(frozen=True)
class BackwardInfo:
    r"""What is known of a backward pass.

    Attributes
    ----------
    residual : Tensor of shape (batch,) or None
        :math:`\|\nabla L - (I - J^\top) u\| / \|\nabla L\|`, if the method computes it; NaN where
        it does not.
    fell_back : bool Tensor of shape (batch,) or None
        Samples for which the fallback was taken, if there is one.
    n_vjp : int
        Products with the transposed Jacobian.
    """

    residual: Tensor | None
    fell_back: Tensor | None
    n_vjp: int


@dataclass(repr=False)
class Info:
    """What is known of a solve.

    Attributes
    ----------
    residual, relative_residual : Tensor of shape (batch,)
        Norm of z - f(z) at the returned z, and that over the norm of f(z).
    n_steps : int64 Tensor of shape (batch,)
        Steps after which z was found.
    status : int8 Tensor of shape (batch,)
        Values of :class:`Status`.
    trace : Tensor of shape (steps + 1, batch)
        The residual that is compared with the tolerance, at every iterate.
    inverse_jacobian : LowRank
        The solver's estimate of the inverse of I - J at z.
    n_evals : int
        Calls of f by the solver.
    backward : BackwardInfo or None
        None until gradients have gone through z.
    """

    residual: Tensor
    relative_residual: Tensor
    n_steps: Tensor
    status: Tensor
    trace: Tensor
    inverse_jacobian: LowRank
    n_evals: int
    backward: BackwardInfo | None = field(default=None)

    def __repr__(self) -> str:
        """Summarise; the tensors are too large to be read."""
        counts = {s.name.lower(): int((self.status == s).sum()) for s in Status}
        samples = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        steps, largest = (
            x.max().item() if x.numel() else 0 for x in (self.n_steps, self.relative_residual)
        )
        backward = f"; backward: {self.backward.n_vjp} products" if self.backward else ""
        return (
            f"Info({len(self.status)} samples: {samples or 'none'}; at most {steps} steps and "
            f"relative residual {largest:.1e}; {self.n_evals} evaluations of f{backward})"
        )

    @property
    def converged(self) -> Tensor:
        """Samples within the tolerance, a bool tensor of shape (batch,)."""
        return self.status == Status.CONVERGED

    @property
    def diverged(self) -> Tensor:
        """Samples given up, a bool tensor of shape (batch,)."""
        return self.status == Status.DIVERGED


def fixed_point(
    f: Callable[..., State],
    z0: State,
    *inputs: Any,
    solver: str | Solver = "broyden",
    backward: str | Method = "shine",
    max_iter: int = 18,
    tol: float = 1e-4,
    stop: Literal["relative", "absolute"] = "relative",
    divergence: float = 1e3,
    check_every: int | None = None,
    refine: int = 0,
    fallback: Test | None = "auto",
    state_dtype: torch.dtype | None = None,
    outer_grad: Callable[[State], State] | None = None,
    batch_dims: int = 1,
    check_separable: bool = True,
) -> tuple[State, Info]:
    r"""Find the fixed point z of f for every sample of a batch, differentiably.

    Parameters
    ----------
    f : callable or Module
        Maps a state, and the inputs, to a state of the same shapes. It must be deterministic and,
        unless ``batch_dims=0``, treat samples separately. Gradients reach its parameters, and the
        inputs.
    z0 : Tensor of shape (batch, ...), or nested tuples or lists of them
        Where the solver starts, for instance the z of an earlier call. No gradient reaches it.
    *inputs
        Passed on to f.
    solver : {"broyden", "adjoint-broyden", "anderson", "picard"} or callable, default="broyden"
        See :mod:`hoag_shine.deq.solvers`.
    backward : str or callable, default="shine"
        ``"shine"``, ``"implicit"``, ``"jacobian-free"``, ``"phantom"`` or a function, see
        :mod:`hoag_shine.deq.backward`; or ``"unrolled"``, which records ``max_iter`` Picard steps.
    max_iter : int, default=18
        Largest number of solver steps; f is evaluated once more than that.
    tol : float, default=1e-4
        Samples stop there. 0 means that all steps are taken, and the device is never waited for.
    stop : {"relative", "absolute"}, default="relative"
        Whether ``tol`` is for the norm of z - f(z) over that of f(z), or for the norm itself. A
        norm of f(z) that has grown since the start counts only as far as the residual has fallen:
        z that run away are no solution.
    divergence : float, default=1000
        A sample whose residual grows that many times is given up and flagged.
    check_every : int, optional
        See :class:`Stopping`.
    refine : int, default=0
        GMRES steps that start from what the backward method gives.
    fallback : {"auto", "residual", "norm-ratio"} or None, default="auto"
        Samples that fail this test get the Jacobian-free estimate; see
        :func:`~hoag_shine.deq.backward.with_fallback`. ``"auto"`` rejects what an estimate of the
        inverse Jacobian has blown up for samples that have not converged.
    state_dtype : {torch.float32, torch.float64}, optional
        In which the solver computes. By default that of z0, also under autocast, or float32 for a
        z0 of less precision.
    outer_grad : callable, optional
        Gradient of the loss with respect to z, for the outer-problem awareness of
        ``"adjoint-broyden"``.
    batch_dims : {1, 0}, default=1
        1: the first dimension of the state is a batch of problems, each solved by itself. 0: the
        whole state is one problem, for an f that couples rows, such as a graph network on nodes or
        a batch normalisation in training; tensors of ``info`` then have one entry.
    check_separable : bool, default=True
        Whether to look, at the first call with an f, whether it treats samples separately; see
        the notes. It costs an evaluation of f and two products with its Jacobian.

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
        the backward method needs an estimate that the solver does not make, or the solver has no
        use for ``outer_grad``.
    RuntimeError
        If a second derivative is asked for, or products with the Jacobian are needed under
        ``torch.inference_mode()``.

    Warns
    -----
    RuntimeWarning
        In the backward pass, if a sample was not finite from the start. Its share of the gradient
        is zero. Where f is not finite because its inputs are not, derivatives with respect to what
        samples share are not finite in spite of that: leave out such samples.

    Notes
    -----
    Whether f couples samples is looked at once for each f (the object, or a method's owner), number
    of dimensions of the state and mode of its modules. A function that is made anew for each call,
    such as a lambda in a loop, is checked anew: make it once, or turn the check off. Under
    ``torch.inference_mode()`` nothing is checked.
    """
    options = _Options(
        solver=solver,
        backward=backward,
        stopping=Stopping(max_iter, tol, stop, divergence, check_every),
        refine=refine,
        fallback=fallback,
        state_dtype=state_dtype,
        batch_dims=batch_dims,
        check_separable=check_separable,
    )
    return options.solve(f, z0, inputs, outer_grad)


class DEQ(nn.Module):
    """A layer whose output is the fixed point of a function.

    Parameters
    ----------
    f : callable or Module
        As in :func:`fixed_point`.
    solver, backward, max_iter, tol, stop, divergence, check_every, refine, fallback, state_dtype
        As in :func:`fixed_point`.
    batch_dims, check_separable
        As in :func:`fixed_point`.
    eval_max_iter : int, optional
        Largest number of steps in evaluation mode, by default ``max_iter``.
    eval_tol : float, optional
        Tolerance in evaluation mode, by default ``tol``.

    Notes
    -----
    The layer has no state of its own: its ``state_dict`` is that of f under the prefix ``f.``, and
    a warm start is a z0 that the caller has kept.
    """

    def __init__(
        self,
        f: Callable[..., State],
        *,
        solver: str | Solver = "broyden",
        backward: str | Method = "shine",
        max_iter: int = 18,
        tol: float = 1e-4,
        stop: Literal["relative", "absolute"] = "relative",
        divergence: float = 1e3,
        check_every: int | None = None,
        refine: int = 0,
        fallback: Test | None = "auto",
        state_dtype: torch.dtype | None = None,
        batch_dims: int = 1,
        check_separable: bool = True,
        eval_max_iter: int | None = None,
        eval_tol: float | None = None,
    ) -> None:
        super().__init__()
        if not callable(f):
            raise TypeError(f"f must be a module or another callable, got {type(f).__name__}.")
        self.f = f
        steps = max_iter if eval_max_iter is None else eval_max_iter
        eval_tol = tol if eval_tol is None else eval_tol
        self._train_options, self._eval_options = (
            _Options(
                solver=solver,
                backward=backward,
                stopping=Stopping(budget, tolerance, stop, divergence, check_every),
                refine=refine,
                fallback=fallback,
                state_dtype=state_dtype,
                batch_dims=batch_dims,
                check_separable=check_separable,
            )
            for budget, tolerance in ((max_iter, tol), (steps, eval_tol))
        )

    def forward(
        self, z0: State, *inputs: Any, outer_grad: Callable[[State], State] | None = None
    ) -> tuple[State, Info]:
        """Return the fixed point and what is known of it; see :func:`fixed_point`."""
        options = self._train_options if self.training else self._eval_options
        return options.solve(self.f, z0, inputs, outer_grad)

    @property
    def solver_name(self) -> str:
        """Name of the solver in ``SOLVERS``, or that of the function, with its options."""
        return self._train_options.solver_name

    @property
    def takes_outer_grad(self) -> bool:
        """Whether :meth:`forward` has a use for ``outer_grad``."""
        return self._train_options.takes_outer_grad

    def extra_repr(self) -> str:
        options = self._train_options
        return (
            f"solver={options.solver_name!r}, backward={options.backward_name!r}, "
            f"max_iter={options.stopping.max_iter}, tol={options.stopping.tol}"
        )


class _Options:
    """Checked options of a solve and of its backward pass."""

    def __init__(
        self,
        solver: str | Solver,
        backward: str | Method,
        stopping: Stopping,
        refine: int,
        fallback: Test | None,
        state_dtype: torch.dtype | None,
        batch_dims: int,
        check_separable: bool,
    ) -> None:
        self.solver_name, self.backward_name = _name(solver, SOLVERS), _name(backward, METHODS)
        self.solver = _look_up("solver", solver, SOLVERS)
        self.stopping = stopping
        self.state_dtype = state_dtype
        check_batch_dims(batch_dims)
        self.batch_dims = batch_dims
        self.unrolled = backward == "unrolled"
        # The steps of "unrolled" are those of the whole state.
        self.check_separable = check_separable and batch_dims == 1 and not self.unrolled
        self.takes_outer_grad = not self.unrolled and takes_outer_grad(self.solver)
        if self.unrolled:
            if refine or fallback not in (None, "auto"):
                raise ValueError("backward='unrolled' has nothing to refine or to fall back from.")
            return
        self.method = self._method(backward, refine, fallback)

    def _method(self, backward: str | Method, refine: int, fallback: Test | None) -> Method:
        method: Method = _look_up("backward", backward, METHODS, more=("unrolled",))
        if uses_inverse(method) and not estimates_inverse(self.solver):
            raise ValueError(
                f"backward={self.backward_name!r} needs a solver that estimates the inverse "
                f"Jacobian, got {self.solver_name!r}: use 'broyden' or 'adjoint-broyden', or "
                "backward='jacobian-free', which is what it would amount to."
            )
        if fallback is not None:
            method = with_fallback(method, fallback)
        return with_refinement(method, refine) if refine != 0 else method

    def solve(
        self,
        f: Callable[..., State],
        z0: State,
        inputs: tuple[Any, ...],
        outer_grad: Callable[[State], State] | None,
    ) -> tuple[State, Info]:
        if torch.compiler.is_compiling():
            # A graph break here rather than many inside; f may be compiled by itself.
            solve = torch.compiler.disable(self.solve)  # type: ignore[no-untyped-call]
            result: tuple[State, Info] = solve(f, z0, inputs, outer_grad)
            return result
        if outer_grad is not None and not self.takes_outer_grad:
            raise ValueError(
                "outer_grad is of use only to a solver that takes it, such as 'adjoint-broyden', "
                f"got solver={self.solver_name!r} and backward={self.backward_name!r}."
            )
        layout = Layout.of(z0, self.state_dtype, self.batch_dims)
        flat_f = FlatMap(f, layout, inputs, outer_grad)
        start = layout.flatten(z0).detach()
        with torch.autocast(layout.device.type, enabled=False):
            z, info = self._solve_flat(flat_f, start)
        return layout.unflatten(z), info

    def _solve_flat(self, f: FlatMap, start: Tensor) -> tuple[Tensor, Info]:
        if self.unrolled:
            z, solution = unrolled(f, start, self.stopping)
            return z, _info(solution, f)
        _fill_cache(f, start)
        with torch.no_grad():
            solution = self.solver(f, start, self.stopping)
        info = _info(solution, f)
        if self.check_separable:
            check_separable(f, solution.z)
        if torch.is_grad_enabled():
            lost = ~torch.isfinite(solution.residual)
            # A z0 that is not finite stands for no result, and its derivatives would spread.
            image = f(torch.where(lost[:, None], 0, solution.z))
            if image.requires_grad:
                rule = _Rule(self.method, Linearisation(f, solution.z, info.converged), info, lost)
                return _apply(_Reattach, image, image[:, :0].sum(), solution.z, rule), info
        return solution.z, info


def _fill_cache(f: FlatMap, z: Tensor) -> None:
    """Have parametrised weights computed with their graph where PyTorch keeps them.

    Within ``torch.nn.utils.parametrize.cached()`` the first use decides, and that of a solver has
    no graph.
    """
    if torch.is_grad_enabled() and getattr(parametrize, "_cache_enabled", False):
        f(z)


class _Rule:
    """The backward method with what it needs, for one solve.

    Samples that are ``lost``, not finite at any iterate, get a gradient of zero.
    """

    def __init__(
        self, method: Method, linearisation: Linearisation, info: Info, lost: Tensor
    ) -> None:
        self.method = method
        self.linearisation = linearisation
        self.info = info
        self.lost = lost

    def __call__(self, grad: Tensor) -> Tensor:
        before = self.linearisation.n_vjp
        # Backward may be called under autocast, where solvers would lose their precision.
        with torch.no_grad(), torch.autocast(grad.device.type, enabled=False):
            adjoint = self.method(self.linearisation, self.info.inverse_jacobian, grad)
        self.info.backward = BackwardInfo(
            adjoint.residual, adjoint.fell_back, self.linearisation.n_vjp - before
        )
        self.linearisation.free()
        self._tell_of_the_lost()
        return torch.where(self.lost[:, None], 0, adjoint.value)

    def _tell_of_the_lost(self) -> None:
        if self.lost.is_cuda and torch.cuda.is_current_stream_capturing():
            return  # while a CUDA graph is recorded, nothing may be asked of the device
        if not bool(self.lost.any()):
            return
        rows = self.lost.nonzero().ravel().tolist()
        warn(
            f"f was not finite for {len(rows)} of {len(self.lost)} samples (the first is sample "
            f"{rows[0]}). Their share of the gradient is zero; where inputs of f are not finite, "
            "gradients of what samples share may not be so either: leave out such samples.",
            RuntimeWarning,
        )


class _Reattach(torch.autograd.Function):
    """Give the value of z the graph of f(z), with a backward rule in between.

    The graph of f(z) does not contain z, so that backward computes no derivative that is thrown
    away; methods that need J^T build a graph of their own. ``anchor`` is a number with that graph:
    u depends on everything that f(z) depends on, and a second derivative has to find that out.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, anchor: Tensor, z: Tensor, rule: _Rule) -> Tensor:
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
            "second derivatives through a DEQ are not supported, but a graph of its backward pass "
            "was made (create_graph=True) and differentiated. backward='unrolled' supports them."
        )


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def _info(solution: Solution, f: FlatMap) -> Info:
    return Info(
        residual=solution.residual,
        relative_residual=solution.relative_residual,
        n_steps=solution.n_steps,
        status=solution.status,
        trace=solution.trace,
        inverse_jacobian=solution.inverse_jacobian,
        n_evals=f.n_evals,
    )


def _name(choice: Any, table: dict[str, Any]) -> str:
    """Return what to call a choice: a function of the table by its name there."""
    if isinstance(choice, str):
        return choice
    if isinstance(choice, partial):
        options = [repr(value) for value in choice.args]
        options += [f"{key}={value!r}" for key, value in choice.keywords.items()]
        return f"{_name(choice.func, table)}({', '.join(options)})"
    known = (name for name, function in table.items() if function is choice)
    return next(known, getattr(choice, "__name__", repr(choice)))


def _look_up(argument: str, choice: Any, table: dict[str, Any], more: tuple[str, ...] = ()) -> Any:
    if callable(choice):
        return choice
    if isinstance(choice, str) and choice in table:
        return table[choice]
    names = ", ".join(sorted([*table, *more]))
    raise ValueError(f"{argument} must be one of {names}, or a function, got {choice!r}.")
