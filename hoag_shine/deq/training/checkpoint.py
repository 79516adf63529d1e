"""Checkpoints that survive being killed at any moment, and never run code when read."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

MODEL, OPTIMIZER = "model.", "optimizer."


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes
    ----------
    step : int
    notes : dict
        As they were given to :func:`save_checkpoint`, in JSON's types.
    tensors : dict of str to Tensor
        Those of the model and of the optimiser.
    """

    step: int
    notes: dict[str, Any]
    tensors: dict[str, Tensor]

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Give the model its parameters and buffers back, and the optimiser its state."""
        model.load_state_dict(self._part(MODEL))
        if optimizer is None:
            return
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in self._part(OPTIMIZER).items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _part(self, prefix: str) -> dict[str, Tensor]:
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.tensors[name] for name in names}


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
    kept = _steps(folder)[:keep]
    wanted = {place(folder, step) for step in kept for place in (_record_of, _tensors_of)}
    # Records before tensors, and what an earlier kill has left behind.
    for file in sorted(folder.glob("step-*")):
        if file not in wanted:
            file.unlink()


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is whole.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    checkpoint : Checkpoint or None
        None if there is no checkpoint at all.

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
            return _read(folder, step)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            warnings.warn(
                f"the checkpoint {_record_of(folder, step)} is damaged ({error}) and is passed "
                "over.",
                stacklevel=2,
            )
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


def _read(folder: Path, step: int) -> Checkpoint:
    record = json.loads(_record_of(folder, step).read_text())
    content = _tensors_of(folder, step).read_bytes()
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise ValueError("its SHA-256 is another")
    return Checkpoint(step, record["notes"], load(content))


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the state of each parameter by its number: Adam's and SGD's are tensors throughout."""
    state = optimizer.state_dict()["state"]
    return {
        f"{OPTIMIZER}{index}.{name}": value
        for index, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def _steps(folder: Path) -> list[int]:
    """Return the steps of all checkpoints, the newest first."""
    names = [file.stem.removeprefix("step-") for file in folder.glob("step-*.json")]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def _tensors_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"


def _record_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.json"
