"""Dask's arrays and data frames as blocks of rows. Nothing here imports Dask before it is used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from copy import copy
from importlib import import_module
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..utils.validation import in_memory
from .row_blocks import is_small
from .streams import as_csr


class DaskBlocks:
    """The rows of a Dask array or data frame, computed block by block, again in every pass.

    A chunk of rows is a block. Chunks of columns are put side by side. Chunks of unknown sizes are
    computed once, for their sizes.

    Parameters
    ----------
    X : dask.array.Array or dask.dataframe.DataFrame
        Chunks of an array are ndarrays or sparse matrices; columns of a frame are numeric.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
        float32 is kept; columns of a frame have one type, float32 if all have it, else float64.
    feature_names : list of str or None
        Those of a frame.
    blocks : list of Delayed
        The chunks that have rows, each with its own part of the graph alone.
    edges : list of int
        Where the blocks begin among the rows, and the number of all rows.
    """

    def __init__(self, X: Any) -> None:
        framed = _is_frame(X)
        names = list(X.columns) if framed else []
        # scikit-learn's names are words, or there are none.
        worded = framed and all(isinstance(name, str) for name in names)
        self.feature_names = names if worded else None
        self.dtype = _frame_type(X) if framed else np.dtype(X.dtype)
        blocks = _blocks(X, self.dtype)
        shapes = _known_shapes(X) or _computed_shapes(blocks)
        used = [i for i, (n_rows, _) in enumerate(shapes) if n_rows]
        self.blocks = [blocks[i] for i in used]
        self.edges = [*accumulate((shapes[i][0] for i in used), initial=0)]
        self.shape = self.edges[-1], shapes[0][1] if shapes else 0

    def row_blocks(self) -> Iterator[Any]:
        """Compute the rows in blocks.

        Yields
        ------
        block : ndarray or CSR matrix of shape (n, n_columns)
        """
        for block in self.blocks:
            yield block.compute()

    def first_rows(self, n: int) -> Any:
        """Compute a few rows, of the first block."""
        return _dask().delayed(_first)(self.blocks[0], n).compute()

    def mapped(
        self,
        function: Callable[[Any], Any],
        n_columns: int,
        dtype: Any,
        feature_names: list[str] | None,
    ) -> DaskBlocks:
        """Return blocks that a function makes of these, each by itself; see ``MappedBlocks``."""
        twin, change = copy(self), _dask().delayed(function, pure=False)
        twin.blocks = [change(block) for block in self.blocks]
        twin.shape, twin.dtype = (self.shape[0], n_columns), np.dtype(dtype)
        twin.feature_names = feature_names
        return twin


def blocks_or_memory(X: Any) -> Any:
    """Return a large Dask collection as blocks, a small one in memory; anything else as it is.

    A frame with columns that are no numbers goes to memory, too: it needs a pipeline.
    """
    if not _is_collection(X):
        return in_memory(X)
    if _is_frame(X):
        numeric = all(isinstance(t, np.dtype) and t.kind in "biuf" for t in X.dtypes)
    else:
        numeric = X.ndim == 2 and X.dtype.kind in "biuf"
    if not numeric:
        return in_memory(X)
    source = DaskBlocks(X)
    if not is_small(source.shape[0] * source.shape[1] * source.dtype.itemsize):
        return source
    if _is_frame(X):  # with its index and its names
        return in_memory(X)
    blocks = _dask().compute(*source.blocks)
    return _stacked(blocks) if blocks else in_memory(X)


def current_client() -> Any:
    """Return the client of a cluster that Dask uses at present, or None."""
    distributed = sys.modules.get("distributed")
    if distributed is None:  # whoever has a client has imported it
        return None
    try:
        client = distributed.Client.current()
    except ValueError:
        return None
    return None if client.asynchronous else client


def _dask() -> Any:
    return import_module("dask")


def _is_collection(X: Any) -> bool:
    """Whether this is an array or a data frame of Dask."""
    own = type(X).__module__.partition(".")[0] in ("dask", "dask_expr")
    return own and hasattr(X, "to_delayed") and (hasattr(X, "chunks") or _is_frame(X))


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "dtypes")


def _frame_type(X: Any) -> np.dtype[Any]:
    single = all(kind == np.float32 for kind in X.dtypes)
    return np.dtype(np.float32 if single else np.float64)


def _blocks(X: Any, dtype: Any) -> list[Any]:
    """Return the blocks, each of which knows no more of the graph than it needs."""
    delayed = import_module("dask.delayed")
    cull = import_module("dask.optimization").cull
    # To optimise an array that has been persisted would lose its chunks.
    found = X.to_delayed() if _is_frame(X) else X.to_delayed(optimize_graph=False)
    parts = np.asarray(found, dtype=object)
    if not parts.size:
        return []
    graph = dict(parts.flat[0].__dask_graph__())

    def alone(part: Any) -> Any:
        own = graph if part.key in graph else dict(part.__dask_graph__())
        return delayed.Delayed(part.key, cull(own, [part.key])[0])

    joined = delayed.delayed(_beside, pure=True)
    return [joined(dtype, *map(alone, row)) for row in parts.reshape(len(parts), -1)]


def _beside(dtype: Any, *chunks: Any) -> Any:
    """Return chunks of the same rows, side by side, as an ndarray or a CSR matrix."""
    arrays = [_numbers(chunk, dtype) for chunk in chunks]
    if len(arrays) == 1:
        return arrays[0]
    if any(map(sparse.issparse, arrays)):
        return sparse.hstack(arrays, format="csr")
    return np.hstack(arrays)


def _numbers(chunk: Any, dtype: Any) -> Any:
    if sparse.issparse(chunk):
        return as_csr(chunk)
    if hasattr(chunk, "to_numpy"):  # of a frame
        return chunk.to_numpy(dtype=dtype)
    return np.asarray(chunk)


def _stacked(blocks: tuple[Any, ...]) -> Any:
    if any(map(sparse.issparse, blocks)):
        return sparse.vstack(blocks, format="csr")
    stacked: NDArray[Any] = np.concatenate(blocks)
    return stacked


def _known_shapes(X: Any) -> list[tuple[int, int]] | None:
    """Return the shapes of the blocks if the collection knows them."""
    if _is_frame(X):
        return None
    rows, columns = X.chunks
    if np.isnan(sum(rows)) or np.isnan(sum(columns)):
        return None
    return [(int(n), int(sum(columns))) for n in rows]


def _computed_shapes(blocks: list[Any]) -> list[tuple[int, int]]:
    shape = _dask().delayed(_shape, pure=True)
    return list(_dask().compute(*map(shape, blocks)))


def _first(block: Any, n: int) -> Any:
    return block[:n]


def _shape(block: Any) -> tuple[int, int]:
    n_rows, n_columns = block.shape
    return int(n_rows), int(n_columns)
