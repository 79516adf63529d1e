"""Where metadata passed to ``fit`` go: to the model, the transformers, the splitter or the scorer.

If scikit-learn's metadata routing is enabled, the requests of each object decide. If not,
``sample_weight`` goes to the linear model and the scorer, ``groups`` to the splitter, and a name
with the prefix of a step to that step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from sklearn import get_config
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing

from ..utils.warn import warn
from .pipelines import PipelineParts


@dataclass(frozen=True)
class Routed:
    """Metadata by their destination."""

    weight: Any = None
    transform: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, Any] = field(default_factory=dict)
    score: Mapping[str, Any] = field(default_factory=dict)


def routing_enabled() -> bool:
    """Whether scikit-learn routes metadata by requests."""
    return bool(get_config().get("enable_metadata_routing", False))


def router(search: Any, scorer: Any) -> MetadataRouter:
    """Return which object :class:`ShineCV` passes which metadata to."""
    scored = MethodMapping().add(caller="score", callee="score")
    if search.scoring is not None:
        scored.add(caller="fit", callee="score")
    return (
        MetadataRouter(owner=search)
        .add(
            estimator=search.estimator,
            method_mapping=MethodMapping().add(caller="fit", callee="fit"),
        )
        .add(scorer=scorer, method_mapping=scored)
        .add(splitter=search.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
    )


def route(search: Any, scorer: Any, sample_weight: Any, groups: Any, params: Any) -> Routed:
    """Return the metadata of ``fit`` by their destination."""
    chain = PipelineParts(search.estimator)
    if routing_enabled():
        named = {"sample_weight": sample_weight, "groups": groups}
        given = {name: value for name, value in named.items() if value is not None}
        routed = process_routing(search, "fit", **given, **params)
        weight, transform = _by_request(chain, routed.estimator.fit)
        return Routed(weight, transform, routed.splitter.split, routed.scorer.get("score", {}))
    weight, transform = _by_prefix(chain, sample_weight, params)
    score = {}
    if weight is not None and _takes_weights(scorer):
        score["sample_weight"] = weight
    if weight is not None and search.scoring is not None:
        _warn_of_missing_weights(scorer, search.scoring)
    return Routed(weight, transform, {"groups": groups}, score)


def _warn_of_missing_weights(scorer: Any, scoring: Any) -> None:
    """Warn of scores that are computed without weights."""
    several = getattr(scorer, "_scorers", {})
    every = _takes_weights(scorer)
    without = [name for name, one in several.items() if not (every and _takes_weights(one))]
    if without or not every:
        names = ", ".join(map(repr, without)) or f"{scoring!r}"
        warn(
            f"scoring={names} does not take sample_weight: its scores are of rows without "
            "weights, unlike the criterion."
        )


def _takes_weights(scorer: Any) -> bool:
    """Whether a scorer takes ``sample_weight``; of several, one does, and none is a function."""
    several = getattr(scorer, "_scorers", {}).values()
    if several:
        # scikit-learn cannot tell whether a function among several takes weights.
        known = all(hasattr(one, "_accept_sample_weight") for one in several)
        return known and any(map(_takes_weights, several))
    if hasattr(scorer, "_accept_sample_weight"):
        return bool(scorer._accept_sample_weight())
    return "sample_weight" in signature(scorer).parameters


def _by_request(chain: PipelineParts, params: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what a pipeline that is fitted with ``params`` gives to its model and the others."""
    transform: dict[str, Any] = {}
    if chain.outer is not None:
        consumed = (
            chain.transformers()
            .get_metadata_routing()
            .consumes(method="fit_transform", params=params.keys())
        )
        transform = {name: params[name] for name in consumed}
    estimator = chain.estimator
    while estimator is not chain.model:
        routed = process_routing(estimator, "fit", **params)
        name, last = "regressor", getattr(estimator, "regressor", None)
        if isinstance(estimator, Pipeline):
            name, last = estimator.steps[-1]
        params, estimator = routed[name].fit, last
    return params.get("sample_weight"), transform


def _by_prefix(
    chain: PipelineParts, weight: Any, params: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    own = f"{chain.prefix}sample_weight"
    transform = {name: value for name, value in params.items() if name != own}
    foreign = [
        name
        for name in transform
        if chain.outer is None or "__" not in name or name.startswith(chain.prefix)
    ]
    if foreign:
        expected = f"'{chain.prefix}sample_weight' or a transformer's name and parameter"
        raise TypeError(
            f"fit() got unexpected metadata {foreign}"
            + (f": expected {expected}." if chain.outer is not None else ".")
        )
    if chain.prefix and own in params:
        if weight is not None:
            raise ValueError(f"sample_weight and {own} are the same: pass one of them.")
        weight = params[own]
    return weight, transform
