"""Training multiscale deep equilibrium classifiers; the command is ``hoag-shine-deq``."""

from .checkpoint import load_checkpoint, save_checkpoint
from .data import Images, load_images
from .loop import Recipe, Trainer

__all__ = ["Images", "Recipe", "Trainer", "load_checkpoint", "load_images", "save_checkpoint"]
