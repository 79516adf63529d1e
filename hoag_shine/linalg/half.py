"""Half precision for compiled code, which reads long vectors as fast as memory brings them.

A number is 16 bits: the sign, an exponent of five and a fraction of ten. Compiled code widens it by
a shift of its bits to where float32 has them, which the compiler vectorises on every processor. The
shift does not correct the exponents and so makes all numbers smaller by a power of two. That does
no harm, because each vector is stored in a *unit* of its own, a power of two that brings its norm
near the top of the range: numbers of at least 4e-9 of the norm have eleven significant bits, and
smaller ones are zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from .compiled import primitive

# Numbers in half precision are kept as their bits: numba does not compute with float16.
DTYPE = np.int16
ITEMSIZE = np.dtype(DTYPE).itemsize
# The norm of what is stored is below this power of two, in its unit.
LARGEST_EXPONENT = -97

_INT = ir.IntType(32)
# Bits of a float32's fraction for which a half has no room.
_SPARE = 13
# Exponents count from -15 in half precision, and from -127 in float32.
_SHIFT = 15 - 127
# The sign of 16 bits stands four times in what their extension is shifted to.
_ONE_SIGN = 0x8FFFFFFF
_SIGN, _SIZE, _SMALLEST = 0x8000, 0x7FFF, 0x0400


def widened(bits: Any) -> Any:
    """Return what :func:`widen` makes of an array's numbers."""
    return np.ldexp(bits.view(np.float16).astype(np.float64), _SHIFT)


def _widen(x: Any) -> Any:
    return widened(x) if x.dtype == DTYPE else np.float64(x)


def _narrow(x: Any, row: Any) -> Any:
    if row.dtype != DTYPE:
        return x
    # Rounded twice, first to float32, as compiled code does it.
    number = np.float16(np.float32(np.ldexp(x, -_SHIFT)))
    # Compiled code turns subnormal numbers into zero.
    return (number if abs(number) >= np.finfo(np.float16).tiny else number * 0).view(DTYPE)


@primitive(_widen)
def widen(typingctx: Any, x: Any) -> Any:
    """Return a number as float64; that of half precision in its unit."""

    def from_bits(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        shifted = builder.shl(builder.sext(args[0], _INT), _INT(_SPARE))
        number = builder.bitcast(builder.and_(shifted, _INT(_ONE_SIGN)), ir.FloatType())
        return builder.fpext(number, ir.DoubleType())

    def from_number(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[0], x, types.float64)

    return types.float64(x), from_bits if x == types.int16 else from_number


@primitive(_narrow)
def narrow(typingctx: Any, x: Any, row: Any) -> Any:
    """Return float64 ``x`` as what ``row`` holds: rounded to half precision, or as it is.

    In half precision it is in the row's unit, where its exponent is at most ``LARGEST_EXPONENT``.
    """

    def to_bits(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(builder.fptrunc(args[0], ir.FloatType()), _INT)
        sign = builder.and_(builder.lshr(bits, _INT(16)), _INT(_SIGN))
        # To the nearest, and from the middle to the even one.
        odd = builder.and_(builder.lshr(bits, _INT(_SPARE)), _INT(1))
        up = builder.add(odd, _INT((1 << (_SPARE - 1)) - 1))
        size = builder.and_(builder.lshr(builder.add(bits, up), _INT(_SPARE)), _INT(_SIZE))
        # Nothing between zero and the smallest exponent, where processors are slow.
        normal = builder.icmp_unsigned(">=", size, _INT(_SMALLEST))
        size = builder.select(normal, size, _INT(0))
        return builder.trunc(builder.or_(sign, size), ir.IntType(16))

    def as_it_is(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[0]

    if isinstance(row, types.Array) and row.dtype == types.int16:
        return types.int16(types.float64, row), to_bits
    if isinstance(row, types.Array) and row.dtype == types.float64:
        return types.float64(types.float64, row), as_it_is
    return None
