"""Bilevel problems: what solvers and hypergradients may ask of the world."""
