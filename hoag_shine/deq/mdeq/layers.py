"""The building blocks of a multiscale DEQ (Bai, Koltun and Kolter, 2020, section 3).

Within f, normalisations are group normalisations, which treat samples separately. Batch
normalisations, which couple samples in training, are only in the stem and the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Channels of the output of a bottleneck block, as a multiple of its width.
# Why: as in residual networks (He et al., 2016, figure 5) and the published models.
BOTTLENECK_EXPANSION = 4


class WeightNormConv2d(nn.Module):
    r"""A convolution without bias with weight normalisation, :math:`w = g\, v / \|v\|`.

    The direction v and the length g are separate parameters of each output channel (Salimans and
    Kingma, 2016, *Weight normalization*, equation 2). The solver calls f many times with the same
    parameters: the weight is computed once, by :meth:`weight`, and passed to :meth:`forward`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.padding = kernel_size // 2
        plain = nn.Conv2d(in_channels, out_channels, kernel_size, bias=False)
        self.direction = nn.Parameter(plain.weight.detach().clone())
        self.length = nn.Parameter(self.direction.detach().flatten(1).norm(dim=1))

    def weight(self) -> Tensor:
        """Return the weight, of shape (out_channels, in_channels, kernel_size, kernel_size)."""
        norm = self.direction.flatten(1).norm(dim=1)
        scale: Tensor = self.length / norm
        return self.direction * scale[:, None, None, None]

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(x, weight, padding=self.padding)


class ResidualBlock(nn.Module):
    """Two convolutions with group normalisations and a skip connection.

    The injection is added before the second normalisation, the state after it.
    """

    def __init__(self, channels: int, expansion: int, groups: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.conv1 = WeightNormConv2d(channels, inner, 3)
        self.norm1 = nn.GroupNorm(groups, inner)
        self.conv2 = WeightNormConv2d(inner, channels, 3)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.norm3 = nn.GroupNorm(groups, channels)

    def forward(
        self,
        z: Tensor,
        weights: tuple[Tensor, Tensor],
        mask: Tensor | None,
        injection: Tensor | None,
    ) -> Tensor:
        out = functional.relu(self.norm1(self.conv1(z, weights[0])), inplace=True)
        out = self.conv2(out, weights[1])
        if mask is not None:
            out = out * mask
        if injection is not None:
            out = out + injection
        out = functional.relu(self.norm2(out) + z, inplace=True)
        normed: Tensor = self.norm3(out)
        return normed


class Fuse(nn.Module):
    """Bring the state of one resolution to another.

    Down by strided convolutions, each of which halves the sides; up by a convolution of 1 x 1 and
    nearest-neighbour interpolation.
    """

    def __init__(self, channels: tuple[int, ...], source: int, target: int, groups: int) -> None:
        super().__init__()
        self.scale = 2 ** max(source - target, 0)
        if source > target:
            self.net = nn.Sequential(
                nn.Conv2d(channels[source], channels[target], 1, bias=False),
                nn.GroupNorm(groups, channels[target]),
            )
            return
        layers: list[nn.Module] = []
        for level in range(source, target):
            last = level == target - 1
            out = channels[target] if last else channels[source]
            layers += [
                nn.Conv2d(channels[source], out, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(groups, out),
            ]
            if not last:
                layers.append(nn.ReLU(inplace=True))
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        if self.scale == 1:
            return out
        return functional.interpolate(out, scale_factor=self.scale, mode="nearest")


class Bottleneck(nn.Module):
    """A residual block of the classification head, with convolutions of 1 x 1, 3 x 3 and 1 x 1."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        out = BOTTLENECK_EXPANSION * width
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, bias=False),
            nn.BatchNorm2d(width, affine=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width, affine=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out, affine=False),
        )
        self.skip = nn.Sequential(nn.Conv2d(in_channels, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.skip(x), inplace=True)


class Head(nn.Module):
    """From the state at all resolutions to class scores.

    Each resolution is widened. From the finest to the coarsest, each is brought to the next coarser
    one and added to it. The mean over the pixels of the coarsest goes through a linear layer.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        widths: tuple[int, ...],
        final_channels: int,
        n_classes: int,
    ) -> None:
        super().__init__()
        widened = [BOTTLENECK_EXPANSION * width for width in widths]
        self.widen = nn.ModuleList(Bottleneck(c, w) for c, w in zip(channels, widths, strict=True))
        self.reduce = nn.ModuleList(
            _conv_norm_relu(a, b, 3, stride=2, bias=True) for a, b in pairwise(widened)
        )
        self.final = _conv_norm_relu(widened[-1], final_channels, 1, bias=True)
        self.classifier = nn.Linear(final_channels, n_classes)

    def forward(self, z: tuple[Tensor, ...]) -> Tensor:
        y = self.widen[0](z[0])
        for reduce, widen, part in zip(self.reduce, self.widen[1:], z[1:], strict=True):
            y = widen(part) + reduce(y)
        scores: Tensor = self.classifier(self.final(y).mean(dim=(2, 3)))
        return scores


def stem(in_channels: int, channels: int, downsamplings: int, *, extra: bool) -> nn.Sequential:
    """Return the layers that turn an image into the injection of f."""
    layers: list[nn.Module] = [
        _conv_norm_relu(in_channels, channels, 3, stride=2 if downsamplings >= 1 else 1),
        _conv_norm_relu(channels, channels, 3, stride=2 if downsamplings >= 2 else 1),
    ]
    if extra:
        layers.append(_conv_norm_relu(channels, channels, 1))
    return nn.Sequential(*layers)


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch normalisations as they are within the context.

    In training, they still normalise by the statistics of the batch.
    """
    norms: list[Any] = [
        m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            with torch.no_grad():
                norm.num_batches_tracked.copy_(count)


def _conv_norm_relu(
    in_channels: int, out: int, kernel_size: int, stride: int = 1, *, bias: bool = False
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out, kernel_size, stride=stride, padding=kernel_size // 2, bias=bias
        ),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )
