"""The tests of hoag_shine.deq are skipped where PyTorch is not installed."""

import importlib.util

import pytest

HAS_TORCH = importlib.util.find_spec("torch") is not None

if HAS_TORCH:
    import torch

    torch.set_num_threads(1)


def pytest_ignore_collect(collection_path):
    """Leave out modules that could not be imported; test_without_torch.py says so."""
    if not HAS_TORCH and collection_path.name not in ("conftest.py", "test_without_torch.py"):
        return collection_path.suffix == ".py" or None
    return None


@pytest.fixture(autouse=True)
def _seed():
    if HAS_TORCH:
        torch.manual_seed(0)
