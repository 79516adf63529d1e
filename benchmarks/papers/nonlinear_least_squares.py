"""SHINE, nonlinear least squares: 1/2 sum (y - sigmoid(Xw))^2 in place of the logistic loss.

    python benchmarks/papers/nonlinear_least_squares.py --seeds 10
    python benchmarks/papers/nonlinear_least_squares.py --quick

The inner problem is not convex. As in the paper's code, HOAG's tolerances fall like 0.8^k here.
"""

from _common import compare, equal_settings, papers_settings

from hoag_shine import GeneralizedLinear, SigmoidSquaredLoss

PANELS = {
    "papers' settings": papers_settings("hoag", decay=0.8)
    | papers_settings("shine", "jacobian-free"),
    "equal settings": equal_settings("cg", "shine", "jacobian-free", "auto", "brent"),
}

if __name__ == "__main__":
    estimator = GeneralizedLinear(loss=SigmoidSquaredLoss(), fit_intercept=False)
    compare("nonlinear_least_squares", __doc__, PANELS, estimator=estimator, convex=False)
