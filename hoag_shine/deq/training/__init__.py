"""Training of multiscale DEQ classifiers, also by the command ``hoag-shine-deq``."""

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .data import Images, Normalizer, load_images
from .loop import Recipe, Trainer, evaluate, load_model
from .streaming import ImageStream, stream_images

__all__ = [
    "Checkpoint",
    "ImageStream",
    "Images",
    "Normalizer",
    "Recipe",
    "Trainer",
    "evaluate",
    "load_checkpoint",
    "load_images",
    "load_model",
    "save_checkpoint",
    "stream_images",
]
