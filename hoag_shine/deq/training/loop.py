"""The training loop of a multiscale DEQ.

Invariant: a step depends on the weights, the state of the optimiser, the seed and the number of the
step, and on nothing else. So a checkpoint needs no state of random generators, and a resumed run
takes the same steps as one that was never interrupted.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from ..backward import METHODS, RECORDERS
from ..info import Info
from ..mdeq import MDEQ, MDEQConfig
from ..options import restored as restored_options
from ..solvers import SOLVERS
from .checkpoint import (
    KEPT_CHECKPOINTS,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from .data import Images, Normalizer, seed_of, shuffled_batches
from .streaming import ImageStream

COLUMNS = [
    "step",
    "epoch",
    "lr",
    "loss",
    "grad_norm",
    "solver_steps",
    "residual",
    "diverged",
    "backward_residual",
    "fell_back",
    "seconds",
    "test_loss",
    "test_accuracy",
    "test_top5",
]

# Fields of the recipe that do not change the weights: a resumed run may have other values.
NOT_CHECKED = (
    "device",
    "log_every",
    "checkpoint_every",
    "tensorboard",
    "eval_batch_size",
    "keep_best",
)
# Options of config and layer that may change as well: the length of the run, and what does not
# change the weights.
MAY_CHANGE = {("config", "epochs"), ("layer", "check_every"), ("layer", "check_separable")}
# Number of highest scores among which the right class has to be to count in ``test_top5``.
# Why: that of ImageNet's benchmark.
TOP_CLASSES = 5
# Momentum of SGD, which is Nesterov's.
# Why: that of the published ImageNet models.
SGD_MOMENTUM = 0.9


@dataclass(frozen=True)
class Recipe:
    """How to train, besides what the model's config says.

    Attributes
    ----------
    seed : int
    device : str
    amp : {"no", "bf16", "fp16"}
        Automatic mixed precision; the solver's state stays in float32.
    clip : float
        Largest norm of the gradient; 0 turns clipping off.
    opa : bool
        Outer-problem awareness: whether a solver that takes ``outer_grad`` gets it.
    jacobian_weight : float
        Weight of :func:`~hoag_shine.deq.jacobian_penalty`.
    augment, flip : bool
        Whether to shift images by up to an eighth of their size, and to mirror half of them.
    channels_last : bool
        Memory format of images and convolutions.
    log_every, checkpoint_every : int
        In steps.
    tensorboard : bool
        Whether to write TensorBoard's event files beside ``log.csv``.
    eval_batch_size : int
        Images of a batch in testing.
    keep_best : bool
        Whether to keep also the checkpoint with the best test accuracy, in the folder ``best``.
    """

    seed: int = 0
    device: str = "cpu"
    amp: str = "no"
    clip: float = 1.0
    opa: bool = True
    jacobian_weight: float = 0.0
    augment: bool = True
    flip: bool = True
    channels_last: bool = False
    log_every: int = 20
    checkpoint_every: int = 500
    tensorboard: bool = True
    eval_batch_size: int = 500
    keep_best: bool = False

    def __post_init__(self) -> None:
        if self.amp not in ("no", "bf16", "fp16"):
            raise ValueError(f"amp must be 'no', 'bf16' or 'fp16', got {self.amp!r}.")
        least = {"clip": 0, "jacobian_weight": 0, "log_every": 1, "checkpoint_every": 1}
        least["eval_batch_size"] = 1
        for name, smallest in least.items():
            if not getattr(self, name) >= smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {getattr(self, name)}.")
        check_device(self.device)

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the model's forward pass."""
        dtype = torch.float16 if self.amp == "fp16" else torch.bfloat16
        return torch.autocast(self.device_type, dtype=dtype, enabled=self.amp != "no")

    @property
    def device_type(self) -> str:
        """The device without its number."""
        return torch.device(self.device).type

    def placed(self, images: Tensor) -> Tensor:
        """Return images on the device, in the memory format of the recipe."""
        images = images.to(self.device)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images


def check_device(device: str) -> None:
    """Raise a ValueError unless tensors can be created on the device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"device={device!r} cannot be used here: {reason}. Use device='cpu' for the CPU."
        ) from error


def evaluate(
    model: MDEQ,
    normalize: Normalizer,
    images: Images | ImageStream,
    recipe: Recipe,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Return ``test_loss``, ``test_accuracy`` and ``test_top5``, means over the images.

    The last one is the share of images whose class is among the five with the highest scores.

    Parameters
    ----------
    model : MDEQ
    normalize : Normalizer
    images : Images or ImageStream
    recipe : Recipe
        Device, precision, memory format and batch size.
    batch_size : int, optional
        By default that of the recipe.

    Raises
    ------
    ValueError
        If there are no images.
    """
    if len(images) == 0:
        raise ValueError("there are no images to test on.")
    model.eval()
    loss, correct, in_top = 0.0, 0, 0
    with torch.no_grad():
        for pixels, labels in images.batches(batch_size or recipe.eval_batch_size):
            with recipe.autocast():
                scores = model(recipe.placed(normalize(pixels))).scores
            scores, labels = scores.float(), labels.to(recipe.device)
            loss += float(functional.cross_entropy(scores, labels, reduction="sum"))
            correct += int((scores.argmax(1) == labels).sum())
            top = scores.topk(min(TOP_CLASSES, scores.shape[1])).indices
            in_top += int((top == labels[:, None]).sum())
    sums = {"test_loss": loss, "test_accuracy": correct, "test_top5": in_top}
    return {name: total / len(images) for name, total in sums.items()}


def load_model(folder: Path, *, best: bool = False, **options: Any) -> tuple[MDEQ, Normalizer]:
    """Load the model of a run from its newest checkpoint.

    Parameters
    ----------
    folder : Path
        That of a :class:`Trainer`, or the ``--output`` of ``hoag-shine-deq train``.
    best : bool, default=False
        Whether to load the checkpoint with the best test accuracy, if the run kept it.
    **options
        Options of :class:`~hoag_shine.deq.DEQ`, which override those of the run.

    Returns
    -------
    model : MDEQ
        With the config of the run, and the options of its layer.
    normalize : Normalizer
        Maps pixels to the model's inputs.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    ValueError
        If no checkpoint is intact, the newest is not one of such a run, or the run had a solver or
        a backward method that is not of this package and is not passed here.
    """
    place = folder / ("best" if best else "checkpoints")
    checkpoint = load_checkpoint(place)
    if checkpoint is None:
        raise FileNotFoundError(f"there is no checkpoint in {place}.")
    with _reading_run(folder):
        return _model_of(checkpoint, options)


@contextmanager
def _reading_run(folder: Path) -> Iterator[None]:
    """Raise a ValueError in place of the errors of a checkpoint that no training run has made."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"the checkpoint in {folder} is not of a training run of this package: "
            f"{type(error).__name__}: {error}."
        ) from error


def _model_of(checkpoint: Checkpoint, options: dict[str, Any]) -> tuple[MDEQ, Normalizer]:
    notes = checkpoint.notes
    config: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in notes["config"].items()
    }
    layer = restored_options(notes["layer"]) | options
    for key, known in {"solver": SOLVERS, "backward": (*METHODS, *RECORDERS, "unrolled")}.items():
        if isinstance(layer[key], str) and layer[key] not in known:
            raise ValueError(
                f"the run had a {key} of its own, {layer[key]!r}: pass it as "
                f"load_model(folder, {key}=...)."
            )
    model = MDEQ(MDEQConfig(**config), **layer)
    checkpoint.restore(model)
    return model, Normalizer.from_notes(notes["normalizer"])


class Trainer:
    """A training run that can be interrupted and resumed.

    Parameters
    ----------
    model : MDEQ
    train, test : Images or ImageStream
    recipe : Recipe
    folder : Path
        Folder for ``log.csv``, checkpoints and TensorBoard's files.

    Raises
    ------
    ValueError
        If there are fewer training images than ``batch_size``, or no test images.

    Notes
    -----
    The order of the images is drawn from the seed and the epoch, and masks and augmentation from
    the seed, the step and the rank. On a CPU, a run that was killed and resumed therefore ends with
    the same bits as one that was not.
    """

    def __init__(
        self,
        model: MDEQ,
        train: Images | ImageStream,
        test: Images | ImageStream,
        recipe: Recipe,
        folder: Path,
    ) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.config: MDEQConfig = model.config
        self.recipe = recipe
        self.folder = folder
        self.train_set, self.test_set = train, test
        self.normalize = Normalizer.of(train)
        if len(train) < self.config.batch_size or len(test) == 0:
            raise ValueError(
                f"there are {len(train)} images to train on and {len(test)} to test on: training "
                f"needs at least batch_size={self.config.batch_size}, and a test at least one."
            )
        self.steps_per_epoch = len(train) // self.config.batch_size
        self.total_steps = self.steps_per_epoch * self.config.epochs
        self.module = self._placed(model)
        self.parallel: nn.Module = self.module
        if self.world_size > 1:
            self.parallel = DistributedDataParallel(self.module, find_unused_parameters=False)
        self.optimizer = _optimizer(self.module, self.config)
        self.scaler = torch.amp.GradScaler(recipe.device_type, enabled=recipe.amp == "fp16")
        self.step = 0
        self.best = 0.0
        self.log = Log(folder, recipe.tensorboard) if self.rank == 0 else None

    def resume(self) -> bool:
        """Continue from the newest checkpoint; return whether there was one.

        Options must be those of the run, except for the number of epochs: the learning rate then
        follows the cosine of the new length.

        Raises
        ------
        ValueError
            If other options have changed, or the run has already more steps than the new epochs.
        """
        checkpoint = load_checkpoint(self.folder / "checkpoints")
        if checkpoint is not None:
            with _reading_run(self.folder):
                self._check_options(checkpoint)
                checkpoint.restore(self.module, self.optimizer)
                self.scaler.load_state_dict(checkpoint.notes["scaler"])
            self.step = checkpoint.step
            self.best = float(checkpoint.notes.get("best", 0.0))
        if self.log is not None:
            self.log.truncate_after(self.step)
        return checkpoint is not None

    def _check_options(self, checkpoint: Checkpoint) -> None:
        wanted, found = self._notes(), checkpoint.notes
        keys = [
            (part, key)
            for part in ("config", "recipe", "layer", "run")
            for key in wanted[part] | found[part]
            if (part, key) not in MAY_CHANGE
        ]
        changed = [
            key
            for part, key in keys
            if key not in found[part] or found[part][key] != wanted[part].get(key)
        ]
        if changed:
            names = ", ".join(dict.fromkeys(changed))
            raise ValueError(
                f"the checkpoint in {self.folder} was made with other values of {names}; resume "
                "with the same options or choose another folder."
            )
        if self.total_steps < checkpoint.step:
            raise ValueError(
                f"the checkpoint in {self.folder} is of step {checkpoint.step}, but "
                f"epochs={self.config.epochs} has {self.total_steps} steps: ask for more epochs."
            )

    def run(self, progress: Callable[[int, dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """Train to the end; return the last row of the log."""
        row: dict[str, Any] = {}
        while self.step < self.total_steps:
            epoch = self.step // self.steps_per_epoch
            order = shuffled_batches(
                len(self.train_set),
                self.config.batch_size,
                epoch,
                self.recipe.seed,
                self.rank,
                self.world_size,
            )
            for i in range(self.step % self.steps_per_epoch, len(order)):
                row = self._one_step(epoch, order[i], *order[i + 1 : i + 2])
                if progress is not None:
                    progress(self.step, row)
        if self.rank == 0 and self.log is not None:
            self.log.close()
        return row

    def _one_step(self, epoch: int, *indices: Tensor) -> dict[str, Any]:
        """Take a step on the first batch of indices; the second, if any, is for the next step."""
        started = time.perf_counter()
        row: dict[str, Any] = {"epoch": epoch, **self.train_step(*indices)}
        row |= {"step": self.step, "seconds": time.perf_counter() - started}
        end_of_epoch = self.step % self.steps_per_epoch == 0
        if end_of_epoch:
            row |= self.evaluate()
        if self.rank == 0:
            if self.log and self._is_logged(self.step):
                self.log.write({k: float(v) for k, v in row.items()})
            if end_of_epoch and self.recipe.keep_best and row["test_accuracy"] > self.best:
                self.best = row["test_accuracy"]
                self.save("best")
            if end_of_epoch or self.step % self.recipe.checkpoint_every == 0:
                self.save()
        return row

    def train_step(self, indices: Tensor, following: Tensor | None = None) -> dict[str, Any]:
        """Take one step on the given training images; return the row for the log.

        The images of the following step are read meanwhile, if they are in files.
        """
        torch.manual_seed(self._seed(self.step))
        self.parallel.train()
        lr = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        images, labels = self._batch(indices)
        if following is not None:
            self.train_set.expect(following, self._seed(self.step + 1), **self._augmentation)
        self.optimizer.zero_grad(set_to_none=True)
        loss, info = self._loss(images, labels)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        limit = self.recipe.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), limit)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient of step {self.step} is not finite: try a smaller lr, more solver "
                "steps, jacobian_weight or fallback='residual'."
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return {"lr": lr, "loss": loss.detach(), "grad_norm": norm} | _summary(info)

    def evaluate(self) -> dict[str, Any]:
        """Return loss and accuracies on the test set; see :func:`evaluate`."""
        return evaluate(self.module, self.normalize, self.test_set, self.recipe)

    def save(self, folder: str = "checkpoints") -> None:
        """Write a checkpoint to a folder of the run."""
        keep = 1 if folder == "best" else KEPT_CHECKPOINTS
        notes = self._notes() | {"best": self.best}
        place = self.folder / folder
        save_checkpoint(place, self.step, self.module, self.optimizer, notes, keep)

    def _loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Info | None]:
        pretraining = self.step < self.config.pretrain_steps
        with self.recipe.autocast():
            scores, info, penalty = self.parallel(
                images,
                penalty=self.recipe.jacobian_weight > 0,
                unroll=self.config.pretrain_depth if pretraining else 0,
                outer_loss=partial(_summed_loss, labels) if self._uses_opa else None,
                measure=self.module.deq.measurable and self._is_logged(self.step + 1),
            )
        loss = functional.cross_entropy(scores.float(), labels)
        if penalty is not None:
            loss = loss + self.recipe.jacobian_weight * penalty
        return loss, info

    @property
    def _uses_opa(self) -> bool:
        return self.recipe.opa and self.module.deq.takes_outer_grad

    def _is_logged(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0 or step % self.recipe.log_every == 0

    def _batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        seed = self._seed(self.step)
        device = self.recipe.device
        pixels = self.train_set.training_pixels(indices, seed, **self._augmentation, device=device)
        labels = self.train_set.labels[indices].to(self.recipe.device)
        return self.recipe.placed(self.normalize(pixels)), labels

    @property
    def _augmentation(self) -> dict[str, bool]:
        return {"augmented": self.recipe.augment, "flip": self.recipe.flip}

    def _seed(self, step: int) -> int:
        return seed_of(self.recipe.seed, step, self.rank)

    def _learning_rate(self) -> float:
        # Cosine annealing to zero (Loshchilov and Hutter, 2017, *SGDR*, equation 5), one period.
        share = self.step / self.total_steps
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * share))

    def _placed(self, model: MDEQ) -> MDEQ:
        model = model.to(self.recipe.device)
        if self.recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # With outer-problem awareness the solver calls the head, and processes may take different
        # numbers of steps: synchronised batch normalisations would wait for each other for ever.
        uses_opa = self.recipe.opa and model.deq.takes_outer_grad
        if self.world_size > 1 and self.recipe.device != "cpu" and not uses_opa:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return model

    def _notes(self) -> dict[str, Any]:
        config = dataclasses.asdict(self.config)
        recipe = dataclasses.asdict(self.recipe)
        for key in NOT_CHECKED:
            del recipe[key]
        return {
            # Lists in place of tuples, as in JSON: this is compared with a checkpoint's notes.
            "config": {key: list(v) if isinstance(v, tuple) else v for key, v in config.items()},
            "recipe": recipe,
            "layer": self.module.deq.described(),
            "run": {
                "world_size": self.world_size,
                "n_train": len(self.train_set),
            },
            "normalizer": self.normalize.notes(),
            "scaler": self.scaler.state_dict(),
        }


def _summed_loss(labels: Tensor, scores: Tensor) -> Tensor:
    return functional.cross_entropy(scores.float(), labels, reduction="sum")


class Log:
    """Rows in ``log.csv`` and, if wanted, in TensorBoard's files."""

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.csv"
        self._events: Any = None
        self._tensorboard = folder / "tensorboard" if tensorboard else None

    def write(self, row: dict[str, float]) -> None:
        """Append a row."""
        if not self.path.exists():
            self.path.write_text(_csv([COLUMNS]))
        with self.path.open("a") as file:
            file.write(_csv([[row.get(name, "") for name in COLUMNS]]))
        if self._tensorboard is None:
            return
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            writer: Any = SummaryWriter
            self._events = writer(str(self._tensorboard), purge_step=int(row["step"]))
        for name, value in row.items():
            if name not in ("step", "epoch"):
                self._events.add_scalar(name, value, int(row["step"]))

    def truncate_after(self, step: int) -> None:
        """Drop the rows after a step, which a resumed run will write again."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            rows = list(csv.reader(file))
        head, *rows = rows or [COLUMNS]
        # The last line may be incomplete after a kill; an older version may have had fewer columns.
        named = [dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head)]
        kept = [[r.get(name, "") for name in COLUMNS] for r in named if float(r["step"]) <= step]
        write_atomically(self.path, _csv([COLUMNS, *kept]).encode())

    def close(self) -> None:
        """Flush buffers and close TensorBoard's file."""
        if self._events is not None:
            self._events.close()


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _summary(info: Info | None) -> dict[str, Any]:
    """Return the diagnostics of a solve for the log, as means on its device."""
    if info is None:
        return {}
    summary: dict[str, Any] = {
        "solver_steps": info.n_steps.float().mean(),
        "residual": info.relative_residual.mean(),
        "diverged": info.diverged.float().mean(),
    }
    if info.backward is not None and info.backward.residual is not None:
        summary["backward_residual"] = info.backward.residual.nanmean()
    if info.backward is not None and info.backward.fell_back is not None:
        summary["fell_back"] = info.backward.fell_back.float().mean()
    return summary


def _optimizer(model: nn.Module, config: MDEQConfig) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=SGD_MOMENTUM,
        nesterov=True,
        weight_decay=config.weight_decay,
    )
