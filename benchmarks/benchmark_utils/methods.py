"""The configurations of `hoag_shine.hoag` that are compared, by name."""

from hoag_shine.hypergradients import METHODS as HYPERGRADIENTS

METHODS = {
    # Every hypergradient, with the default step rule and tolerance ...
    **{name: {"hypergradient": name} for name in HYPERGRADIENTS},
    # ... and HOAG with the paper's step and exponential schedule, and a memory of 10.
    "hoag-published": {
        "hypergradient": "cg",
        "step": "adaptive",
        "tolerance": "exponential",
        "memory": 10,
        "max_iter": 1000,
    },
}

# A dense factorisation of the Hessian is out of the question beyond this number of variables.
EXACT_LIMIT = 2000
