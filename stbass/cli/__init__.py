"""The command line, ``stbass``. Every command's own module is loaded only when the command runs."""

from __future__ import annotations

import gc
import sys
from io import TextIOWrapper

from stbass.cli.commands import cli
from stbass.cli.exits import Exit, complain
from stbass.errors import ConfigurationError, MissingDependencyError, StbassError

__all__ = ["main"]

_EXTRAS = dict.fromkeys(("billiard", "celery", "kombu", "pydantic_settings", "redis", "vine"), "celery")
_EXTRAS |= dict.fromkeys(("aiohttp", "textual", "textual_serve"), "top")
"""Which extra brings a package that a command may find missing."""


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    if isinstance(sys.stdout, TextIOWrapper):
        # Half of an emoji, or a line of a drawing where the terminal has no letter for it, ends no command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cli(prog_name="stbass")
    except (ConfigurationError, MissingDependencyError) as error:
        code = Exit.SETTINGS
        complain(f"stbass: {error}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        code = Exit.SETTINGS
        sys.stderr.write(f"stbass: this needs {package}: pip install 'stbass-celery[{_EXTRAS[package]}]'\n")
    except StbassError as error:
        code = Exit.FAILED
        complain(f"stbass: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        code = Exit.FAILED
        complain(f"stbass: {error.filename} cannot be used ({error.strerror}): change that, or name another")
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    else:
        code = Exit.OK
    finally:
        # The interpreter ends by looking for garbage in all that is there, a fifth of the time of a short command.
        gc.freeze()
    sys.exit(code)
