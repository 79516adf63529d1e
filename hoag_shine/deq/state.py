"""States as solvers see them: nested tuples and dicts of tensors, flattened to (batch, n).

:class:`Layout` says where each tensor of a state lies in that matrix, and :class:`FlatMap` is f as
a function of such matrices, with its vector-Jacobian products.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .execution import in_torch_func
from .solve_cache import caching_in

State: TypeAlias = Any
"""A tensor, or a tuple, list or dict of states; the first dimension of every tensor is the batch,
unless all of them are one problem (``batch_dims=0``)."""


def check_batch_dims(batch_dims: int) -> None:
    """Raise a ValueError unless ``batch_dims`` is 0 or 1."""
    if isinstance(batch_dims, bool) or batch_dims not in (0, 1):
        raise ValueError(
            "batch_dims must be 1 (the first dimension is the batch) or 0 (the whole state is "
            f"one problem), got {batch_dims!r}."
        )


@dataclass(frozen=True)
class Layout:
    """How a state lies in a matrix of shape (batch, n).

    Attributes
    ----------
    structure : nested tuples, lists and dicts of int
        The state with the index of a leaf in place of each tensor.
    shapes : tuple of torch.Size
        Of the leaves.
    channels_last : tuple of bool
        Whether a leaf is in PyTorch's ``channels_last`` memory format, which is kept.
    leaf_dtype, dtype : torch.dtype
        Of the tensors that f gets, and of the matrix.
    device : torch.device
    batch_dims : {0, 1}
        Number of leading dimensions that belong to the batch.
    """

    structure: Any
    shapes: tuple[torch.Size, ...]
    channels_last: tuple[bool, ...]
    leaf_dtype: torch.dtype
    dtype: torch.dtype
    device: torch.device
    batch_dims: int = 1

    @classmethod
    def of(cls, z0: State, dtype: torch.dtype | None = None, batch_dims: int = 1) -> Layout:
        """Read the layout off an initial state.

        Parameters
        ----------
        z0 : state
        dtype : {torch.float32, torch.float64}, optional
            Of the matrix, by default that of the state, or float32 if that is less precise.
        batch_dims : {0, 1}, default=1
            1: the first dimension of every tensor is the batch; 0: the state is one problem, a
            batch of one sample.

        Raises
        ------
        TypeError
            If a leaf is not a floating-point tensor, or they differ in dtype or device.
        ValueError
            If there is no leaf, a leaf has no batch dimension, batch sizes differ, or ``dtype`` or
            ``batch_dims`` is none of the values above.
        """
        check_batch_dims(batch_dims)
        if dtype not in (None, torch.float32, torch.float64):
            raise ValueError(f"state_dtype must be torch.float32 or torch.float64, got {dtype!r}.")
        leaves = list(_leaves(z0, "z0"))
        if not leaves:
            raise ValueError("z0 must hold at least one tensor, got none.")
        first = leaves[0]
        for leaf in leaves:
            _check_leaf(leaf, first)
            if batch_dims:
                _check_batch(leaf, first)
        return cls(
            structure=_structure_of(z0),
            shapes=tuple(leaf.shape for leaf in leaves),
            channels_last=tuple(_is_channels_last(leaf) for leaf in leaves),
            leaf_dtype=first.dtype,
            # Quasi-Newton updates use differences of close vectors, which half precision loses.
            dtype=dtype or torch.promote_types(first.dtype, torch.float32),
            device=first.device,
            batch_dims=batch_dims,
        )

    @cached_property
    def batch(self) -> int:
        """Number of samples."""
        return self.shapes[0][: self.batch_dims].numel()

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Number of dimensions of each leaf."""
        return tuple(len(shape) for shape in self.shapes)

    def flatten(self, state: State, name: str = "z0") -> Tensor:
        """Return a state as a tensor of shape (batch, n), by one copy if it has several leaves.

        Raises
        ------
        TypeError
            If the state is not nested as the layout is, or has another dtype without autocast.
        ValueError
            If a leaf has another shape.
        """
        if isinstance(state, Tensor) and isinstance(self.structure, int):
            leaves = [state]
        elif self._is_flat_tuple and self._matches_flat_tuple(state):
            leaves = state
        else:
            _check_structure(state, self.structure, name)
            leaves = _leaves_in_order(state, self.structure)
        rows = [self._row(leaf, i, name) for i, leaf in enumerate(leaves)]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)

    def unflatten(self, flat: Tensor) -> State:
        """Return the state of a matrix of shape (batch, n), as views unless the dtype changes."""
        if flat.dtype != self.leaf_dtype:
            flat = flat.to(self.leaf_dtype)
        if isinstance(self.structure, int):
            return self._leaf(flat, 0)
        pieces = [flat] if len(self.shapes) == 1 else torch.split(flat, self._sizes, dim=1)
        leaves = [self._leaf(piece, i) for i, piece in enumerate(pieces)]
        if self._is_flat_tuple:
            return tuple(leaves)
        return _rebuild(self.structure, lambda i: leaves[i])

    def _row(self, leaf: Tensor, i: int, name: str) -> Tensor:
        if leaf.shape != self.shapes[i]:
            raise ValueError(
                f"{name} must keep the shapes of the state: leaf {i} has shape "
                f"{tuple(leaf.shape)} where z0 has {tuple(self.shapes[i])}."
            )
        if leaf.dtype != self.leaf_dtype and not torch.is_autocast_enabled(self.device.type):
            raise TypeError(
                f"{name} must keep the dtype of the state: leaf {i} has {leaf.dtype} where z0 has "
                f"{self.leaf_dtype}. Cast inside f, or use autocast."
            )
        if self._are_rows[i]:
            row = leaf
        else:
            leaf = leaf.movedim(1, -1) if self.channels_last[i] else leaf
            row = leaf.reshape(self.batch, self._sizes[i])
        return row if row.dtype == self.dtype else row.to(self.dtype)

    @cached_property
    def _is_flat_tuple(self) -> bool:
        """Whether the state is a tuple of tensors, which takes less work to flatten."""
        structure = self.structure
        return type(structure) is tuple and all(isinstance(part, int) for part in structure)

    def _matches_flat_tuple(self, state: State) -> bool:
        return (
            isinstance(state, (tuple, list))
            and len(state) == len(self.shapes)
            and all(isinstance(leaf, Tensor) for leaf in state)
        )

    @cached_property
    def _are_rows(self) -> list[bool]:
        """Whether each leaf has the shape (batch, n) already, so that no view needs to be made."""
        return [self.batch_dims == 1 and len(shape) == 2 for shape in self.shapes]

    @cached_property
    def _sizes(self) -> list[int]:
        return [shape[self.batch_dims :].numel() for shape in self.shapes]

    def _leaf(self, row: Tensor, i: int) -> Tensor:
        shape = self.shapes[i]
        if not self.channels_last[i]:
            return row if row.shape == shape else row.reshape(shape)
        return row.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


class FlatMap:
    """The function f on matrices of shape (batch, n), as solvers see it.

    f runs under the autocast that was active when the FlatMap was created. The solvers' own
    arithmetic runs without it, and by the time of a backward pass the caller has left it.

    Parameters
    ----------
    f : callable
        ``f(z, *inputs)`` returns a state of the structure of z.
    layout : Layout
    inputs : tuple
        Passed on to f.
    outer_grad : callable, optional
        ``outer_grad(z)``, the gradient of the outer loss with respect to the state, itself a state.

    Attributes
    ----------
    precision : torch.dtype
        That of the state or that of autocast, whichever is lower.
    differentiated : bool
        Whether gradients were recorded at creation, so that a backward pass may follow.
    n_evals : int
        Number of evaluations of f so far.
    n_vjp : int
        Number of vector-Jacobian products so far.
    """

    def __init__(
        self,
        f: Callable[..., State],
        layout: Layout,
        inputs: tuple[Any, ...] = (),
        outer_grad: Callable[[State], State] | None = None,
    ) -> None:
        self.f = f
        self.layout = layout
        self.inputs = inputs
        self._outer_grad = outer_grad
        self._autocast = _current_autocast(layout.device.type)
        self.precision = _precision(layout)
        self._cache: dict[Any, Any] = {}
        self.differentiated = torch.is_grad_enabled()
        self.n_evals = 0
        self.n_vjp = 0

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z), of shape (batch, n)."""
        self.n_evals += 1
        version = _version(z)
        with self._autocast(), caching_in(self._cache):
            state = self.f(self.layout.unflatten(z), *self.inputs)
            value = self.layout.flatten(state, "the output of f")
        if _version(z) != version:  # the residual would be that of another z
            raise ValueError("f must not change its argument in place, but it changed z.")
        return value

    def value_and_vjp(
        self, z: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return f(z) and the vector-Jacobian product of f at z, v -> J^T v.

        With ``create_graph``, products are differentiable with respect to the parameters and inputs
        of f.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "products with the Jacobian need automatic differentiation, which "
                "torch.inference_mode() forbids: use torch.no_grad()."
            )
        if in_torch_func():
            return self._value_and_vjp_of_torch_func(z)
        with torch.enable_grad():
            point = z.detach().requires_grad_()
            graph = Graph(point, self(point))

        def vjp(v: Tensor) -> Tensor:
            self.n_vjp += 1
            return graph.vjp(v, create_graph=create_graph)

        return graph.value.detach(), vjp

    def graph(self, z: Tensor) -> Graph:
        """Return the graph of f at z, which ends at z: nothing that z came from gets a gradient."""
        point: Tensor = _EndOfGraph.apply(z.detach().requires_grad_())  # type: ignore[no-untyped-call]
        return Graph(point, self(point))

    def _value_and_vjp_of_torch_func(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        value, pullback = torch.func.vjp(self, z)[:2]

        def vjp(v: Tensor) -> Tensor:
            self.n_vjp += 1
            product: Tensor = pullback(v)[0]
            return product

        return value, vjp

    @property
    def has_outer_grad(self) -> bool:
        """Whether the gradient of the outer loss was given."""
        return self._outer_grad is not None

    def outer_grad(self, z: Tensor) -> Tensor:
        """Return the gradient of the outer loss at z, of shape (batch, n)."""
        assert self._outer_grad is not None
        with torch.enable_grad():
            gradient = self._outer_grad(self.layout.unflatten(z.detach()))
        return self.layout.flatten(gradient, "the output of outer_grad").detach()


@dataclass(frozen=True)
class Graph:
    """A value of f with its graph.

    Attributes
    ----------
    point, value : Tensor of shape (batch, n)
        z and f(z). If no derivative with respect to z is wanted, ``point`` requires no gradients.
    """

    point: Tensor
    value: Tensor

    def vjp(self, v: Tensor, *, create_graph: bool = False) -> Tensor:
        """Return the vector-Jacobian product J^T v; the graph is kept."""
        if not self.value.requires_grad:  # f does not depend on z
            return torch.zeros_like(v)
        (product,) = torch.autograd.grad(
            self.value,
            self.point,
            v,
            retain_graph=True,
            create_graph=create_graph,
            materialize_grads=True,
        )
        return product

    @property
    def depends_on_more(self) -> bool:
        """Whether f(z) has a derivative with respect to anything but z, such as a parameter."""
        if not self.point.requires_grad:
            return self.value.requires_grad
        nodes, seen = [self.value.grad_fn], {self.point.grad_fn}
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if not node.next_functions:
                return True
            nodes += [following for following, _ in node.next_functions]
        return False


class _EndOfGraph(torch.autograd.Function):
    """The identity, beyond which no gradient is propagated."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Return a context without autocast, where operations keep the dtype of their operands."""
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _current_autocast(device: str) -> Callable[[], AbstractContextManager[Any]]:
    if not torch.is_autocast_enabled(device):
        return nullcontext
    dtype = torch.get_autocast_dtype(device)
    # Without autocast's cache. The solver's calls would fill it with cast weights that have no
    # graph, and the call that needs a graph would use them.
    return lambda: torch.autocast(device, dtype=dtype, cache_enabled=False)


def _precision(layout: Layout) -> torch.dtype:
    dtypes = [layout.leaf_dtype]
    if torch.is_autocast_enabled(layout.device.type):
        dtypes.append(torch.get_autocast_dtype(layout.device.type))
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def _version(z: Tensor) -> int:
    """Return PyTorch's count of in-place changes to a tensor and its views."""
    return 0 if z.is_inference() else z._version


def _leaves(state: State, name: str) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, (tuple, list, dict)):
        for part in state.values() if isinstance(state, dict) else state:
            yield from _leaves(part, name)
    else:
        raise TypeError(
            f"{name} must be a tensor, or nested tuples, lists or dicts of tensors, got "
            f"{type(state).__name__}."
        )


def _rebuild(state: State, leaf: Callable[[Any], Any]) -> State:
    if isinstance(state, dict):
        return {key: _rebuild(part, leaf) for key, part in state.items()}
    if not isinstance(state, (tuple, list)):
        return leaf(state)
    parts = [_rebuild(part, leaf) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)


def _structure_of(state: State) -> Any:
    """Return the state with the index of a leaf in place of each tensor."""
    numbers = itertools.count()
    return _rebuild(state, lambda _: next(numbers))


def _check_structure(state: State, structure: Any, name: str) -> None:
    list(_leaves(state, name))  # raises unless all leaves are tensors
    if not _is_like(state, structure):
        raise TypeError(
            f"{name} must be nested as z0 is: expected {_with_tuples(structure)}, got "
            f"{_with_tuples(_structure_of(state))} (numbers stand for tensors)."
        )


def _is_like(state: State, structure: Any) -> bool:
    """Return whether a state has a structure; f may return lists for tuples."""
    if isinstance(structure, dict):
        return (
            isinstance(state, dict)
            and state.keys() == structure.keys()
            and all(_is_like(state[key], part) for key, part in structure.items())
        )
    if isinstance(structure, (tuple, list)):
        return (
            isinstance(state, (tuple, list))
            and len(state) == len(structure)
            and all(map(_is_like, state, structure))
        )
    return isinstance(state, Tensor)


def _leaves_in_order(state: State, structure: Any) -> list[Tensor]:
    """Return the leaves in the order of the structure; f may return a dict in another order."""
    if isinstance(structure, dict):
        return [
            leaf for key, part in structure.items() for leaf in _leaves_in_order(state[key], part)
        ]
    if isinstance(structure, (tuple, list)):
        pairs = zip(state, structure, strict=True)
        return [leaf for one, part in pairs for leaf in _leaves_in_order(one, part)]
    return [state]


def _with_tuples(structure: Any) -> Any:
    """Return the structure with tuples for lists, for messages."""
    if isinstance(structure, dict):
        return {key: _with_tuples(part) for key, part in structure.items()}
    if isinstance(structure, (tuple, list)):
        return tuple(_with_tuples(part) for part in structure)
    return structure


def _check_leaf(leaf: Tensor, first: Tensor) -> None:
    if not leaf.is_floating_point():
        raise TypeError(f"z0 must hold floating-point tensors, got {leaf.dtype}.")
    if (leaf.dtype, leaf.device) != (first.dtype, first.device):
        raise TypeError(
            "the tensors of z0 must have one dtype and device, got "
            f"{first.dtype} on {first.device} and {leaf.dtype} on {leaf.device}."
        )


def _check_batch(leaf: Tensor, first: Tensor) -> None:
    if leaf.dim() == 0:
        raise ValueError(
            "z0 must have a batch dimension first, got a tensor without dimensions: give it one, "
            "or use batch_dims=0."
        )
    if leaf.shape[0] != first.shape[0]:
        raise ValueError(
            "the tensors of z0 must have one batch size, their first dimension, got "
            f"{first.shape[0]} and {leaf.shape[0]}, or use batch_dims=0."
        )


def _is_channels_last(leaf: Tensor) -> bool:
    if leaf.dim() != 4 or leaf.is_contiguous():
        return False
    return leaf.is_contiguous(memory_format=torch.channels_last)
