"""Every value that a search reports is true: drawn problems against exact solutions.

The references and the problems are those of ``truth.py``, which runs as a script on more of them.
"""

import pytest
from truth import check, summary

# Every estimator comes up in each chunk.
CHUNKS, SIZE = 40, 50


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_reported_values_are_true(chunk):
    verdicts = [check(seed) for seed in range(chunk * SIZE, (chunk + 1) * SIZE)]
    failed = [str(verdict) for verdict in verdicts if verdict.failures]
    assert not failed, "\n".join([summary(verdicts), *failed])
