from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

from hoag_shine import GeneralizedLinear, Loss, ShineCV
from hoag_shine.testing import check_loss


@dataclass(frozen=True)
class Cauchy(Loss):
    r""":math:`\frac{1}{2} \log(1 + (z - y)^2)`."""

    def value(self, y, z):
        return 0.5 * np.log1p((z - y) ** 2)

    def gradient(self, y, z):
        return (z - y) / (1.0 + (z - y) ** 2)

    def hessian(self, y, z):
        return (1.0 - (z - y) ** 2) / (1.0 + (z - y) ** 2) ** 2


check_loss(Cauchy())
X, y = load_diabetes(return_X_y=True)
search = ShineCV(GeneralizedLinear(Cauchy())).fit(scale(X), scale(y))
