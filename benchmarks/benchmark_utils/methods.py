"""The configurations of `hoag_shine.hoag` that are compared, by name."""

METHODS = {
    "shine": {"hypergradient": "shine"},
    "cg": {"hypergradient": "cg"},
    "jacobian-free": {"hypergradient": "jacobian-free"},
    "exact": {"hypergradient": "exact"},
    # As published: the paper's adaptive step and exponential schedule, and its code's memory.
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
