"""Checkpoints that survive being killed at any moment, and never run code when read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ...utils.warn import warn

MODEL, OPTIMIZER = "model.", "optimizer."
FORMAT, FORMAT_VERSION = "hoag_shine checkpoint", 2
# The keys of a record of version 1, whose checksum was that of the tensors alone.
FIRST_KEYS = {"step", "sha256", "notes"}
KEYS = {"format", "format_version", "step", "notes", "tensors", "sha256"}
# Most bytes of a record; what is larger is none, and is not read.
# Why: by judgement; records are far smaller than 64 MiB.
LARGEST_RECORD = 1 << 26


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

    The tensors go to ``step-N.safetensors``; ``step-N.json`` holds their SHA-256, the step, the
    notes, and a SHA-256 of all that. Each is written beside its place, flushed to the disk and
    renamed, the second last: a checkpoint is there once its JSON is, and then it is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {MODEL + name: value for name, value in model.state_dict().items()}
    tensors |= _optimizer_tensors(optimizer)
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = save(plain)
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "step": step,
        "notes": _as_read(notes),
        "tensors": hashlib.sha256(content).hexdigest(),
    }
    record["sha256"] = _checksum(record)
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
        For each checkpoint that is damaged, or of a later version of the format, and is passed
        over; and if the one that is read is of the first version, which had no checksum of notes.
    """
    steps = _steps(folder)
    for step in steps:
        try:
            return _read(folder, step)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            reason = str(error).rstrip(".")
            warn(f"the checkpoint {_record_of(folder, step)} is passed over: {reason}.")
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
    path = _tensors_of(folder, step)
    record = _read_record(_record_of(folder, step), step)
    with path.open("rb") as file:
        # Not read into memory before it is known to be what was saved.
        if hashlib.file_digest(file, "sha256").hexdigest() != record["tensors"]:
            raise ValueError("it is damaged, since the SHA-256 of its tensors is another")
    return Checkpoint(step, record["notes"], load(path.read_bytes()))


def _read_record(path: Path, step: int) -> dict[str, Any]:
    """Return a record, if it is what was saved, with the keys of the newest version."""
    if path.stat().st_size > LARGEST_RECORD:
        raise ValueError(f"it is damaged, since it has more than {LARGEST_RECORD:,} bytes")
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise ValueError("it is damaged, since it is no JSON object")
    if set(record) == FIRST_KEYS:
        _warn_of_first_version(path)
        record["tensors"] = record.pop("sha256")
    else:
        _check_record(record)
    if record["step"] != step or not isinstance(record["notes"], dict):
        raise ValueError("it is damaged, since it is of another step or without notes")
    return record


def _check_record(record: dict[str, Any]) -> None:
    """Refuse a record of another format, or one whose checksum is another."""
    version = record.get("format_version")
    if record.get("format") != FORMAT or version != FORMAT_VERSION:
        raise ValueError(
            f"it is damaged, or its format is not {FORMAT!r} of version 1 or {FORMAT_VERSION}"
        )
    if set(record) != KEYS or record.pop("sha256") != _checksum(record):
        raise ValueError("it is damaged, since its SHA-256 is another")


def _as_read(notes: Mapping[str, Any]) -> Any:
    """Return notes in the types that JSON has, of which the checksum is taken."""
    try:
        return json.loads(json.dumps(dict(notes)))
    except RecursionError:
        raise ValueError("notes are nested too deeply to be saved.") from None


def _checksum(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a record says, however JSON writes it."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _warn_of_first_version(path: Path) -> None:
    warn(
        f"the checkpoint {path} was saved by an early hoag_shine without a checksum of its notes, "
        "so that damage to them would not be seen."
    )


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
