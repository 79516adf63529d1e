"""Eight numbers at a time, for compiled loops that the compiler does not vectorise by itself.

Numba's compiler vectorises loops over long arrays, but neither a row of five or fifteen columns nor
statements that stand side by side. These functions say it outright: a value of type ``float64x8``
is eight numbers in as many vector registers as the processor needs for them, one with AVX-512, two
with AVX2. They can be called from compiled code only, and take matrices of float64 numbers in C
order: others do not compile. A place is given by its row and column; a row that compiled code has
cut out of a matrix would be counted as a reference to its memory, entry by entry.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 8

# To a type checker, these functions are what numba makes of them: without types.
_intrinsic: Any = intrinsic

_DOUBLE = ir.DoubleType()
_VECTOR = ir.VectorType(_DOUBLE, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)
# What a place in a matrix is converted to.
_PLACE = types.uint64, types.uint64
# Rows of a matrix begin anywhere.
_ALIGN = 8


class Float64x8(types.Type):
    """The type of eight float64 numbers."""

    def __init__(self) -> None:
        super().__init__(name="float64x8")


float64x8: Any = Float64x8()


@register_model(Float64x8)
class _Float64x8Model(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


@_intrinsic
def zeros(typingctx: Any) -> Any:
    """Return eight zeros."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_VECTOR, [0.0] * LANES)

    return float64x8(), codegen


@_intrinsic
def load(typingctx: Any, A: Any, i: Any, c: Any) -> Any:
    """Return ``A[i, c : c + 8]``, all of which must be memory that may be read."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, signature, args), align=_ALIGN)

    return (float64x8(A, *_PLACE), codegen) if _is_matrix(A) else None


@_intrinsic
def store(typingctx: Any, A: Any, i: Any, c: Any, vector: Any) -> Any:
    """Write eight numbers to ``A[i, c : c + 8]``, all of which must be memory to write."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[3], _pointer(context, builder, signature, args), align=_ALIGN)
        return context.get_dummy_value()

    return (types.void(A, *_PLACE, vector), codegen) if _is_matrix(A) else None


@_intrinsic
def load_first(typingctx: Any, A: Any, i: Any, c: Any, n: Any) -> Any:
    """Return the first ``n`` numbers of ``A[i, c:]``, at most eight, followed by zeros."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args)
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        kind = ir.FunctionType(_VECTOR, [pointer.type, ir.IntType(32), _MASK, _VECTOR])
        function = cgutils.get_or_insert_function(
            builder.module, kind, "llvm.masked.load.v8f64.p0v8f64"
        )
        align = ir.Constant(ir.IntType(32), _ALIGN)
        return builder.call(function, [pointer, align, _first(builder, args[3]), zero])

    return (float64x8(A, *_PLACE, types.uint64), codegen) if _is_matrix(A) else None


@_intrinsic
def store_first(typingctx: Any, A: Any, i: Any, c: Any, n: Any, vector: Any) -> Any:
    """Write the first ``n`` numbers of a vector, at most eight, to ``A[i, c:]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args)
        kind = ir.FunctionType(ir.VoidType(), [_VECTOR, pointer.type, ir.IntType(32), _MASK])
        function = cgutils.get_or_insert_function(
            builder.module, kind, "llvm.masked.store.v8f64.p0v8f64"
        )
        align = ir.Constant(ir.IntType(32), _ALIGN)
        builder.call(function, [args[4], pointer, align, _first(builder, args[3])])
        return context.get_dummy_value()

    return (types.void(A, *_PLACE, types.uint64, vector), codegen) if _is_matrix(A) else None


@_intrinsic
def prefetch(typingctx: Any, A: Any, i: Any, c: Any) -> Any:
    """Have the line of the cache with ``A[i, c]`` read from memory, and do not wait for it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        pointer = builder.bitcast(_pointer(context, builder, signature, args), byte)
        to_read, every_level, data = 0, 3, 1
        builder.call(function, [pointer, *map(number, (to_read, every_level, data))])
        return context.get_dummy_value()

    return (types.void(A, *_PLACE), codegen) if _is_matrix(A) else None


@_intrinsic
def multiply_add(typingctx: Any, a: Any, x: Any, y: Any) -> Any:
    """Return ``a * x + y`` for a number a and vectors x and y."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.v8f64")
        return builder.call(function, [_spread(builder, args[0], _VECTOR), args[1], args[2]])

    return float64x8(types.float64, x, y), codegen


def _is_matrix(A: Any) -> bool:
    kind = isinstance(A, types.Array) and (A.ndim, A.layout) == (2, "C")
    return kind and A.dtype == types.float64


def _pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Return the address of ``A[i, c]`` as that of a vector."""
    A = context.make_array(signature.args[0])(context, builder, args[0])
    width = builder.extract_value(A.shape, 1)
    place = builder.add(builder.mul(args[1], width), args[2])
    return builder.bitcast(builder.gep(A.data, [place]), _VECTOR.as_pointer())


def _spread(builder: Any, scalar: Any, kind: Any) -> Any:
    """Return a vector whose elements are all the same."""
    one = builder.insert_element(
        ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
    )
    order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), order)


def _first(builder: Any, n: Any) -> Any:
    """Return the mask of the first n elements."""
    kind = ir.VectorType(ir.IntType(64), LANES)
    places = ir.Constant(kind, list(range(LANES)))
    return builder.icmp_unsigned("<", places, _spread(builder, n, kind))
