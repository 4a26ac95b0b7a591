"""``python -m stbass.cli`` is ``stbass``."""

from __future__ import annotations

from stbass.cli import main

main()
