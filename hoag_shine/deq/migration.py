"""The interface of torchdeq on the solvers of this package, for models that are written for it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from .backward import Method, Recorder, implicit, unrolled_phantom
from .info import Info
from .layer import fixed_point
from .state import State

_Solver = Literal["anderson", "broyden", "picard"]
_SOLVERS: dict[str, _Solver] = {
    "anderson": "anderson",
    "broyden": "broyden",
    "fixed_point_iter": "picard",
    "simple_fixed_point_iter": "picard",
}


def get_deq(args: Mapping[str, Any] | Namespace | None = None, **settings: Any) -> TorchdeqLayer:
    """Return a layer that is called as torchdeq's: ``z, info = deq(f, z0)``.

    Parameters
    ----------
    args : mapping or Namespace, optional
        Settings, for instance of a command line. Unknown names are ignored, as in torchdeq. They
        override ``settings``.
    **settings
        Those of :class:`TorchdeqLayer`.

    Returns
    -------
    deq : TorchdeqLayer

    Raises
    ------
    TypeError
        If ``settings`` has an unknown name.
    ValueError
        If a setting is out of range.
    """
    given: dict[str, Any] = {}
    if args is not None:
        given = dict(vars(args)) if isinstance(args, Namespace) else dict(args)
    known = TorchdeqLayer.__init__.__kwdefaults__ or {}
    return TorchdeqLayer(**settings | {k: v for k, v in given.items() if k in known})


class TorchdeqLayer(nn.Module):
    """A layer whose function is passed at each call, with torchdeq's names and defaults.

    Parameters
    ----------
    f_solver, b_solver : str, default="fixed_point_iter"
        ``"anderson"``, ``"broyden"``, ``"fixed_point_iter"`` or ``"simple_fixed_point_iter"``.
    no_stat : bool, optional
        Whether the solver computes no residuals, by default only for
        ``"simple_fixed_point_iter"``.
    f_max_iter, f_tol, f_stop_mode : int, float, {"abs", "rel"}
        Steps, tolerance and kind of residual of the forward solver, by default 40, 1e-3 and
        ``"abs"``.
    b_max_iter, b_tol : int, float
        Steps and tolerance of the backward solver, by default 40 and 1e-6.
    eval_factor, eval_f_max_iter : float, int
        Steps in evaluation mode, as a multiple of ``f_max_iter``, by default 1, or as a number.
    ift : bool, default=False
        Whether the backward pass solves the adjoint system (implicit function theorem).
    grad, tau : int, float, default=1
        Without ``ift``, the steps and the damping of the phantom gradient.
    n_states, indexing : int, sequence of int
        Iterates to return besides the last one: ``n_states`` in all, at equal distances, or those
        after the steps in ``indexing``.
    backward : str or callable, optional
        A backward method of this package, such as ``"auto"``, in place of ``ift`` and ``grad``.
    batch_dims, check_separable
        As in :func:`~hoag_shine.deq.fixed_point`. Only the function of the first call is checked.

    Notes
    -----
    Two things differ from torchdeq: each sample stops by its own residual; and with ``ift`` the
    value is the iterate that ``info`` describes, where torchdeq applies f once more.
    """

    def __init__(
        self,
        *,
        f_solver: str = "fixed_point_iter",
        b_solver: str = "fixed_point_iter",
        no_stat: bool | None = None,
        f_max_iter: int = 40,
        f_tol: float = 1e-3,
        f_stop_mode: Literal["abs", "rel"] = "abs",
        b_max_iter: int = 40,
        b_tol: float = 1e-6,
        eval_factor: float = 1.0,
        eval_f_max_iter: int = 0,
        ift: bool = False,
        grad: int = 1,
        tau: float = 1.0,
        n_states: int = 1,
        indexing: list[int] | tuple[int, ...] | None = None,
        backward: str | Method | Recorder | None = None,
        batch_dims: int = 1,
        check_separable: bool = True,
    ) -> None:
        super().__init__()
        for name, solver in {"f_solver": f_solver, "b_solver": b_solver}.items():
            if solver not in _SOLVERS:
                raise ValueError(f"{name} must be one of {', '.join(_SOLVERS)}, got {solver!r}.")
        if f_stop_mode not in ("abs", "rel"):
            raise ValueError(f"f_stop_mode must be 'abs' or 'rel', got {f_stop_mode!r}.")
        if backward is None and ift:
            method: Any = partial(
                implicit, solver=_SOLVERS[b_solver], max_iter=b_max_iter, tol=b_tol
            )
        else:
            method = backward or partial(unrolled_phantom, steps=grad, damping=tau)
        simple = f_solver == "simple_fixed_point_iter"
        self.max_iter = f_max_iter
        self.eval_max_iter = eval_f_max_iter or int(f_max_iter * eval_factor)
        self.indexing = _indexed_steps(n_states, indexing, f_max_iter)
        self.check_separable = check_separable
        self.options: dict[str, Any] = {
            "solver": _SOLVERS[f_solver],
            "backward": method,
            "tol": f_tol,
            "stop": {"abs": "absolute", "rel": "relative"}[f_stop_mode],
            "monitor": not (simple if no_stat is None else no_stat),
            "batch_dims": batch_dims,
        }

    def forward(
        self,
        f: Callable[..., State],
        z0: State,
        solver_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[list[State], dict[str, Any]]:
        """Find the fixed point of a function.

        Parameters
        ----------
        f : callable
            ``f(z)`` returns a state like z; if z0 is a tuple or list, f gets its parts as
            arguments.
        z0 : Tensor, or tuple or list of them
        solver_kwargs : mapping, optional
            ``max_iter`` and ``tol`` of this call.

        Returns
        -------
        z : list of states
            The last one is the result.
        info : dict
            ``"abs_lowest"``, ``"rel_lowest"`` and ``"nstep"``, tensors of shape (batch,);
            ``"abs_trace"`` or ``"rel_trace"`` of shape (batch, steps + 1), whichever is compared
            with the tolerance; and ``"info"``, an :class:`~hoag_shine.deq.Info`.
        """
        several = isinstance(z0, (tuple, list))
        options = self.options | dict(solver_kwargs or {})
        options.setdefault("max_iter", self.max_iter if self.training else self.eval_max_iter)
        z, info = fixed_point(
            (lambda z: f(*z)) if several else f,
            z0,
            check_separable=self.check_separable,
            indexing=self.indexing if self.training else (),
            **options,
        )
        # Models make f anew in each call, all of one kind: one check will do.
        self.check_separable = False
        return [*info.iterates, z], _as_dict(info, self.options["stop"])


def _indexed_steps(
    n_states: int, indexing: list[int] | tuple[int, ...] | None, max_iter: int
) -> tuple[int, ...]:
    """Return the steps after which iterates are kept, the last one left out."""
    if n_states <= 1:
        return tuple(indexing or ())
    gap = max_iter // min(n_states, max_iter)
    return tuple(max_iter - k * gap for k in range(min(n_states, max_iter) - 1, 0, -1))


def _as_dict(info: Info, stop: str) -> dict[str, Any]:
    trace: Tensor = info.trace.mT
    return {
        "abs_lowest": info.residual,
        "rel_lowest": info.relative_residual,
        "nstep": info.n_steps,
        "abs_trace" if stop == "absolute" else "rel_trace": trace,
        "info": info,
    }
