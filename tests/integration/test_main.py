"""``python -m stbass``: where the packages of the command line are missing, one sentence says so."""

from __future__ import annotations

import subprocess
import sys


def test_a_missing_package_is_named() -> None:
    # given a Python without it
    program = "import runpy, sys; sys.modules['typer'] = None; runpy.run_module('stbass', run_name='__main__')"
    # when
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    # then
    said = "stbass: the command line needs typer, which is not installed: pip install typer\n"
    assert (done.returncode, done.stderr) == (1, said)
