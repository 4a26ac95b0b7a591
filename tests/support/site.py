"""A web server in a subprocess, and what a client says to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from stbass.testing._guarded import GuardedProcess, GuardedProgram
from stbass.testing.redis_server import free_port

__all__ = ["ROOT", "Site", "gunicorn"]

ROOT = Path(__file__).parents[2]


class Site(GuardedProgram):
    """A web server on a free port.

    Args:
        command: what Python runs; ``{port}`` in it is the port.
        ready: what the log says when the server listens.
        environment: variables beside those of this Python process.
        cwd: where it runs.
    """

    def __init__(self, *command: str, ready: str, environment: Mapping[str, str], cwd: Path = ROOT) -> None:
        self.port = free_port()
        self._command = [sys.executable, *(part.format(port=self.port) for part in command)]
        self._ready = ready
        path = os.pathsep.join(dict.fromkeys((str(cwd), str(ROOT))))
        self._environment = {**os.environ, **environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        self._cwd = cwd

    def start(self) -> None:
        """Start it, and return when it listens."""
        self._process = GuardedProcess(self._command, name="the web server", env=self._environment, cwd=self._cwd)
        self._process.wait_for_log(self._ready, 60.0)
        # A server with several workers says so before one of them takes connections.
        until = time.monotonic() + 60.0
        while self.running and not self._listens():
            assert time.monotonic() < until, f"it does not listen:\n{self.log}"
            time.sleep(0.02)

    def _not_started(self) -> str:
        return "the web server was never started"

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> int:
        """End it as whoever deploys it does, and give its exit code."""
        self._started().send_signal(signal.SIGTERM)
        return self.wait(60.0)

    def kill(self) -> None:
        """Kill it, if it was started."""
        if self._process is not None:
            self._process.kill()

    def open(
        self, method: str, path: str, body: Any = None, *, form: Mapping[str, str] | None = None, **headers: str
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """The answer, of which nothing has been read. A body is sent as JSON, a form as a browser's."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = None
        if form is not None:
            named["Content-Type"], sent = "application/x-www-form-urlencoded", urlencode(form)
        elif body is not None:
            named["Content-Type"], sent = "application/json", json.dumps(body)
        connection.request(method, path, sent, named)
        return connection, connection.getresponse()

    def ask(
        self, method: str, path: str, body: Any = None, *, form: Mapping[str, str] | None = None, **headers: str
    ) -> tuple[int, Any]:
        """The status of the answer, and what its JSON says; None if it is none."""
        connection, answer = self.open(method, path, body, form=form, **headers)
        with closing(connection):
            text = answer.read()
            is_json = text and "json" in answer.headers.get("Content-Type", "")
            return answer.status, json.loads(text) if is_json else None

    def follow(self, path: str, after: str | None = None) -> Iterator[dict[str, Any]]:
        """The server-sent events of a run; whoever closes this cuts the connection."""
        headers = {} if after is None else {"Last_Event_ID": after}
        connection, answer = self.open("GET", path, form=None, **headers)
        with closing(connection):
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            fields: dict[str, str] = {}
            while line := answer.readline().decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    yield {**json.loads(fields["data"]), "sent": (fields["id"], fields["event"])}
                    fields = {}

    def ask_and_go(self, path: str) -> closing[socket.socket]:
        """A connection on which that was asked, and on which nobody will read the answer."""
        client = socket.create_connection(("127.0.0.1", self.port), 10)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return closing(client)


def gunicorn(*arguments: str, threads: int, environment: Mapping[str, str], cwd: Path = ROOT) -> Site:
    """One under gunicorn with two workers of so many threads.

    The application is loaded before the workers are forked: they must not share what it has.
    """
    command = ["-m", "gunicorn", "--no-control-socket", "--preload", "--workers", "2", "--threads", str(threads)]
    command += ["--bind", "127.0.0.1:{port}", *arguments]
    return Site(*command, ready="Booting", environment=environment, cwd=cwd)
