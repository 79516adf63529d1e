"""SHINE, figures 1 and E.1: how the loss falls along the searches for one penalty.

    python benchmarks/papers/figure_1.py --seeds 10
    python benchmarks/papers/figure_1.py --quick

On the left the methods at the papers' settings (memory 30 and tolerances 0.1 * 0.78^k for SHINE,
10 and 0.1 * 0.9^k for HOAG, its step as coded), on the right all with the default step and
tolerance of this library and a memory of 30.
"""

from _common import compare, equal_settings, papers_settings, searches

SEARCHES = searches("grid", "random")
PANELS = {
    "papers' settings": papers_settings(
        "hoag", "hoag-limited", "shine", "shine-refine", "jacobian-free"
    )
    | SEARCHES,
    "equal settings": equal_settings(
        "cg", "cg-limited", "shine", "shine-refine", "jacobian-free", "auto", "brent"
    )
    | SEARCHES,
}

if __name__ == "__main__":
    compare("figure_1", __doc__, PANELS, data=("text:20news", "libsvm:real-sim"))
