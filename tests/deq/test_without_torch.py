"""hoag_shine without PyTorch, and what is said where PyTorch is missing."""

import importlib.util
import subprocess
import sys

import pytest

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


def test_torch_is_installed():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed: the tests of hoag_shine.deq are left out")
