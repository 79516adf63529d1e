r"""Step rules: which hyperparameters to look at next, and how closely.

A rule is a generator. It yields an :class:`~hoag_shine.outer.steps.Ask` and is sent the
:class:`~hoag_shine.outer.steps.Evaluation` taken there; when it has seen enough it returns an
:class:`~hoag_shine.Outcome`. Asking again for the theta just evaluated, with a smaller
``accuracy``, continues the inner solves where they stand.
"""

from __future__ import annotations

from collections.abc import Callable

from ...utils.validation import shown
from .adaptive import adaptive
from .base import RELIABLE_RESIDUAL, Ask, Evaluation, Outcome, StepRule
from .certificate import Certificate, certify
from .global_search import global_search
from .one_standard_error import one_standard_error
from .secant import secant
from .separate import separate
from .trust_region import trust_region

__all__ = [
    "RELIABLE_RESIDUAL",
    "RULES",
    "Ask",
    "Certificate",
    "Evaluation",
    "Outcome",
    "RuleMaker",
    "StepRule",
    "adaptive",
    "certify",
    "global_search",
    "one_standard_error",
    "resolve_step",
    "secant",
    "separate",
    "trust_region",
]

# Called as ``make(theta, lower, upper, tol, **options)``; all take the option ``first_step``.
RuleMaker = Callable[..., StepRule]

RULES: dict[str, RuleMaker] = {
    "adaptive": adaptive,
    "global": global_search,
    "secant": secant,
    "trust-region": trust_region,
}


def resolve_step(step: str | RuleMaker, n_hyperparameters: int) -> RuleMaker:
    """Return the step rule of that name, or the callable itself.

    ``"auto"`` chooses by the number of hyperparameters.
    """
    if callable(step):
        return step
    if isinstance(step, str) and step == "auto":
        return global_search if n_hyperparameters == 1 else trust_region
    if not isinstance(step, str) or step not in RULES:
        raise ValueError(
            f"step must be 'auto', one of {sorted(RULES)} or a callable, got {shown(step)}."
        )
    if step in ("secant", "global") and n_hyperparameters > 1:
        raise ValueError(
            f"step={step!r} tunes one hyperparameter and the problem has {n_hyperparameters}; "
            "use step='trust-region'."
        )
    return RULES[step]
