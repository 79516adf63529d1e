"""Exponentials and logarithms for compiled loops, in a form that the compiler vectorises.

It does not vectorise those of the C library, and numpy's own are vectorised on processors with
AVX-512 only. The functions here consist of additions, multiplications and a division; their errors
are at most two units in the last place. NaN stays NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from .compiled import loop, primitive

# log 2 in two parts. The first has 42 bits: its product with an integer up to 1022 is exact.
LOG_2_HIGH, LOG_2_LOW = float.fromhex("0x1.62e42fefa38p-1"), 5.497923018708371e-14
_LOG2_E, _LOG_2, _SQRT_2 = 1.0 / math.log(2.0), math.log(2.0), math.sqrt(2.0)
# Adding it rounds a number below 2^51 in size to an integer, which then is in the last bits.
_ROUNDER = 1.5 * 2.0**52
# Size of a negative number beyond which its exponential counts as that of this one.
# Why: exp(-708.4) is the smallest normal number.
LARGEST_DECAY = 708.0
# Coefficients of exp, up to where terms of (log(2) / 2)^j are lost in rounding.
_EXP = tuple(1.0 / math.factorial(j) for j in range(13, -1, -1))
# Those of atanh(s) / s in s^2, likewise for s up to 3 - sqrt(8).
_ATANH = tuple(1.0 / (2 * j + 1) for j in range(10, -1, -1))


@primitive(lambda k: np.exp2(k - _ROUNDER))
def _power_of_two(typingctx: Any, k: Any) -> Any:
    """Return 2^k of an integer k from -1022 to 1023 to which ``_ROUNDER`` has been added."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        # A number's exponent is stored as k + 1023, above 52 bits; what was above k is shifted out.
        biased = builder.add(builder.bitcast(args[0], word), ir.Constant(word, 1023))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, 52)), ir.DoubleType())

    return types.float64(types.float64), codegen


@loop()
def exp_of_negative(x):  # type: ignore[no-untyped-def]
    """Return exp(x) for a number x that is not positive; below -708, a number below 1e-307.

    exp(x) is 2^k exp(r), where k is the integer next to x / log 2, and r = x - k log 2.
    """
    x = -LARGEST_DECAY if x < -LARGEST_DECAY else x
    rounded = x * _LOG2_E + _ROUNDER
    k = rounded - _ROUNDER
    r = (x - k * LOG_2_HIGH) - k * LOG_2_LOW
    value = 0.0
    for coefficient in _EXP:
        value = value * r + coefficient
    return value * _power_of_two(rounded)


@loop()
def log1p_of_share(x):  # type: ignore[no-untyped-def]
    """Return log(1 + x) for a number x from 0 to 1.

    It is 2 atanh(x / (2 + x)); where 1 + x is more than sqrt(2), that of (x - 1) / 2, plus log 2.
    """
    large = 1.0 + x > _SQRT_2
    y = 0.5 * (x - 1.0) if large else x
    s = y / (2.0 + y)
    square = s * s
    series = 0.0
    for coefficient in _ATANH:
        series = series * square + coefficient
    value = 2.0 * s * series
    return value + _LOG_2 if large else value
