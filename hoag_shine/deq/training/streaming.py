"""Labelled images that several threads read from files when they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...utils.files import reading

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}  # of files that are images
# Random crops for training: their share of an image's area, and their ratio of width to height.
# Why: those of Szegedy et al. (2015), *Going deeper with convolutions*, section 6.
CROP_AREAS, CROP_RATIOS = (0.08, 1.0), (3 / 4, 4 / 3)
# Side of the central crop for testing, as a share of the image's shorter side.
# Why: 224 of 256 pixels are usual for ImageNet.
CENTRAL_CROP = 224 / 256
# Draws of a random crop before the central one is taken.
# Why: by judgement; only crops that do not fit into the image are drawn again.
CROP_DRAWS = 10
# Images from which channel statistics are computed.
# Why: by judgement: the error of a mean is about a thirtieth of the images' spread.
STATISTICS_IMAGES = 1000


class ImageStream:
    """Image files of any sizes, whose images are cropped and scaled to one size when they are read.

    At most two batches are in memory: the current one, and the next one, which threads read
    meanwhile.

    Parameters
    ----------
    files : sequence of Path
    labels : int64 Tensor of shape (n,)
    size : int
        Height and width of the images that are returned.
    workers : int, default=4
        Number of threads.
    """

    channels = 3

    def __init__(self, files: list[Path], labels: Tensor, size: int, workers: int = 4) -> None:
        for name, value in {"size": size, "workers": workers}.items():
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
        self.files, self.labels = files, labels
        self.size, self.workers = size, workers
        self._pool: ThreadPoolExecutor | None = None
        self._expected: tuple[Any, list[Future[NDArray[np.uint8]]]] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def first(self, n: int | None) -> ImageStream:
        """Return n images at equal distances, since files are sorted by class; None means all."""
        if n is not None and n < 1:
            raise ValueError(f"the number of images must be at least 1, got {n}.")
        if n is None or n >= len(self):
            return self
        rows = np.linspace(0, len(self) - 1, n).astype(int)
        files = [self.files[i] for i in rows]
        return ImageStream(files, self.labels[torch.from_numpy(rows)], self.size, self.workers)

    def sample(self) -> Tensor:
        """Return the pixels from which channel statistics are computed, of at most 1,000 images."""
        sample = self.first(STATISTICS_IMAGES)
        return sample._collect(sample._submit(range(len(sample))))

    def expect(self, indices: Tensor, seed: int, *, augmented: bool, flip: bool) -> None:
        """Start to read the images that the next call of :meth:`training_pixels` will ask for."""
        key = (seed, augmented, flip)
        self._expected = (key, self._submit(indices.tolist(), *self._crop(*key)))

    def training_pixels(
        self, indices: Tensor, seed: int, *, augmented: bool, flip: bool, device: str = "cpu"
    ) -> Tensor:
        """Return images, of shape (batch, 3, size, size).

        Parameters
        ----------
        indices : Tensor of shape (batch,)
        seed : int
            The crop of an image depends on this and the image's index only.
        augmented : bool
            Whether to take random crops, instead of the central ones.
        flip : bool
            Whether to mirror half of the random crops.
        device : str, default="cpu"
            Device of the result.
        """
        key = (seed, augmented, flip)
        expected, self._expected = self._expected, None
        if expected is None or expected[0] != key:
            return self._collect(self._submit(indices.tolist(), *self._crop(*key))).to(device)
        return self._collect(expected[1]).to(device)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the central crops of all images in order, with their labels."""
        starts = range(0, len(self), batch_size)
        parts = [range(start, min(start + batch_size, len(self))) for start in starts]
        following = self._submit(parts[0]) if parts else []
        for i, part in enumerate(parts):
            current = following
            following = self._submit(parts[i + 1]) if i + 1 < len(parts) else []
            pixels = self._collect(current)
            del current  # the same images once more
            yield pixels, self.labels[part.start : part.stop]

    @staticmethod
    def _crop(seed: int, augmented: bool, flip: bool) -> tuple[int | None, bool]:
        return (seed, flip) if augmented else (None, False)

    def _submit(
        self, indices: Iterable[int], seed: int | None = None, flip: bool = False
    ) -> list[Future[NDArray[np.uint8]]]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers)
        return [
            self._pool.submit(
                _read, self.files[i], self.size, None if seed is None else (seed, i), flip
            )
            for i in indices
        ]

    @staticmethod
    def _collect(images: list[Future[NDArray[np.uint8]]]) -> Tensor:
        pixels = np.stack([image.result() for image in images])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def stream_images(source: str, size: int, workers: int = 4) -> tuple[ImageStream, ImageStream]:
    """Find the images of a folder, which are then read when they are needed.

    Parameters
    ----------
    source : str
        A folder with ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg`` (also jpeg, png, webp, bmp), as
        ImageNet has it. The second may be called ``val``.
    size : int
        Height and width that images are scaled to.
    workers : int, default=4
        Number of threads that read.

    Returns
    -------
    train, test : ImageStream

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If one of its parts holds no images.
    """
    folder = Path(source)
    test = "test" if (folder / "test").is_dir() else "val"
    for part in ("train", test):
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"there is no folder {part!r} in {source!r}.")
    classes = sorted(p.name for p in (folder / "train").iterdir() if p.is_dir())
    parts = [_labelled(folder / part, classes) for part in ("train", test)]
    train_set, test_set = (ImageStream(*part, size, workers) for part in parts)
    return train_set, test_set


def _labelled(folder: Path, classes: list[str]) -> tuple[list[Path], Tensor]:
    files, labels = [], []
    for label, name in enumerate(classes):
        place = folder / name
        found = sorted(place.iterdir()) if place.is_dir() else []
        images = [file for file in found if file.suffix.lower() in SUFFIXES]
        files += images
        labels += [label] * len(images)
    if not files:
        raise ValueError(f"{folder} holds no images.")
    return files, torch.tensor(labels, dtype=torch.int64)


def _read(file: Path, size: int, seed: tuple[int, int] | None, flip: bool) -> NDArray[np.uint8]:
    """Return a crop of an image, of shape (size, size, 3): random, or central if seed is None."""
    from PIL import Image

    with reading(file, "an image"):
        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
        except Image.DecompressionBombError as error:
            raise ValueError(error) from error
    rng = None if seed is None else np.random.default_rng(seed)
    box = _central_crop(*image.size) if rng is None else _random_crop(*image.size, rng)
    # With a reducing gap, Pillow first reduces large images by an integer factor, which is faster.
    crop = image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    pixels = np.asarray(crop)
    mirrored = flip and rng is not None and rng.random() < 0.5
    return pixels[:, ::-1] if mirrored else pixels


def _central_crop(width: int, height: int) -> tuple[float, float, float, float]:
    side = CENTRAL_CROP * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random_crop(
    width: int, height: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    for _ in range(CROP_DRAWS):
        area = width * height * rng.uniform(*CROP_AREAS)
        ratio = np.exp(rng.uniform(*np.log(CROP_RATIOS)))
        w, h = float(np.sqrt(area * ratio)), float(np.sqrt(area / ratio))
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    return _central_crop(width, height)
