"""Multiscale deep equilibrium models (MDEQ) for image classification."""

from .config import CONFIGS, MDEQConfig
from .model import MDEQ, MDEQTransform, Output

__all__ = ["CONFIGS", "MDEQ", "MDEQConfig", "MDEQTransform", "Output"]
