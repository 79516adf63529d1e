"""ShineCV: cross-validated tuning of a linear model's penalty by hypergradients."""

from .shine_cv import ShineCV

__all__ = ["ShineCV"]
