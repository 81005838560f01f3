"""Freed memory stays with the process: malloc's own behaviour beside it, counted in page faults."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from attnlab.training.memory import keep_freed_memory

def faults():
    def pages():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    def step():
        blocks = [bytearray(6 << 20) for _ in range(4)] + [bytearray(48 << 20)]  # they are written
    step()
    before = pages()
    for _ in range(5):
        step()
    return pages() - before

print(faults())
keep_freed_memory()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's malloc that is told so")
def test_later_steps_fetch_no_pages():
    told = subprocess.run([sys.executable, "-c", FAULTS], check=True, timeout=60, capture_output=True, text=True)
    by_itself, kept = map(int, told.stdout.split())
    assert kept < by_itself / 10
