"""The multiscale DEQ for classification of Bai, Koltun and Kolter (2020)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backward import implicit
from ..info import Info
from ..layer import DEQ
from ..regularization import jacobian_penalty
from .config import MDEQConfig
from .layers import Fuse, Head, ResidualBlock, WeightNormConv2d, frozen_statistics, stem

# Standard deviation of the initial weights of convolutions.
# Why: that of the published models.
INITIAL_STD = 0.01


class Fixed(NamedTuple):
    """The inputs of f that are computed or drawn once per solve.

    Attributes
    ----------
    block_weights : tuple of pairs of Tensor
        Normalised weights of the residual block of each resolution.
    post_weights : tuple of Tensor
        Normalised weights of the last convolution of each resolution.
    masks : tuple of Tensor or None
        Dropout masks, whose entries are 0 or 1 / (1 - p).
    """

    block_weights: tuple[tuple[Tensor, Tensor], ...]
    post_weights: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]


class Output(NamedTuple):
    """The output of the model.

    Attributes
    ----------
    scores : Tensor of shape (batch, n_classes)
        Before the softmax.
    info : Info or None
        Diagnostics of the solve; None in the pretraining phase, which solves nothing.
    penalty : Tensor of shape () or None
        :func:`~hoag_shine.deq.jacobian_penalty` at the fixed point, if asked for.
    """

    scores: Tensor
    info: Info | None
    penalty: Tensor | None = None


class MDEQTransform(nn.Module):
    """The f of a multiscale DEQ: a residual block for each resolution, then multiscale fusion."""

    def __init__(self, config: MDEQConfig) -> None:
        super().__init__()
        channels, groups = config.channels, config.groups
        self.channels = channels
        self.dropout = config.dropout
        self.blocks = nn.ModuleList(ResidualBlock(c, config.expansion, groups) for c in channels)
        pairs = [(s, t) for t in range(len(channels)) for s in range(len(channels)) if s != t]
        self.fuse = nn.ModuleDict({f"{s}to{t}": Fuse(channels, s, t, groups) for s, t in pairs})
        self.post = nn.ModuleList(WeightNormConv2d(c, c, 1) for c in channels)
        self.post_norms = nn.ModuleList(
            nn.GroupNorm(groups // 2, c, affine=config.post_affine) for c in channels
        )

    def zeros(self, injection: Tensor) -> tuple[Tensor, ...]:
        """Return a state of zeros for an injection of shape (batch, channels, height, width)."""
        # Under autocast the injection has a lower precision than the state should have.
        dtype = torch.promote_types(injection.dtype, torch.float32)
        finest = torch.zeros_like(injection, dtype=dtype)  # in the same memory format
        state = []
        for level, channels in enumerate(self.channels):
            scale = 2**level
            part = finest[:, :1, ::scale, ::scale].expand(-1, channels, -1, -1)
            state.append(torch.zeros_like(part, memory_format=_memory_format(finest)))
        return tuple(state)

    def fix(self, state: tuple[Tensor, ...]) -> Fixed:
        """Draw the dropout masks and normalise the weights for one solve."""
        return Fixed(
            tuple((b.conv1.weight(), b.conv2.weight()) for b in self.blocks),  # type: ignore[union-attr,operator]
            tuple(conv.weight() for conv in self.post),  # type: ignore[operator]
            tuple(self._mask(z) for z in state),
        )

    def _mask(self, z: Tensor) -> Tensor | None:
        if self.dropout == 0 or not self.training:
            return None
        keep = 1 - self.dropout
        return torch.empty_like(z).bernoulli_(keep).div_(keep)

    def forward(self, z: tuple[Tensor, ...], injection: Tensor, fixed: Fixed) -> tuple[Tensor, ...]:
        injections = [injection] + [None] * (len(z) - 1)
        parts = zip(self.blocks, z, fixed.block_weights, fixed.masks, injections, strict=True)
        blocks = [block(*arguments) for block, *arguments in parts]
        return tuple(self._fused(blocks, target, fixed) for target in range(len(blocks)))

    def _fused(self, blocks: list[Tensor], target: int, fixed: Fixed) -> Tensor:
        out = blocks[target]
        for source, block in enumerate(blocks):
            if source != target:
                out = out + self.fuse[f"{source}to{target}"](block)
        out = self.post[target](out.relu(), fixed.post_weights[target])
        normed: Tensor = self.post_norms[target](out)
        return normed


class MDEQ(nn.Module):
    r"""A multiscale deep equilibrium classifier.

    Parameters
    ----------
    config : MDEQConfig
        For instance ``CONFIGS["cifar10-tiny"]``.
    **options
        Options of :class:`~hoag_shine.deq.DEQ`, which override those of ``config``.

    Notes
    -----
    The state has a tensor for each resolution. Only the finest gets the image, as an injection.

    References
    ----------
    Bai, Koltun and Kolter (2020), *Multiscale deep equilibrium models*.
    """

    def __init__(self, config: MDEQConfig, **options: Any) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        extra = config.downsamplings > 0 or len(channels) > 2
        self.stem = stem(config.in_channels, channels[0], config.downsamplings, extra=extra)
        defaults = {"max_iter": config.max_iter, "tol": config.tol, "stop": config.stop}
        options = defaults | options
        if options.get("backward") in ("implicit", implicit):
            options["backward"] = partial(implicit, max_iter=config.backward_max_iter)
        self.deq = DEQ(MDEQTransform(config), **options)
        self.head = Head(channels, config.head_channels, config.final_channels, config.n_classes)
        self.apply(_initialise)

    @property
    def transform(self) -> MDEQTransform:
        """The f of the fixed point."""
        f = self.deq.f
        assert isinstance(f, MDEQTransform)
        return f

    def forward(
        self,
        images: Tensor,
        *,
        unroll: int = 0,
        outer_loss: Callable[[Tensor], Tensor] | None = None,
        penalty: bool = False,
        measure: bool = False,
    ) -> Output:
        """Classify images.

        Parameters
        ----------
        images : Tensor of shape (batch, in_channels, height, width)
            If they are halved k times, height and width must be divisible by :math:`2^k`.
        unroll : int, default=0
            If positive, take this number of steps of f from zero, recorded by autograd, instead of
            solving, as in the pretraining phase.
        outer_loss : callable, optional
            Maps scores to the loss, summed over samples, for the outer-problem awareness of
            ``solver="adjoint-broyden"``; other solvers refuse it.
        penalty : bool, default=False
            Whether to compute the Jacobian penalty as well.
        measure : bool, default=False
            As in :func:`~hoag_shine.deq.fixed_point`.

        Returns
        -------
        output : Output
        """
        z0, injection, fixed = self.problem(images)
        if unroll:
            z = z0
            for _ in range(unroll):
                z = self.transform(z, injection, fixed)
            return Output(self.head(z), None)
        outer_grad = None if outer_loss is None else partial(self._outer_grad, outer_loss)
        z, info = self.deq(z0, injection, fixed, outer_grad=outer_grad, measure=measure)
        term = jacobian_penalty(self.transform, z, injection, fixed) if penalty else None
        return Output(self.head(z), info, term)

    def problem(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Fixed]:
        """Return z0 and the inputs of f, ``injection`` and ``fixed``, for a batch of images."""
        self._check(images)
        injection = self.stem(images)
        z0 = self.transform.zeros(injection)
        return z0, injection, self.transform.fix(z0)

    def _outer_grad(
        self, outer_loss: Callable[[Tensor], Tensor], z: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        leaves = tuple(part.detach().requires_grad_() for part in z)
        with frozen_statistics(self.head):
            loss = outer_loss(self.head(leaves))
        return torch.autograd.grad(loss, leaves)

    def _check(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] != self.config.in_channels:
            raise ValueError(
                f"images must have shape (batch, {self.config.in_channels}, height, width), got "
                f"{tuple(images.shape)}."
            )
        halvings = self.config.downsamplings + len(self.config.channels) - 1
        if images.shape[2] % 2**halvings or images.shape[3] % 2**halvings:
            raise ValueError(
                f"the sides of images must be divisible by {2**halvings}, got "
                f"{tuple(images.shape[2:])}."
            )


def _memory_format(x: Tensor) -> torch.memory_format:
    if x.is_contiguous():
        return torch.contiguous_format
    return torch.channels_last


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=INITIAL_STD)
        if module.bias is not None:
            nn.init.normal_(module.bias, std=INITIAL_STD)
