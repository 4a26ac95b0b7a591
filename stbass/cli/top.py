"""``stbass top``: the fleet, live, in a terminal or, with ``--serve``, in a browser."""

from __future__ import annotations

import os
import shlex
import socket
import sys

from stbass.cli.exits import Exit
from stbass.cli.named import load_application
from stbass.errors import ConfigurationError

__all__ = ["run_top"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run_top(app: str, serve: int | None, host: str, url: str | None) -> int:
    """Show the fleet until the user has seen enough; gives back the exit code.

    Args:
        app: the Celery application.
        serve: the port at which a browser may see it; None: it shows in this terminal.
        host: where that port is.
        url: how browsers reach it; by default at the host's address.

    Raises:
        ConfigurationError: the application cannot be loaded, there is no terminal, or the port is not free.
        ModuleNotFoundError: textual is not installed.
    """
    if serve is not None:
        return _serve(app, serve, host, url)
    # Textual draws on standard error; it names a driver where it is a browser that shows it.
    in_terminal = sys.stdin.isatty() and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if not in_terminal and "TEXTUAL_DRIVER" not in os.environ:
        raise ConfigurationError(
            "top needs a terminal: `stbass status` shows the same once (--json for programs), and `stbass top --serve"
            " PORT` shows it in a browser"
        )
    from stbass.backends.celery.settings import fleet_of
    from stbass.cli.top_view import Top

    application = load_application(app)
    fleet_of(application).settings  # noqa: B018 - what is wrong with them is said before the screen is taken
    Top(application).run()
    return Exit.OK


def _serve(app: str, port: int, host: str, url: str | None) -> int:
    from stbass.cli.top_server import TopServer

    load_application(app)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise ConfigurationError(f"--serve {port}: {host}: {error.strerror or error}; choose another") from error
    shown = url or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if host not in _LOOPBACK:
        sys.stderr.write(
            f"Whoever reaches {host}:{port} sees all that runs, and can cancel it: nobody is asked for a password."
            " Put a proxy before it that asks.\n"
        )
    sys.stderr.write(f"stbass top: {shown} (Ctrl-C ends it)\n")
    sys.stderr.flush()
    command = [sys.executable, "-m", "stbass.cli", "top", "--app", app]
    TopServer(shlex.join(command), host, port, title="stbass top", public_url=shown.rstrip("/")).serve()
    return Exit.OK
