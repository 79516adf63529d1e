"""HOAG, section 5: how accurately to solve the inner problems along the outer iterations.

    python benchmarks/papers/tolerance_schedules.py --seeds 5
    python benchmarks/papers/tolerance_schedules.py --quick

The hypergradient is that of conjugate gradient, to the same tolerance as the inner problem. The
schedules drive HOAG's step; "adjoint", which asks the step rule what accuracy it needs, comes with
this library's.
"""

from _common import METHODS, compare, papers_settings

SCHEDULES = ("quadratic", "cubic", "exponential", "exact")
PANELS = {
    "conjugate gradient": {
        **{name: papers_settings("hoag", tolerance=name)["HOAG"] for name in SCHEDULES},
        "adjoint": METHODS["cg"],
    }
}

if __name__ == "__main__":
    compare("tolerance_schedules", __doc__, PANELS)
