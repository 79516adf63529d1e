"""Penalties: one class for each, and how hyperparameters weigh them."""

from __future__ import annotations

from .base import Penalty
from .grouped import GroupedPenalty
from .l2 import L2

__all__ = ["L2", "GroupedPenalty", "Penalty"]
