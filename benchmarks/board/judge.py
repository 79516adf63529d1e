"""The bilevel problem of the board, solved as good as exactly, in numpy and scipy alone."""

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

# Newton steps end at this squared decrement, in the scale of the mean loss; one more follows.
DECREMENT = 1e-20
MAX_STEPS = 200


class Judge:
    r"""Value and hypergradient of logistic regression with a penalty for each feature.

    The inner problem is the mean of :math:`\log(1 + e^{-y x^\top w})` over some rows plus
    :math:`\frac{1}{2} \sum_j e^{\theta_j} w_j^2`, the outer loss the mean over other rows. Solved
    by Newton's method in double precision, from the last solution.

    Parameters
    ----------
    inner, outer : pair of ndarray
        X and y, with labels of -1 and 1.
    """

    def __init__(self, inner, outer):
        self.inner, self.outer = (as_margins(*rows) for rows in (inner, outer))
        self.w = np.zeros(self.inner.shape[1])

    def __call__(self, theta):
        """Return the value, and the squared norm of the hypergradient."""
        strength = np.exp(np.asarray(theta, np.float64))
        self.w = self.solve(strength)
        value, gradient = mean_loss(self.outer, self.w)
        q = cho_solve(cho_factor(self.hessian(self.w, strength)), gradient)
        hypergradient = -strength * self.w * q
        return value, float(hypergradient @ hypergradient)

    def solve(self, strength):
        """Return the solution of the inner problem."""
        w = self.w
        value, gradient = self.objective(w, strength)
        for _ in range(MAX_STEPS):
            step = cho_solve(cho_factor(self.hessian(w, strength)), gradient)
            decrement = gradient @ step
            if decrement <= DECREMENT:
                return w - step
            length = 1.0
            while True:
                new = self.objective(w - length * step, strength)
                # Near the end, the loss itself is only known to some rounding errors.
                if new[0] <= value - 0.1 * length * decrement + 1e-14:
                    break
                length *= 0.5
            w, (value, gradient) = w - length * step, new
        raise RuntimeError(f"The inner problem is not solved: a squared decrement of {decrement}.")

    def objective(self, w, strength):
        loss, gradient = mean_loss(self.inner, w)
        return loss + 0.5 * w @ (strength * w), gradient + strength * w

    def hessian(self, w, strength):
        share = expit(-self.inner @ w)
        weighted = (share * (1.0 - share))[:, None] * self.inner
        return self.inner.T @ weighted / len(self.inner) + np.diag(strength)


def as_margins(X, y):
    """Return the rows times their labels: the loss depends on nothing else."""
    return np.asarray(X, np.float64) * np.asarray(y, np.float64)[:, None]


def mean_loss(margins, w):
    z = margins @ w
    return float(np.mean(np.logaddexp(0.0, -z))), -(expit(-z) @ margins) / len(margins)
