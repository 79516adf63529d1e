"""Numbers that are policy: each has one name, and says what it is and what chose it."""

import runpy
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "policy_constants.py"
pytestmark = pytest.mark.skipif(not TABLE.is_file(), reason="the documentation is not here")
# Labels, exit codes, and facts of number formats and processors, which nobody chooses.
FACTS = {"UNPENALISED", "FIXED", "STDERR", "LINE_BYTES", "LARGEST_EXPONENT"}
FACTS |= {"_SPARE", "_SHIFT", "_ONE_SIGN", "_ROUNDER"}


@pytest.fixture(scope="module")
def page():
    return runpy.run_path(str(TABLE))


def test_every_number_says_what_it_is_and_why_or_is_a_fact(page):
    found = page["constants"]()
    silent = [
        f"{one.module}.{one.name}"
        for one in found
        if one.name not in FACTS and not (one.what and one.why)
    ]
    assert not silent
    assert {one.name for one in found} >= FACTS


def test_no_name_stands_for_two_numbers(page):
    counts = Counter(one.name for one in page["constants"]())
    assert not [name for name, n in counts.items() if n > 1]


def test_a_row_of_the_table_has_what_the_code_says(page, tmp_path):
    (tmp_path / "room.py").write_text(
        "# Steps to take.\n# Why: more of them\n# gained nothing.\nMAX_STEPS = 1 << 3\nOTHER = 2\n"
    )
    rows = "\n".join(page["table"](tmp_path))
    assert "``MAX_STEPS`` in ``room``" in rows
    assert "``1 << 3``" in rows
    assert "- Steps to take.\n      - More of them gained nothing." in rows
    assert "OTHER" not in rows
