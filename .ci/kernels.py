"""Print the BLAS kernels that this processor runs, as values of OPENBLAS_CORETYPE, one a line.

The first is the one that OpenBLAS chooses by itself, the last is for the oldest processors.
"""

import os
import subprocess
import sys

# From new to old, one for each set of instructions.
CANDIDATES = ("SAPPHIRERAPIDS", "SKYLAKEX", "HASWELL", "NEHALEM")
CANDIDATES += ("NEOVERSEV1", "NEOVERSEN1", "ARMV8")

# NumPy and SciPy each bring an OpenBLAS. It takes some names without a look at the processor, which
# then kills the process at the first instruction that it does not know.
PROBE = """
import numpy as np
from scipy import linalg
from threadpoolctl import threadpool_info

for dtype in (np.float32, np.float64):
    A = np.random.default_rng(0).normal(size=(300, 300)).astype(dtype)
    A @ A, A @ A[0], A[0] @ A[0]
    for module in (np.linalg, linalg):
        module.svd(A)
        module.solve(A, A[0])
print(*{lib["architecture"] for lib in threadpool_info() if lib["internal_api"] == "openblas"})
"""


def main() -> None:
    """Print the names, or exit with a message if there are fewer than two."""
    default = kernel("")
    others = [name for name in CANDIDATES if name != default and kernel(name) == name]
    if not default or not others:
        sys.exit(f"needs two kernels of OpenBLAS that run here, found {[default, *others]}")
    print(default, *others, sep="\n")


def kernel(name: str) -> str:
    """Return the kernel that OpenBLAS uses if asked for one; empty if it does not run.

    Several names, of which none is a candidate, if NumPy and SciPy use different ones.
    """
    environment = os.environ | {"OPENBLAS_CORETYPE": name}
    command = [sys.executable, "-c", PROBE]
    probe = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return probe.stdout.strip().upper()


if __name__ == "__main__":
    main()
