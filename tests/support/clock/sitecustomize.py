"""Sets the clock of a Python process wrong, by ``TEST_CLOCK`` seconds: Python imports this first, at its start.

Its folder must be the first on ``PYTHONPATH``.
"""

from __future__ import annotations

import os
import time

_right = time.time
_wrong_by = float(os.environ.get("TEST_CLOCK", "0"))


def _wrong() -> float:
    return _right() + _wrong_by


time.time = _wrong
