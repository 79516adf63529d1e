"""What is installed, apart from what it computes."""

import importlib.metadata
import re
from importlib.resources import files
from pathlib import Path

import pytest
from helpers import in_a_process

import hoag_shine

API_PAGE = Path(__file__).parent.parent / "docs" / "api.rst"


def test_version_is_that_of_the_distribution():
    assert hoag_shine.__version__ == importlib.metadata.version("hoag-shine")


def test_type_hints_are_announced():
    assert files("hoag_shine").joinpath("py.typed").is_file()


def test_a_bare_import_loads_nothing_before_it_is_asked_for():
    loaded = in_a_process("import hoag_shine, sys; print(*sys.modules)")
    assert "hoag_shine" in loaded
    assert not {"numpy", "sklearn", "numba", "hoag_shine.linalg.kernels"} & set(loaded)


def test_the_search_loads_no_more_than_it_needs():
    loaded = in_a_process("from hoag_shine import ShineCV; import sys; print(*sys.modules)")
    assert "hoag_shine.search" in loaded
    assert not {"matplotlib", "torch", "dask", "benchopt", "optuna"} & set(loaded)
    assert not {"libsvmdata", "requests", "safetensors"} & set(loaded)
    others = {"cli", "datasets", "deq", "persistence", "plotting", "testing"}
    assert not {f"hoag_shine.{name}" for name in others} & set(loaded)


@pytest.mark.parametrize("collects", [True, False])
def test_the_first_fit_leaves_the_garbage_collector_as_it_was(collects):
    code = f"""
import gc
import numpy as np
from sklearn.linear_model import Ridge
from hoag_shine import ShineCV
gc.enable() if {collects} else gc.disable()
ShineCV(Ridge()).fit(np.eye(10), np.arange(10.0))
print(gc.isenabled())
"""
    assert in_a_process(code) == [str(collects)]


@pytest.mark.skipif(not API_PAGE.exists(), reason="the documentation is not beside the tests")
def test_every_public_name_is_in_the_api_reference():
    listed = set(re.findall(r"^ {4}(\w+)$", API_PAGE.read_text(), flags=re.MULTILINE))
    assert set(hoag_shine.__all__) - {"__version__"} <= listed
