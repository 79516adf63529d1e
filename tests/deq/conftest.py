"""The tests of hoag_shine.deq are skipped where PyTorch is not installed."""

import importlib.util

import pytest

HAS_TORCH = importlib.util.find_spec("torch") is not None

if HAS_TORCH:
    import torch

    torch.set_num_threads(1)


class NeedsTorch(pytest.File):
    """A file that could not be imported."""

    def collect(self):
        pytest.skip('needs PyTorch: pip install ".[test,torch]"')


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    """Skip what could not be imported."""
    collectors = yield
    if HAS_TORCH or not collectors or file_path.name in ("conftest.py", "test_without_torch.py"):
        return collectors
    return [NeedsTorch.from_parent(parent, path=file_path)]


@pytest.fixture(autouse=True)
def _seed():
    if HAS_TORCH:
        torch.manual_seed(0)
