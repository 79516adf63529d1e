"""Vectors of one line of the cache, for compiled loops that the compiler does not vectorise itself.

Numba's compiler vectorises loops over long arrays, but not a row of five or fifteen columns. With
these functions a loop does so explicitly: a *vector* is 64 bytes of numbers, eight of float64 or
sixteen of float32, in one register with AVX-512 or two with AVX2. They can be called from compiled
code only, and take matrices of such numbers in C order; others do not compile. A place is given as
a matrix with a row and a column, and not as a view of a row, since numba would count references to
the memory of a view, entry by entry.

Each has a stand-in of the same meaning in Python, see :mod:`.compiled`, where a vector is an array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

from .compiled import primitive

LINE_BYTES = 64

# The types that row and column of a place are converted to.
_PLACE = types.uint64, types.uint64


def n_lanes(dtype: Any) -> int:
    """Return how many numbers of a type are a vector."""
    return LINE_BYTES // int(np.dtype(dtype).itemsize)


def _numbers(A: Any, i: Any, c: Any, n: Any) -> Any:
    """Return a view of the n numbers of a matrix that begin at ``A[i, c]``."""
    first = int(i) * A.shape[1] + int(c)
    return A.reshape(-1)[first : first + int(n)]


def _load_first(A: Any, i: Any, c: Any, n: Any) -> Any:
    vector = np.zeros(n_lanes(A.dtype), A.dtype)
    given = _numbers(A, i, c, min(n, vector.size))
    vector[: given.size] = given
    return vector


def _store_first(A: Any, i: Any, c: Any, n: Any, vector: Any) -> None:
    place = _numbers(A, i, c, min(n, vector.size))
    place[:] = vector[: place.size]


def _store(A: Any, i: Any, c: Any, vector: Any) -> None:
    _store_first(A, i, c, vector.size, vector)


class VectorType(types.Type):
    """The type of a vector of float64 or float32 numbers."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = n_lanes(str(dtype))
        super().__init__(name=f"{dtype}x{self.lanes}")

    @property
    def llvm(self) -> Any:
        """The compiler's type."""
        number = ir.DoubleType() if self.dtype == types.float64 else ir.FloatType()
        return ir.VectorType(number, self.lanes)

    @property
    def suffix(self) -> str:
        """The ending of the names of the compiler's functions for such vectors."""
        return f"v{self.lanes}f{self.dtype.bitwidth}"

    @property
    def align(self) -> int:
        """The alignment in bytes: rows of matrices begin anywhere."""
        return int(self.dtype.bitwidth) // 8


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


@primitive(lambda A: n_lanes(A.dtype))
def lanes(typingctx: Any, A: Any) -> Any:
    """Return how many numbers of a matrix are a vector."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.uint64, _vector_of(A).lanes)

    return (types.uint64(A), codegen) if _is_matrix(A) else None


@primitive(lambda A: np.zeros(n_lanes(A.dtype), A.dtype))
def zeros(typingctx: Any, A: Any) -> Any:
    """Return a vector of zeros, of the type of a matrix."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _zeros(signature.return_type)

    return (_vector_of(A)(A), codegen) if _is_matrix(A) else None


@primitive(lambda A, i, c: _numbers(A, i, c, n_lanes(A.dtype)).copy())
def load(typingctx: Any, A: Any, i: Any, c: Any) -> Any:
    """Return the vector that begins at ``A[i, c]``; it must be memory that may be read."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args)
        return builder.load(pointer, align=signature.return_type.align)

    return (_vector_of(A)(A, *_PLACE), codegen) if _is_matrix(A) else None


@primitive(_store)
def store(typingctx: Any, A: Any, i: Any, c: Any, vector: Any) -> Any:
    """Write a vector to where ``A[i, c]`` begins, all of which must be memory to write."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args)
        builder.store(args[3], pointer, align=vector.align)
        return context.get_dummy_value()

    return (types.void(A, *_PLACE, vector), codegen) if _fits(A, vector) else None


@primitive(_load_first)
def load_first(typingctx: Any, A: Any, i: Any, c: Any, n: Any) -> Any:
    """Return a vector of the first ``n`` numbers of ``A[i, c:]``, followed by zeros."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector, pointer = signature.return_type, _pointer(context, builder, signature, args)
        mask = _first(builder, args[3], vector)
        return _masked(builder, "load", vector, vector.llvm, pointer, mask, _zeros(vector))

    return (_vector_of(A)(A, *_PLACE, types.uint64), codegen) if _is_matrix(A) else None


@primitive(_store_first)
def store_first(typingctx: Any, A: Any, i: Any, c: Any, n: Any, vector: Any) -> Any:
    """Write the first ``n`` numbers of a vector to ``A[i, c:]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args)
        mask = _first(builder, args[3], vector)
        _masked(builder, "store", vector, ir.VoidType(), args[4], pointer, mask)
        return context.get_dummy_value()

    return (types.void(A, *_PLACE, types.uint64, vector), codegen) if _fits(A, vector) else None


@primitive(lambda A, i, c: None)
def prefetch(typingctx: Any, A: Any, i: Any, c: Any) -> Any:
    """Have the line of the cache with ``A[i, c]`` read from memory, and do not wait for it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _read_line(builder, _pointer(context, builder, signature, args))
        return context.get_dummy_value()

    return (types.void(A, *_PLACE), codegen) if _is_matrix(A) else None


@primitive(lambda a, i: None)
def prefetch_entry(typingctx: Any, a: Any, i: Any) -> Any:
    """Have the line of the cache with ``a[i]`` of an array of one axis read likewise."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        _read_line(builder, builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    one_axis = isinstance(a, types.Array) and (a.ndim, a.layout) == (1, "C")
    return (types.void(a, types.uint64), codegen) if one_axis else None


@primitive(lambda a, x, y: x.dtype.type(a) * x + y)
def multiply_add(typingctx: Any, a: Any, x: Any, y: Any) -> Any:
    """Return ``a * x + y`` for a number a and vectors x and y of one type."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(x.llvm, [x.llvm] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.{x.suffix}")
        return builder.call(function, [_spread(builder, args[0], x.llvm), args[1], args[2]])

    return (x(x.dtype, x, y), codegen) if isinstance(x, VectorType) and x == y else None


def _is_matrix(A: Any) -> bool:
    kind = isinstance(A, types.Array) and (A.ndim, A.layout) == (2, "C")
    return kind and A.dtype in (types.float64, types.float32)


def _fits(A: Any, vector: Any) -> bool:
    return _is_matrix(A) and vector == _vector_of(A)


def _vector_of(A: Any) -> Any:
    """Return the type of vectors of a matrix."""
    return VectorType(A.dtype)


def _zeros(vector: Any) -> Any:
    return ir.Constant(vector.llvm, [0.0] * vector.lanes)


def _pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Return the address of ``A[i, c]`` as that of a vector."""
    kind = signature.args[0]
    A = context.make_array(kind)(context, builder, args[0])
    width = builder.extract_value(A.shape, 1)
    place = builder.add(builder.mul(args[1], width), args[2])
    return builder.bitcast(builder.gep(A.data, [place]), _vector_of(kind).llvm.as_pointer())


def _read_line(builder: Any, pointer: Any) -> None:
    """Call the processor's prefetch instruction, into every level of the cache."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    to_read, every_level, data = 0, 3, 1
    options = map(number, (to_read, every_level, data))
    builder.call(function, [builder.bitcast(pointer, byte), *options])


def _masked(builder: Any, name: str, vector: Any, answer: Any, *args: Any) -> Any:
    """Call the compiler's masked load or store; ``args`` lack the alignment only."""
    number = ir.IntType(32)
    place = [isinstance(a.type, ir.PointerType) for a in args].index(True) + 1
    args = (*args[:place], number(vector.align), *args[place:])
    kind = ir.FunctionType(answer, [a.type for a in args])
    full = f"llvm.masked.{name}.{vector.suffix}.p0{vector.suffix}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, full), args)


def _spread(builder: Any, scalar: Any, kind: Any) -> Any:
    """Return a vector whose elements are all the same."""
    one = builder.insert_element(
        ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
    )
    order = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), order)


def _first(builder: Any, n: Any, vector: Any) -> Any:
    """Return the mask of the first n elements."""
    kind = ir.VectorType(ir.IntType(64), vector.lanes)
    places = ir.Constant(kind, list(range(vector.lanes)))
    return builder.icmp_unsigned("<", places, _spread(builder, n, kind))
