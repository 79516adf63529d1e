"""Labelled images in memory: their file formats, batches, normalisation and augmentation."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...utils.files import reading
from .streaming import SUFFIXES, ImageStream

# Largest shift of an image in augmentation, as a share of its longer side.
# Why: the 4 of 32 pixels that are usual for CIFAR-10 (He et al., 2016, section 4.2).
SHIFT_SHARE = 0.125


@dataclass(frozen=True)
class Images:
    """Labelled images in memory.

    Attributes
    ----------
    pixels : uint8 Tensor of shape (n, channels, height, width)
    labels : int64 Tensor of shape (n,)
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int | None) -> Images:
        """Return the first n images, or all if n is None."""
        if n is not None and n < 1:
            raise ValueError(f"the number of images must be at least 1, got {n}.")
        return self if n is None else Images(self.pixels[:n], self.labels[:n])

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.pixels.shape[1]

    def sample(self) -> Tensor:
        """Return the pixels from which channel statistics are computed: all of them."""
        return self.pixels

    def expect(self, indices: Tensor, seed: int, *, augmented: bool, flip: bool) -> None:
        """Do nothing, since all images are in memory."""

    def training_pixels(
        self, indices: Tensor, seed: int, *, augmented: bool, flip: bool, device: str = "cpu"
    ) -> Tensor:
        """Return images, shifted and mirrored at random (PyTorch's generator) if ``augmented``."""
        pixels = self.pixels[indices].to(device)
        return augment(pixels, flip=flip) if augmented else pixels

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images in order."""
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            yield self.pixels[part], self.labels[part]


def load_images(source: str) -> tuple[Images, Images]:
    """Load a training set and a test set.

    Parameters
    ----------
    source : str
        One of

        - ``"sklearn:digits"``: the 8 x 8 digits that come with scikit-learn, every fifth of which
          is for testing;
        - a ``.npz`` file with ``X_train``, ``y_train``, ``X_test`` and ``y_test``, or
          ``x_train`` and so on as Keras' MNIST has them;
        - a folder of sheets: ``train_*.webp`` and ``test_*.webp``, each of 25 rows of 40 tiles of
          32 x 32 pixels, with ``train_labels.npy`` and ``test_labels.npy``;
        - ``cifar-10-batches-py``, as torchvision downloads it, or the folder that contains it;
        - a folder with ``train/CLASS/*.png`` and ``test/CLASS/*.png`` (also jpg, webp, bmp), all of
          one size. The second may be called ``val``.

    Returns
    -------
    train, test : Images

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If it has none of these formats.
    """
    if source == "sklearn:digits":
        return _digits()
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"there are no images at {source!r}.")
    if path.suffix == ".npz":
        return _npz(path)
    batches = path if path.name == "cifar-10-batches-py" else path / "cifar-10-batches-py"
    if batches.is_dir():
        return _torchvision(batches)
    if list(path.glob("train_*.webp")):
        return _sheets(path, "train"), _sheets(path, "test")
    test = "test" if (path / "test").is_dir() else "val"
    if (path / "train").is_dir() and (path / test).is_dir():
        classes = sorted(p.name for p in (path / "train").iterdir() if p.is_dir())
        return _folder(path / "train", classes), _folder(path / test, classes)
    raise ValueError(
        f"{source!r} holds neither sheets (train_*.webp), nor cifar-10-batches-py, nor the folders "
        "train and test."
    )


def shuffled_batches(
    n: int, batch_size: int, epoch: int, seed: int, rank: int = 0, world_size: int = 1
) -> list[Tensor]:
    """Return the indices of each training batch of an epoch, which depend on the arguments only.

    A last, smaller batch is left out. Each of several processes gets an equal share of each batch.
    """
    if batch_size % world_size:
        raise ValueError(
            f"batch_size must be divisible by the number of processes, got {batch_size} and "
            f"{world_size}."
        )
    if n < batch_size:
        raise ValueError(f"there are {n} images to train on, fewer than batch_size={batch_size}.")
    generator = torch.Generator().manual_seed(seed_of(seed, epoch))
    order = torch.randperm(n, generator=generator)
    share = batch_size // world_size
    starts = range(0, n - batch_size + 1, batch_size)
    return [order[s + rank * share : s + (rank + 1) * share] for s in starts]


@dataclass(frozen=True)
class Normalizer:
    """Scales pixels to mean 0 and standard deviation 1 in each channel.

    Attributes
    ----------
    mean, std : Tensor of shape (channels, 1, 1)
        Of the training set, where pixels go from 0 to 1.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, train: Images | ImageStream) -> Normalizer:
        """Compute mean and standard deviation of the images, or of a sample of a stream."""
        return cls(*channel_statistics(train.sample()))

    @classmethod
    def from_notes(cls, notes: dict[str, list[float]]) -> Normalizer:
        """Read what :meth:`notes` wrote."""
        mean, std = (torch.tensor(notes[name])[:, None, None] for name in ("mean", "std"))
        return cls(mean, std)

    def notes(self) -> dict[str, list[float]]:
        """Return mean and standard deviation in JSON's types, for a checkpoint's notes."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return a float tensor of the shape of ``pixels``."""
        mean, std = self.mean.to(pixels.device), self.std.to(pixels.device)
        return (pixels.float() / 255 - mean) / std


def channel_statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, of shape (channels, 1, 1), of pixels scaled to [0, 1].

    They are computed from the histogram of the 256 values, exactly and without a copy in float.
    """
    channels = [torch.bincount(c.flatten().int(), minlength=256) for c in pixels.unbind(1)]
    counts = torch.stack(channels)
    share = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (share * values).sum(1)
    std = ((share * values**2).sum(1) - mean**2).clamp_min(1e-12).sqrt()
    return mean.float()[:, None, None], std.float()[:, None, None]


def augment(pixels: Tensor, *, flip: bool) -> Tensor:
    """Shift every image by up to an eighth of its size, and mirror half of them if ``flip``."""
    n, _, height, width = pixels.shape
    padding = int(max(height, width) * SHIFT_SHARE)
    padded = torch.nn.functional.pad(pixels, (padding,) * 4)
    shifts = torch.randint(0, 2 * padding + 1, (2, n, 1), device=pixels.device)
    rows = torch.arange(height, device=pixels.device) + shifts[0]
    columns = torch.arange(width, device=pixels.device) + shifts[1]
    if flip:
        mirrored = torch.rand(n, 1, device=pixels.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    sample = torch.arange(n, device=pixels.device)[:, None, None]
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def seed_of(*parts: int) -> int:
    """Return a seed made from some numbers; other numbers give an unrelated one."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _images(pixels: NDArray[Any], labels: NDArray[Any]) -> Images:
    """Return images from pixels of shape (n, height, width) or (n, height, width, channels)."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        raise ValueError(
            "images must be uint8 of shape (n, height, width) or (n, height, width, channels), got "
            f"{pixels.dtype} of shape {pixels.shape}."
        )
    if labels.dtype.kind not in "biu":
        raise ValueError(f"labels of images must be integers, got {labels.dtype}.")
    if labels.shape != pixels.shape[:1]:
        raise ValueError(
            f"there must be one label for each image, got {labels.shape} and {pixels.shape}."
        )
    channels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return Images(
        torch.from_numpy(np.ascontiguousarray(channels)),
        torch.from_numpy(labels.astype(np.int64)),
    )


def _digits() -> tuple[Images, Images]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images * (255 / 16)).astype(np.uint8)
    test = np.arange(len(pixels)) % 5 == 0
    return _images(pixels[~test], bunch.target[~test]), _images(pixels[test], bunch.target[test])


def _npz(path: Path) -> tuple[Images, Images]:
    with (
        reading(path, "an archive of images"),
        path.open("rb") as opened,
        np.load(opened, allow_pickle=False) as file,
    ):
        names = {name.lower(): name for name in file.files}
        wanted = ["x_train", "y_train", "x_test", "y_test"]
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(f"it must hold {', '.join(wanted)}, found {', '.join(file.files)}")
        X_train, y_train, X_test, y_test = (file[names[name]] for name in wanted)
    return _images(_squares(X_train), y_train), _images(_squares(X_test), y_test)


def _squares(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return flattened square grey images as images, and others as they are."""
    side = int(np.sqrt(pixels[0].size))
    if pixels.ndim == 2 and side * side == pixels.shape[1]:
        return pixels.reshape(-1, side, side)
    return pixels


def _sheets(folder: Path, part: str) -> Images:
    tiles = []
    for file in sorted(folder.glob(f"{part}_*.webp")):
        with reading(file, "a sheet of 25 rows of 40 tiles"):
            grid = _pixels(file).reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4)
        tiles.append(grid.reshape(1000, 32, 32, 3))
    path = folder / f"{part}_labels.npy"
    with reading(path, "an array of labels"):
        labels = np.load(path, allow_pickle=False)
    return _images(np.concatenate(tiles), labels)


def _pixels(file: Path) -> NDArray[Any]:
    """Return an image's pixels, of shape (height, width, 3)."""
    from PIL import Image

    with reading(file, "an image"):
        try:
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB"))
        except Image.DecompressionBombError as error:
            raise ValueError(error) from error


def _torchvision(folder: Path) -> tuple[Images, Images]:
    parts = [_cifar_batch(folder / f"data_batch_{i}") for i in range(1, 6)]
    pixels, labels = (np.concatenate(both) for both in zip(*parts, strict=True))
    return _images(pixels, labels), _images(*_cifar_batch(folder / "test_batch"))


def _cifar_batch(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    with reading(file, "a batch of CIFAR-10"):
        content = _ArraysOnly(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        pixels = np.asarray(content[b"data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return pixels, np.asarray(content[b"labels"])


class _ArraysOnly(pickle.Unpickler):
    """Reads the pickles of CIFAR-10, which may refer to NumPy arrays and nothing else."""

    allowed = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise ValueError(f"a file of CIFAR-10 names {module}.{name}, which is not an array.")
        if name == "_reconstruct":  # its module differs between versions of NumPy
            return np.empty(0).__reduce__()[0]
        return super().find_class(module, name)


def _folder(folder: Path, classes: list[str]) -> Images:
    pixels, labels = [], []
    for label, name in enumerate(classes):
        for file in sorted((folder / name).iterdir()):
            if file.suffix.lower() in SUFFIXES:
                pixels.append(_pixels(file))
                labels.append(label)
    if not pixels:
        raise ValueError(f"{folder} holds no images.")
    sizes = {p.shape for p in pixels}
    if len(sizes) > 1:
        raise ValueError(f"the images of {folder} must have one size, got {sorted(sizes)[:2]}, ...")
    return _images(np.stack(pixels), np.asarray(labels))
