from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

from hoag_shine import GeneralizedLinear, Penalty, ShineCV
from hoag_shine.testing import check_penalty


@dataclass(frozen=True)
class SmoothAbsolute(Penalty):
    r""":math:`\sqrt{w^2 + \delta^2} - \delta`."""

    delta: float = 0.1

    def value(self, w):
        return w**2 / (np.hypot(w, self.delta) + self.delta)

    def gradient(self, w):
        return w / np.hypot(w, self.delta)

    def hessian(self, w):
        return self.delta**2 / np.hypot(w, self.delta) ** 3


check_penalty(SmoothAbsolute())
X, y = load_diabetes(return_X_y=True)
search = ShineCV(GeneralizedLinear(penalty=SmoothAbsolute())).fit(scale(X), scale(y))
