"""What is installed, apart from what it computes."""

import importlib.metadata
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import hoag_shine

API_PAGE = Path(__file__).parent.parent / "docs" / "api.rst"


def test_version_is_that_of_the_distribution():
    assert hoag_shine.__version__ == importlib.metadata.version("hoag-shine")


def test_type_hints_are_announced():
    assert files("hoag_shine").joinpath("py.typed").is_file()


def test_import_leaves_optional_packages_alone():
    loaded = subprocess.run(
        [sys.executable, "-c", "import hoag_shine, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "hoag_shine" in loaded
    assert not {"matplotlib", "torch", "dask", "benchopt", "optuna"} & set(loaded)


@pytest.mark.skipif(not API_PAGE.exists(), reason="the documentation is not beside the tests")
def test_every_public_name_is_in_the_api_reference():
    listed = set(re.findall(r"^ {4}(\w+)$", API_PAGE.read_text(), flags=re.MULTILINE))
    assert set(hoag_shine.__all__) - {"__version__"} <= listed
