"""Configurations of multiscale DEQs: the sizes of a model, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MDEQConfig:
    """The sizes of a multiscale DEQ for classification, and how it is trained.

    Attributes
    ----------
    channels : tuple of int
        Channels of the state at each resolution, the finest first. Each resolution has half the
        height and width of the one before.
    head_channels : tuple of int
        Widths of the bottleneck blocks of the classification head, one for each resolution. Their
        outputs have four times as many channels.
    final_channels : int
        Features before the last linear layer.
    n_classes, in_channels : int
    downsamplings : {0, 1, 2}
        Number of strided convolutions before the first resolution.
    expansion : int
        Channels inside a residual block, as a multiple of its input's channels.
    groups : int
        Groups of the group normalisations.
    dropout : float
        Probability of a zero in the variational dropout, whose mask is drawn once per solve.
    post_affine : bool
        Whether the last group normalisation has weights and biases.
    max_iter : int
        Steps of the forward solver.
    backward_max_iter : int
        Vector-Jacobian products of the implicit backward pass.
    tol : float
    stop : {"relative", "absolute", "batch"}
        As in :func:`~hoag_shine.deq.fixed_point`.
    pretrain_depth : int
        Unrolled steps of f in the pretraining phase.
    pretrain_steps : int
        Length of the pretraining phase, in training steps.
    epochs, batch_size : int
    optimizer : {"adam", "sgd"}
    lr, weight_decay : float
    """

    channels: tuple[int, ...]
    head_channels: tuple[int, ...]
    final_channels: int
    n_classes: int = 10
    in_channels: int = 3
    downsamplings: int = 0
    expansion: int = 5
    groups: int = 8
    dropout: float = 0.0
    post_affine: bool = False
    max_iter: int = 18
    backward_max_iter: int = 20
    tol: float = 1e-3
    stop: Literal["relative", "absolute", "batch"] = "relative"
    pretrain_depth: int = 10
    pretrain_steps: int = 0
    epochs: int = 50
    batch_size: int = 128
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.head_channels):
            raise ValueError(
                "channels and head_channels must have one entry for each resolution, got "
                f"{len(self.channels)} and {len(self.head_channels)}."
            )
        bad = [c for c in self.channels if c % self.groups]
        if bad:
            raise ValueError(f"channels must be multiples of groups={self.groups}, got {bad}.")
        least = {"pretrain_depth": 1, "pretrain_steps": 0, "epochs": 1, "batch_size": 1, "lr": 0}
        for name, smallest in least.items():
            if not getattr(self, name) >= smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {getattr(self, name)}.")
        if self.downsamplings not in (0, 1, 2):
            raise ValueError(f"downsamplings must be 0, 1 or 2, got {self.downsamplings!r}.")
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer must be 'adam' or 'sgd', got {self.optimizer!r}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}.")


# The first three are the configurations of Bai, Koltun and Kolter (2020), which SHINE uses too.
CONFIGS: dict[str, MDEQConfig] = {
    "cifar10-tiny": MDEQConfig(
        channels=(24, 24),
        head_channels=(8, 16),
        final_channels=200,
        dropout=0.25,
        pretrain_steps=3000,
        epochs=50,
        batch_size=128,
        weight_decay=2.5e-6,
    ),
    "cifar10-large": MDEQConfig(
        channels=(32, 64, 128, 256),
        head_channels=(14, 28, 56, 112),
        final_channels=1680,
        dropout=0.3,
        pretrain_steps=20_000,
        epochs=220,
        batch_size=128,
    ),
    "imagenet-small": MDEQConfig(
        channels=(32, 64, 128, 256),
        head_channels=(24, 48, 96, 192),
        final_channels=2048,
        n_classes=1000,
        downsamplings=2,
        post_affine=True,
        max_iter=26,
        backward_max_iter=27,
        stop="absolute",
        pretrain_depth=5,
        pretrain_steps=510_000,
        epochs=100,
        optimizer="sgd",
        lr=0.05,
        weight_decay=5e-5,
    ),
    # Trains on a CPU in minutes.
    "small": MDEQConfig(
        channels=(16, 16),
        head_channels=(8, 8),
        final_channels=64,
        downsamplings=1,
        expansion=2,
        groups=4,
        pretrain_depth=4,
        pretrain_steps=100,
        epochs=5,
        batch_size=64,
        lr=5e-3,
    ),
    # For images of 8 x 8 pixels, whose first resolution is that of the image.
    "digits": MDEQConfig(
        channels=(16, 16),
        head_channels=(8, 8),
        final_channels=64,
        in_channels=1,
        expansion=2,
        groups=4,
        epochs=8,
        batch_size=64,
        lr=5e-3,
    ),
}
