"""Reductions of the data that leave the solutions as they are."""
