"""Unit deviances of the Tweedie family, Poisson and Gamma among them, with a logarithmic link."""

from __future__ import annotations

import numpy as np

from ...utils.validation import check_number, check_positive, shown
from .base import Array, Loss

# Exponent beyond which an exponential is replaced by its tangent: large but finite, so that a row
# without weight does no harm.
# Why: exp(709) is the largest that float64 holds; 600 leaves room for products with targets.
_LARGEST_EXPONENT = 600.0


class TweedieLoss(Loss):
    r""":math:`\ell(y, z) = 2 \int_\mu^y \frac{y - t}{t^p}\, dt` with :math:`\mu = u\, e^z`.

    The unit deviance of a Tweedie distribution of power p and mean :math:`\mu`: the normal one for
    p = 0, where it is :math:`(y - \mu)^2`; that of Poisson for p = 1,
    :math:`2 (y \log(y/\mu) - y + \mu)`; compounds of Poisson and Gamma between; that of Gamma for
    p = 2, :math:`2 (\log(\mu/y) + y/\mu - 1)`; the inverse Gaussian one for p = 3. Convex for
    :math:`1 \le p \le 2`.

    Parameters
    ----------
    power : float
        p, outside of the open interval from 0 to 1, where there is no such distribution.
    unit : float, default=1.0
        u, a constant, in which means are counted: of the targets' size, so that z = 0 is a fair
        guess.

    Raises
    ------
    ValueError, TypeError
        For such a power, or a unit that is not positive.
    """

    minimum = 0.0

    def __init__(self, power: float, unit: float = 1.0) -> None:
        self.power = check_number("power", power, "a number")
        if not (-np.inf < self.power <= 0.0 or 1.0 <= self.power < np.inf):
            raise ValueError(
                f"power must not lie between 0 and 1, where there is no Tweedie distribution, and "
                f"be finite; got {shown(power)}."
            )
        self.unit = check_positive("unit", unit)
        self.convex = 1.0 <= self.power <= 2.0
        self.target_range = (-np.inf if self.power <= 0.0 else 0.0, np.inf)
        self.scoring = {
            0.0: "neg_mean_squared_error",
            1.0: "neg_mean_poisson_deviance",
            2.0: "neg_mean_gamma_deviance",
        }.get(self.power)

    def value(self, y: Array, z: Array) -> Array:
        p, z = self.power, z + np.log(self.unit)  # the logarithm of mu
        if p == 0.0:
            return np.asarray((y - _exp(z)) ** 2)
        if p == 1.0:
            # As a function of log(mu / y), it does not cancel where the fit is good.
            positive = y > 0.0
            r = z - np.log(np.where(positive, y, 1.0))
            return np.asarray(np.where(positive, 2.0 * y * _excess(r), 2.0 * _exp(z)))
        if p == 2.0:
            return np.asarray(2.0 * _excess(np.log(y) - z))
        # 2 (y**(2 - p) / ((1 - p) (2 - p)) - y mu**(1 - p) / (1 - p) + mu**(2 - p) / (2 - p))
        a, b = 1.0 - p, 2.0 - p
        constant = np.maximum(y, 0.0) ** b / (a * b)
        return np.asarray(2.0 * (constant - y * _exp(a * z) / a + _exp(b * z) / b))

    def gradient(self, y: Array, z: Array) -> Array:
        first, second = self._terms(y, z)
        return np.asarray(second - first)

    def hessian(self, y: Array, z: Array) -> Array:
        first, second = self._terms(y, z)
        return np.asarray((2.0 - self.power) * second - (1.0 - self.power) * first)

    def inverse_link(self, z: Array) -> Array:
        return _exp(z + np.log(self.unit))

    def check_targets(self, y: Array) -> None:
        super().check_targets(y)
        if self.power >= 2.0 and y.size and not y.min() > 0.0:
            raise ValueError(
                f"y must be positive for {self!r}, but its smallest value is {y.min():g}."
            )

    def _terms(self, y: Array, z: Array) -> tuple[Array, Array]:
        """Return 2 y mu^(1 - p) and 2 mu^(2 - p)."""
        z = z + np.log(self.unit)
        return 2.0 * y * _exp((1.0 - self.power) * z), 2.0 * _exp((2.0 - self.power) * z)

    def __repr__(self) -> str:
        return f"TweedieLoss(power={self.power:g})"


def _exp(x: Array) -> Array:
    """Return e^x, continued by its tangent where it is huge."""
    near = np.minimum(x, _LARGEST_EXPONENT)
    return np.asarray(np.exp(near) * (1.0 + (x - near)))


def _excess(r: Array) -> Array:
    """Return e^r - 1 - r, to rounding near 0, too."""
    # Taylor's series to r**4: beyond 1e-3 the difference is accurate enough, within the series is.
    far = _exp(r) - 1.0 - r
    return np.asarray(np.where(np.abs(r) < 1e-3, r * r * (0.5 + r / 6.0 + r * r / 24.0), far))
