"""hoag_shine without PyTorch, and what is said where PyTorch is missing."""

import subprocess
import sys

BLOCKED = """
import sys
sys.modules["torch"] = None
import hoag_shine
try:
    import hoag_shine.deq
except ImportError as error:
    print(error)
"""


def test_the_missing_extra_is_named():
    output = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True
    ).stdout
    assert "pip install 'hoag-shine[torch]'" in output
