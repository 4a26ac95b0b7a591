"""A short soak; ``make soak`` runs a long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_half_a_minute_of_harm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.soak", "--seconds", "30", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=480, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
