"""What is going on around a solve: whether values can be had, and graphs of its own be made."""

from __future__ import annotations

import torch
from torch import Tensor


def is_exporting() -> bool:
    """Whether ``torch.export`` is tracing, rather than ``torch.compile``."""
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def can_read_values(x: Tensor) -> bool:
    """Whether a value of x can be had: not in an export, ``vmap`` or a CUDA graph's recording."""
    if is_exporting() or "Vmap" in torch_func_transforms():
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def reads_are_free(x: Tensor) -> bool:
    """Whether a value of x can be had at once: on a processor there is nothing to wait for."""
    return x.device.type == "cpu" and can_read_values(x)


def select_rows(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Return the rows of ``yes`` where a mask of shape (batch,) is true, else those of ``no``.

    Where all rows are of one kind that tensor itself is returned, if asking is free: a choice by
    rows costs a processor more than most other passes.
    """
    if reads_are_free(rows):
        if bool(rows.all()):
            return yes
        if not bool(rows.any()):
            return no
    return torch.where(rows[:, None], yes, no)


def finite_rows(x: Tensor) -> Tensor:
    """Return which rows of x, of shape (batch, n), are finite, for the price of a sum.

    Of rows whose sum overflows the norm would, too.
    """
    return torch.isfinite(x.sum(1))


def in_torch_func() -> bool:
    """Whether a transformation of ``torch.func`` is under way."""
    return bool(getattr(torch._C, "_are_functorch_transforms_active", bool)())


def torch_func_transforms() -> list[str]:
    """Return which transformations of ``torch.func`` are under way, the outermost first.

    ``"Grad"`` is one for derivatives of any kind, ``"Vmap"`` one for batches.
    """
    if not in_torch_func():
        return []
    stack = torch._C._functorch.get_interpreter_stack() or []
    return [interpreter.key().name for interpreter in stack]
