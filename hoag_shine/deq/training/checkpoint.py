"""Checkpoints that are complete whenever a run is killed, and that cannot run code.

Invariant: a checkpoint exists once its JSON record does, which is renamed into place after the
tensors have reached the disk. Files without a record are left over from a run that was killed.
"""

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
# The keys of a record of version 1, whose only checksum was that of the tensors.
VERSION_1_KEYS = {"step", "sha256", "notes"}
KEYS = {"format", "format_version", "step", "notes", "tensors", "sha256"}
# Most bytes of a record; a larger file is damaged, and is not read.
# Why: by judgement; records are far smaller than 64 MiB.
LARGEST_RECORD = 1 << 26
# Checkpoints that are kept.
# Why: if the newest is damaged, there is one to go back to.
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes
    ----------
    step : int
    notes : dict
        As given to :func:`save_checkpoint`, in JSON's types.
    tensors : dict of str to Tensor
        Of the model and the optimiser, whose names start with ``model.`` and ``optimizer.``.
    """

    step: int
    notes: dict[str, Any]
    tensors: dict[str, Tensor]

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Load the parameters and buffers into a model, and the state into an optimiser."""
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
    keep: int = KEPT_CHECKPOINTS,
) -> None:
    """Write a checkpoint, and delete all but the newest ``keep``.

    The tensors go to ``step-N.safetensors``; ``step-N.json`` holds their SHA-256, the step, the
    notes, and a SHA-256 of all these. Each file is written under another name, flushed to the disk
    and renamed, the JSON last.
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
        "notes": _as_json(notes),
        "tensors": hashlib.sha256(content).hexdigest(),
    }
    record["sha256"] = _checksum(record)
    write_atomically(_tensors_path(folder, step), content)
    write_atomically(_record_path(folder, step), json.dumps(record).encode())
    kept_steps = _steps(folder)[:keep]
    kept = {path(folder, step) for step in kept_steps for path in (_record_path, _tensors_path)}
    # In the order of names, a record goes before its tensors. Remains of killed runs go, too.
    for file in sorted(folder.glob("step-*")):
        if file not in kept:
            file.unlink()


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is intact.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    checkpoint : Checkpoint or None
        None if the folder has no checkpoint.

    Raises
    ------
    ValueError
        If there are checkpoints and none is intact.

    Warns
    -----
    UserWarning
        For each checkpoint that is skipped, because it is damaged or of a later version of the
        format; and for one of the first version, in which notes had no checksum.
    """
    steps = _steps(folder)
    for step in steps:
        try:
            return _read(folder, step)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            reason = str(error).rstrip(".")
            warn(f"the checkpoint {_record_path(folder, step)} is skipped: {reason}.")
    if steps:
        raise ValueError(f"none of the {len(steps)} checkpoints in {folder} is intact.")
    return None


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that at any moment it has either its old or its new content."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    if os.name == "posix":  # the new directory entry has to reach the disk, too
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(folder: Path, step: int) -> Checkpoint:
    path = _tensors_path(folder, step)
    record = _read_record(_record_path(folder, step), step)
    with path.open("rb") as file:
        # The checksum is verified before the file is read into memory and parsed.
        if hashlib.file_digest(file, "sha256").hexdigest() != record["tensors"]:
            raise ValueError("it is damaged: the SHA-256 of its tensors does not match")
    return Checkpoint(step, record["notes"], load(path.read_bytes()))


def _read_record(path: Path, step: int) -> dict[str, Any]:
    """Return a record after verifying its checksum, with the keys of the newest version."""
    if path.stat().st_size > LARGEST_RECORD:
        raise ValueError(f"it is damaged: it has more than {LARGEST_RECORD:,} bytes")
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise ValueError("it is damaged: it is not a JSON object")
    if set(record) == VERSION_1_KEYS:
        _warn_of_first_version(path)
        record["tensors"] = record.pop("sha256")
    else:
        _check_record(record)
    if record["step"] != step or not isinstance(record["notes"], dict):
        raise ValueError("it is damaged: it is of another step, or has no notes")
    return record


def _check_record(record: dict[str, Any]) -> None:
    """Raise a ValueError for a record of another format, or whose checksum does not match."""
    version = record.get("format_version")
    if record.get("format") != FORMAT or version != FORMAT_VERSION:
        raise ValueError(
            f"it is damaged, or its format is not {FORMAT!r} of version 1 or {FORMAT_VERSION}"
        )
    if set(record) != KEYS or record.pop("sha256") != _checksum(record):
        raise ValueError("it is damaged: its SHA-256 does not match")


def _as_json(notes: Mapping[str, Any]) -> Any:
    """Return notes in JSON's types: the checksum has to be that of the notes as they are read."""
    try:
        return json.loads(json.dumps(dict(notes)))
    except RecursionError:
        raise ValueError("notes are nested too deeply to be saved.") from None


def _checksum(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record's content in a canonical form."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _warn_of_first_version(path: Path) -> None:
    warn(
        f"the checkpoint {path} was saved by an early hoag_shine without a checksum of its notes, "
        "so that damage to them cannot be detected."
    )


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of each parameter, named by its index; Adam and SGD keep tensors only."""
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


def _tensors_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"


def _record_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.json"
