"""A point's process."""

import os
import subprocess
import sys


def test_what_a_point_prints_goes_to_its_log_in_utf_8_whatever_the_locale():
    code = """
import pathlib
from attnlab.training import loop, worker
loop.run = lambda *args, **options: print('✓ größer')
print(worker.main(pathlib.Path('nowhere')))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "✓ größer\n0\n".encode()
