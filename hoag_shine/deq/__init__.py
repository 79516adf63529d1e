"""Deep equilibrium layers for PyTorch, whose backward pass can reuse the solver's estimate (SHINE).

:class:`DEQ` is the layer and :func:`fixed_point` the function. Solvers are in
:mod:`~hoag_shine.deq.solvers` and backward methods in :mod:`~hoag_shine.deq.backward`;
:mod:`~hoag_shine.deq.mdeq` has multiscale models, and :mod:`~hoag_shine.deq.training` trains them.
Needs the extra ``torch``.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "hoag_shine.deq needs PyTorch: pip install 'hoag-shine[torch]'.", name="torch"
    ) from error

from .backward import METHODS, Adjoint, Linearisation, with_fallback, with_refinement
from .info import BackwardInfo, Info
from .layer import DEQ, fixed_point
from .low_rank import LowRank
from .options import restored as restored_options
from .regularization import fixed_point_correction, jacobian_penalty, spectral_radius
from .solve_cache import VariationalDropout, once_per_solve
from .solvers import SOLVERS, Solution, Status, Stopping
from .state import FlatMap, Layout

__all__ = [
    "DEQ",
    "METHODS",
    "SOLVERS",
    "Adjoint",
    "BackwardInfo",
    "FlatMap",
    "Info",
    "Layout",
    "Linearisation",
    "LowRank",
    "Solution",
    "Status",
    "Stopping",
    "VariationalDropout",
    "fixed_point",
    "fixed_point_correction",
    "jacobian_penalty",
    "once_per_solve",
    "restored_options",
    "spectral_radius",
    "with_fallback",
    "with_refinement",
]
