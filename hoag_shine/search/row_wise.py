"""Pipelines over an X that is read in blocks: their transformers are applied block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import get_tags

from ..linalg.dask_blocks import DaskBlocks
from ..linalg.row_blocks import MappedBlocks, RowBlocks
from ..linalg.streams import as_csr
from .pipelines import Fitted, PipelineParts

# Rows that transformers are tried with.
# Why: by judgement: enough to see what depends on the rows beside, and nothing to compute.
N_ROWS_TRIED = 256
# Share by which a row may come out otherwise beside other rows.
# Why: rounding of single precision; what depends on other rows differs by more.
ROW_TOLERANCE = 1e-4


def check_row_wise(chain: PipelineParts) -> None:
    """Raise for a transformer that has to see all rows before it can transform one.

    scikit-learn's tag ``requires_fit`` tells them apart: where it is false, ``transform`` uses the
    transformer's parameters and nothing that ``fit`` has learnt from X or y. All folds then share
    the transformed rows, and a block of them can be made again in each pass, anywhere. The tag does
    not say that a row comes out alike whatever rows are beside it; that is tried on the first rows.
    """
    for stage in (chain.outer, chain.inner):
        for step in [] if stage is None else _transformers(stage.steps[:-1]):
            if get_tags(step).requires_fit:
                raise ValueError(
                    "X is read in blocks of rows, and a pipeline's step "
                    f"{type(step).__name__} would have to see all of them at once: transform X "
                    "block by block before, and pass the linear model alone, or keep to steps that "
                    "learn nothing, such as Normalizer or FunctionTransformer."
                )


def _transformers(steps: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Yield the transformers among steps, and those that they are made of."""
    for _, step, *_ in steps:
        if isinstance(step, Pipeline):
            yield from _transformers(step.steps)
        elif isinstance(step, FeatureUnion):
            yield from _transformers(step.transformer_list)
        elif isinstance(step, ColumnTransformer):
            yield from _transformers(step.transformers)
        elif step is not None and not isinstance(step, str):  # neither passed through nor dropped
            yield step


def transformed(chain: PipelineParts, source: RowBlocks) -> tuple[RowBlocks, Fitted]:
    """Return blocks that a pipeline's transformers have made, and these, fitted to a few rows.

    Where the blocks have names of columns, transformers get data frames, as they do in memory.

    Raises
    ------
    ValueError
        If a row comes out otherwise beside other rows.
    RuntimeError
        If the first rows cannot be read.
    """
    names = getattr(source, "feature_names", None)
    rows = _with_names(names, _first_rows(source))
    outer, inner = chain.transformers("outer"), chain.transformers("inner")
    out = rows
    for pipeline in (outer, inner):
        out = out if pipeline is None else pipeline.fit_transform(out)
    fitted = Fitted(chain, outer, None, inner)
    function = partial(_transform, fitted, names)
    out_names = list(out.columns) if hasattr(out, "columns") else None
    out = _numbers(out)
    _check_rows(fitted, rows, out)
    made = (function, out.shape[1], out.dtype, out_names)
    if isinstance(source, DaskBlocks):
        return source.mapped(*made), fitted
    return MappedBlocks(source, *made), fitted


def _transform(fitted: Fitted, names: Sequence[str] | None, block: Any) -> Any:
    return fitted.transform(_with_names(names, block))


def _with_names(names: Sequence[str] | None, block: Any) -> Any:
    """Return a block as a data frame if its columns have names."""
    if names is None:
        return as_csr(block) if sparse.issparse(block) else block
    try:
        pandas = import_module("pandas")
    except ImportError:
        raise ImportError(
            "X has names of columns, and a pipeline gets them in a data frame of pandas: install "
            "it, or pass X without names."
        ) from None
    return pandas.DataFrame(block, columns=list(names), copy=False)


def _first_rows(source: RowBlocks) -> Any:
    try:
        if isinstance(source, DaskBlocks):
            return source.first_rows(N_ROWS_TRIED)
        for block in source.row_blocks():
            if block.shape[0]:
                block = as_csr(block) if sparse.issparse(block) else block
                return block[:N_ROWS_TRIED]
    except MemoryError:
        raise
    except Exception as error:
        raise RuntimeError(f"X could not be read beyond row 0: {error}") from error
    raise RuntimeError(f"X ended after 0 of {source.shape[0]} rows.")


def _numbers(out: Any) -> Any:
    return out if sparse.issparse(out) else np.asarray(out)


def _check_rows(fitted: Fitted, rows: Any, out: Any) -> None:
    """Raise unless each row comes out by itself as it does beside the others."""
    n, middle = rows.shape[0], rows.shape[0] // 3
    first, rest = _part(rows, slice(middle)), _part(rows, slice(middle, n))
    parts = [_numbers(fitted.transform(part)) for part in (first, rest) if part.shape[0]]
    alike = out.ndim == 2 and all(part.shape[1:] == out.shape[1:] for part in parts)
    if alike and sum(part.shape[0] for part in parts) == out.shape[0] == n:
        own, together = np.concatenate([_dense(part) for part in parts]), _dense(out)
        if np.allclose(own, together, rtol=ROW_TOLERANCE, atol=0.0, equal_nan=True):
            return
    raise ValueError(
        "X is read in blocks of rows, and the pipeline makes something else of a row where others "
        "are beside it: transform X before, and pass the linear model alone."
    )


def _part(rows: Any, part: slice) -> Any:
    return rows.iloc[part] if hasattr(rows, "iloc") else rows[part]


def _dense(out: Any) -> Any:
    return as_csr(out).toarray() if sparse.issparse(out) else out
