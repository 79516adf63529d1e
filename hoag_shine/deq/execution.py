"""How PyTorch executes a solve: eagerly or traced, and whether the host may read values.

A value that is read on the host (``bool(x)``, ``x.item()``) makes a GPU finish its queue first. It
cannot be read at all while a program is exported, inside ``torch.func.vmap``, or while a CUDA graph
is recorded.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Solver steps between two checks on a device whether all samples are done.
# Why: by judgement: a check waits for the device, and at most four steps are taken in vain.
DEVICE_CHECK_INTERVAL = 5


def check_interval(x: Tensor) -> int:
    """Return the number of steps between two reads of a tensor like x: 1 on a CPU."""
    return 1 if x.device.type == "cpu" else DEVICE_CHECK_INTERVAL


def is_exporting() -> bool:
    """Whether ``torch.export`` is tracing, rather than ``torch.compile``."""
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def can_read_values(x: Tensor) -> bool:
    """Whether the host can read the values of x."""
    if is_exporting() or "Vmap" in torch_func_transforms():
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def reads_are_free(x: Tensor) -> bool:
    """Whether the host can read the values of x without waiting for a device."""
    return x.device.type == "cpu" and can_read_values(x)


def select_rows(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Return the rows of ``yes`` where a mask of shape (batch,) is true, else those of ``no``.

    Where the mask is true for all samples or for none, and reading it is free, the result is
    ``yes`` or ``no`` itself: on a CPU, ``torch.where`` costs more than most other operations on a
    state.
    """
    if reads_are_free(mask):
        if bool(mask.all()):
            return yes
        if not bool(mask.any()):
            return no
    return torch.where(mask[:, None], yes, no)


def finite_rows(x: Tensor) -> Tensor:
    """Return which rows of x, of shape (batch, n), are finite, by one sum for each.

    A row of finite numbers whose sum overflows counts as not finite: its norm overflows, too.
    """
    return torch.isfinite(x.sum(1))


def in_torch_func() -> bool:
    """Whether this runs inside a transform of ``torch.func``."""
    return bool(getattr(torch._C, "_are_functorch_transforms_active", bool)())


def torch_func_transforms() -> list[str]:
    """Return the active transforms of ``torch.func``, the outermost first.

    ``"Grad"`` stands for derivatives of any kind, ``"Vmap"`` for ``vmap``.
    """
    if not in_torch_func():
        return []
    stack = torch._C._functorch.get_interpreter_stack() or []
    return [interpreter.key().name for interpreter in stack]
