"""``python -m stbass`` is the command line, ``stbass``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without the packages that it needs, say which."""
    try:
        from stbass.cli import main as run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("click", "rich", "typer"):
            raise
        sys.exit(f"stbass: the command line needs {package}, which is not installed: pip install {package}")
    run()


if __name__ == "__main__":
    main()
