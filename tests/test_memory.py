"""Freed memory is kept for the next vectors, and nothing is taken for that."""

import platform

import pytest
from helpers import in_a_process

FAULTS = """
import resource
import numpy as np
from hoag_shine.linalg.allocator import keep_freed_memory

def used():
    return resource.getrusage(resource.RUSAGE_SELF)

def new_pages():
    before = used().ru_minflt
    for _ in range(20):
        [np.ones(400_000) for _ in range(8)]
    return used().ru_minflt - before

anew = new_pages()
size = used().ru_maxrss
keep_freed_memory()
grown = used().ru_maxrss - size
new_pages()
print(anew, new_pages(), grown)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries do as they do")
def test_memory_of_vectors_is_not_fetched_anew():
    anew, again, grown = map(int, in_a_process(FAULTS))
    assert again < 0.1 * anew
    assert grown < 1024  # KiB
