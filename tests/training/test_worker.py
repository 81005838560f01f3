"""A point's process."""

import os
import subprocess
import sys


def test_what_a_point_prints_goes_to_its_log_in_utf_8_whatever_the_locale():
    code = "from attnlab.training import worker; worker._print_anything(); print('✓ größer', chr(0xDCC3))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "✓ größer ?\n".encode()
