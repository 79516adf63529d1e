"""The table of features names a test for everything that it says of this library."""

import ast
import re
from pathlib import Path

import pytest

TABLE = Path(__file__).parents[2] / "docs" / "deq_features.rst"

pytestmark = pytest.mark.skipif(not TABLE.is_file(), reason="no documentation beside the tests")
TESTS = r"``test_\w+``: ``test_\w+``(, ``test_\w+``)*"  # of one file


def rows():
    """Return the cells of all rows but the heads."""
    found = re.split(r"^   \* - ", TABLE.read_text(), flags=re.MULTILINE)[1:]
    cells = [[cell.strip() for cell in row.split("\n     - ")] for row in found]
    return [row for row in cells if row[0]]


def functions_of(file):
    tree = ast.parse((Path(__file__).parent / f"{file}.py").read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_has_a_test_or_says_no():
    table = rows()
    assert len(table) > 40
    for name, *_, here in table:
        here = " ".join(here.split("\n\n")[0].split())
        assert here == "no" or re.fullmatch(rf"{TESTS}(; {TESTS})*", here), name
        for file, tests in re.findall(r"``(\w+)``: ([^;]+)", here):
            assert set(re.findall(r"\w+", tests)) <= functions_of(file), name
