"""SHINE, figure 2 left: what outer-problem awareness (OPA) changes.

    python benchmarks/papers/figure_2_left.py --seeds 10
    python benchmarks/papers/figure_2_left.py --quick

SHINE-OPA takes in a pair in the direction of the cross derivative after every fifth inner
iteration; at the paper's settings its memory is 60.
"""

from _common import compare, equal_settings, papers_settings

PANELS = {
    "papers' settings": papers_settings("hoag", "shine", "shine-opa"),
    "equal settings": equal_settings("cg", "shine", "shine-opa", "auto"),
}

if __name__ == "__main__":
    compare("figure_2_left", __doc__, PANELS)
