"""Plots of a search, in the style of scikit-learn's displays."""

from .curve import ShineCurveDisplay
from .path import ShinePathDisplay, coefficient_path

__all__ = ["ShineCurveDisplay", "ShinePathDisplay", "coefficient_path"]
