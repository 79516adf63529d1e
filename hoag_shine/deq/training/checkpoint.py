"""Checkpoints that survive being killed at any moment, and never run code when read."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

MODEL, OPTIMIZER = "model.", "optimizer."


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    notes: Mapping[str, Any],
    keep: int = 2,
) -> None:
    """Write a checkpoint, and delete all but the newest ``keep``.

    The tensors go to ``step-N.safetensors``; ``step-N.json`` holds their SHA-256, the step and the
    notes. Each is written beside its place, flushed to the disk and renamed, the second last: a
    checkpoint is there once its JSON is, and then it is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {MODEL + name: value for name, value in model.state_dict().items()}
    tensors |= _optimizer_tensors(optimizer)
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = save(plain)
    record = {"step": step, "sha256": hashlib.sha256(content).hexdigest(), "notes": dict(notes)}
    write_atomically(_tensors_of(folder, step), content)
    write_atomically(_record_of(folder, step), json.dumps(record).encode())
    for old in _steps(folder)[keep:]:
        _record_of(folder, old).unlink()
        _tensors_of(folder, old).unlink(missing_ok=True)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> tuple[int, dict[str, Any]] | None:
    """Load the newest checkpoint that is whole.

    Parameters
    ----------
    folder : Path
    model : Module
        Gets the parameters and buffers.
    optimizer : Optimizer, optional
        Gets its state.

    Returns
    -------
    step : int
    notes : dict
        Or None if there is no checkpoint at all.

    Raises
    ------
    ValueError
        If there are checkpoints and none is whole.

    Warns
    -----
    UserWarning
        For each damaged checkpoint that is passed over.
    """
    steps = _steps(folder)
    for step in steps:
        try:
            record, tensors = _read(folder, step)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            warnings.warn(
                f"the checkpoint {_record_of(folder, step)} is damaged ({error}) and is passed "
                "over.",
                stacklevel=2,
            )
            continue
        model.load_state_dict(_part(tensors, MODEL))
        if optimizer is not None:
            _load_optimizer(optimizer, _part(tensors, OPTIMIZER))
        return step, record["notes"]
    if steps:
        raise ValueError(f"none of the {len(steps)} checkpoints in {folder} is whole.")
    return None


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that at any moment either the old or the new content is there."""
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    if os.name == "posix":  # the new name, too, has to reach the disk
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(folder: Path, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    record = json.loads(_record_of(folder, step).read_text())
    content = _tensors_of(folder, step).read_bytes()
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise ValueError("its SHA-256 is another")
    return record, load(content)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the state of each parameter by its number: Adam's and SGD's are tensors throughout."""
    state = optimizer.state_dict()["state"]
    return {
        f"{OPTIMIZER}{index}.{name}": value
        for index, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _steps(folder: Path) -> list[int]:
    """Return the steps of all checkpoints, the newest first."""
    return sorted((int(p.stem.partition("-")[2]) for p in folder.glob("step-*.json")), reverse=True)


def _tensors_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"


def _record_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.json"
