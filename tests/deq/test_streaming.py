"""Images that are read from a folder when they are needed."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from hoag_shine.deq.training import load_checkpoint, stream_images, streaming
from hoag_shine.deq.training.cli import main

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture
def folder(tmp_path):
    """Photographs of one colour each, of all kinds of sizes, in the folders of their classes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        for name, colour in COLOURS.items():
            place = tmp_path / "images" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                size = tuple(int(side) for side in rng.integers(10, 60, 2))
                suffix = ("png", "jpg", "webp")[i % 3]
                Image.new("RGB", size, colour).save(place / f"{i}.{suffix}")
            (place / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_images_of_any_size_come_in_one(folder):
    train, test = stream_images(str(folder), 8)
    assert (len(train), len(test), train.channels) == (36, 12, 3)
    batches = list(test.batches(5))
    assert [len(labels) for _, labels in batches] == [5, 5, 2]
    pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert pixels.shape == (12, 3, 8, 8)
    expected = torch.tensor(list(COLOURS.values()))[labels][:, :, None, None]
    assert (pixels.int() - expected).abs().max() < 12  # what is left of lossy formats
    few = train.first(6)
    assert few.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_beside_a_batch_no_more_than_the_next_is_in_memory(folder, monkeypatch):
    read, images = streaming._read, []

    def noted(*arguments):
        image = read(*arguments).copy()
        images.append(weakref.ref(image))
        return image

    def in_memory():
        return sum(image() is not None for image in images)

    monkeypatch.setattr(streaming, "_read", noted)
    train, _ = stream_images(str(folder), 8, workers=1)
    # A thread may still hold the image that it has read last.
    assert all(in_memory() <= 4 + 1 for _ in train.batches(4))
    assert len(images) == 36
    options = {"augmented": True, "flip": True}
    for seed in range(4):
        train.training_pixels(torch.arange(4), seed, **options)
        assert in_memory() <= 1
        train.expect(torch.arange(4), seed + 1, **options)


def test_parts_are_a_function_of_the_seed_whoever_reads_first(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "slope").mkdir(parents=True)
        slope = np.linspace(0, 255, 64).astype(np.uint8)
        image = np.stack([np.tile(slope, (48, 1))] * 3, axis=2)
        for i in range(6):
            Image.fromarray(image).save(tmp_path / part / "slope" / f"{i}.png")
    train, test = stream_images(str(tmp_path), 16, workers=2)
    indices, how = torch.tensor([4, 0, 2, 1]), {"augmented": True, "flip": True}
    first = train.training_pixels(indices, 7, **how)
    train.expect(indices, 7, **how)
    assert torch.equal(train.training_pixels(indices, 7, **how), first)
    train.expect(indices, 8, **how)  # of another step: not taken
    assert torch.equal(train.training_pixels(indices, 7, **how), first)
    assert not torch.equal(train.training_pixels(indices, 8, **how), first)
    widths = [int(image[0].max()) - int(image[0].min()) for image in first]
    assert len(set(widths)) > 1  # parts of several sizes
    many = torch.cat([train.training_pixels(indices, seed, **how) for seed in range(8)])
    rising = [bool(image[0, 0, -1] > image[0, 0, 0]) for image in many]
    assert 4 < sum(rising) < 28  # about half of 32 are mirrored
    middle = train.training_pixels(indices, 7, augmented=False, flip=True)
    assert torch.equal(middle[0], next(test.batches(1))[0][0])


def test_training_from_a_folder_takes_up_where_it_was(folder, tmp_path):
    def trained(name, *options):
        run = tmp_path / name
        arguments = ["train", "--data", str(folder), "--output", str(run), "--image-size", "8"]
        arguments += ["--batch-size", "6", "--pretrain-steps", "0", "--max-iter", "4", "--epochs"]
        arguments += ["1", "--no-tensorboard", "--device", "cpu", "--workers", "2", *options]
        assert main(arguments) == 0
        return load_checkpoint(run / "checkpoints")

    whole = trained("whole", "--checkpoint-every", "2")
    for file in (tmp_path / "whole" / "checkpoints").glob("*6.json"):
        file.unlink()
    again = trained("whole", "--resume", "--eval-batch-size", "5")
    assert whole.tensors.keys() == again.tensors.keys()
    assert all(torch.equal(whole.tensors[name], again.tensors[name]) for name in whole.tensors)


def test_what_is_not_there_or_damaged_is_told(folder):
    with pytest.raises(FileNotFoundError, match="no folder 'train'"):
        stream_images(str(folder / "train"), 8)
    with pytest.raises(ValueError, match="size must be an integer of at least 1, got 0"):
        stream_images(str(folder), 0)
    (folder / "val" / "red" / "0.png").write_bytes(b"no image")
    _, test = stream_images(str(folder), 8)
    with pytest.raises(ValueError, match=r"red/0\.png' is not an image"):
        list(test.batches(4))
