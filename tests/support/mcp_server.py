"""A real MCP server for the tests.

As a program (``python mcp_server.py stdio``, ``… http``, ``… sse``) it is the server: over HTTP it listens on a free
loopback port and says which on its first line. As a module it starts that program: ``with serving("http")``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import AssistantMessage, UserMessage
from mcp_types import ImageContent, TextContent
from pydantic import Field

__all__ = ["Server", "serving", "stdio_address"]

_PIXEL = base64.b64encode(b"pixel").decode()


# The program -------------------------------------------------------------------------------------


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _tools() -> Any:
    server = MCPServer("test server", log_level="CRITICAL")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    def describe(name: str, tags: list[str]) -> dict[str, Any]:
        """Give the arguments back."""
        return {"name": name, "tags": tags}

    @server.tool(structured_output=False)
    def shout(text: str) -> str:
        """Give a text back in capitals."""
        return text.upper()

    @server.tool(structured_output=False)
    def album() -> list[Any]:
        """Give back more than one part."""
        return [TextContent(text="a pixel"), ImageContent(data=_PIXEL, mime_type="image/png")]

    @server.tool(structured_output=False)
    def nothing() -> None:
        """Give back nothing."""

    @server.tool()
    def refuse(why: str) -> str:
        """Fail in a way that the tool foresaw."""
        raise ToolError(why)

    @server.tool()
    def crash() -> str:
        """Fail in a way that nobody foresaw."""
        raise ZeroDivisionError("the inside of the server")

    @server.tool()
    def percent(value: Annotated[int, Field(ge=0, le=100)]) -> int:
        """Take a number from 0 to 100."""
        return value

    @server.tool()
    def environment(name: str) -> str | None:
        """A variable of the server's environment."""
        return os.environ.get(name)

    @server.tool()
    def header(name: str, ctx: Context) -> str | None:
        """A header of the request."""
        return None if ctx.headers is None else ctx.headers.get(name)

    @server.tool()
    def complain(text: str) -> str:
        """Write on standard error."""
        _say(text)
        return text

    @server.tool()
    async def count(to: int, ctx: Context) -> int:
        """Count, and report the progress."""
        for done in range(1, to + 1):
            await ctx.report_progress(done, to, f"counted {done}")
        return to

    @server.tool()
    async def wait(ctx: Context) -> str:
        """Report the server's process id, then wait until the call is cancelled, and say so on standard error."""
        await ctx.report_progress(0, None, str(os.getpid()))
        try:
            await anyio.sleep_forever()
        finally:
            _say("cancelled")
        return "never"

    @server.tool()
    async def stubborn(ctx: Context) -> str:
        """Report the server's process id, then answer; the server's process ends only when it is killed."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=threading.Event().wait).start()
        await ctx.report_progress(0, None, str(os.getpid()))
        return "done"

    gathered = 0
    together = anyio.Event()

    @server.tool()
    async def meet(parties: int) -> int:
        """Return when that many calls are here at once."""
        nonlocal gathered
        gathered += 1
        if gathered == parties:
            together.set()
        await together.wait()
        return gathered

    _resources_and_prompts(server)
    return server


def _resources_and_prompts(server: Any) -> None:
    @server.resource("note://today", title="Today's note", mime_type="text/plain")
    def note() -> str:
        """What is on today."""
        return "write the report"

    @server.resource("picture://pixel", mime_type="image/png")
    def pixel() -> bytes:
        return b"pixel"

    @server.resource("log://{day}/{level}")
    def log(day: str, level: str) -> str:
        """The log of a day."""
        return f"{day} at {level}"

    @server.resource("broken://it")
    def broken() -> str:
        raise ZeroDivisionError("the inside of the server")

    @server.prompt(title="A summary")
    def summarise(text: str, words: int = 50) -> str:
        """Ask for a summary."""
        return f"Summarise in {words} words: {text}"

    @server.prompt()
    def talk() -> list[Any]:
        """More than one message, and a picture."""
        return [
            AssistantMessage("How can I help?"),
            UserMessage(ImageContent(data=_PIXEL, mime_type="image/png")),
        ]


def _guarded(app: Any, options: argparse.Namespace) -> Any:
    """The application behind what the options ask for."""

    async def refuse(send: Any, status: int, body: bytes) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if options.query is not None and scope["query_string"].decode() != options.query:
            await refuse(send, 401, b"{}")
            return
        if options.login is not None:
            wanted = b"Basic " + base64.b64encode(options.login.encode())
            if headers.get(b"authorization") != wanted:
                await refuse(send, 401, b"{}")
                return
        if options.legacy and scope["method"] == "POST":
            messages: list[Any] = []
            while not messages or messages[-1].get("more_body"):
                messages.append(await receive())
            body = b"".join(message.get("body", b"") for message in messages)
            if body and json.loads(body).get("method") == "server/discover":
                error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32601, "message": "Method not found"}}
                await refuse(send, 400, json.dumps(error).encode())
                return
            replay = iter(messages)

            async def again() -> Any:
                message = next(replay, None)
                return await receive() if message is None else message

            await app(scope, again, send)
            return
        await app(scope, receive, send)

    return guarded


def _serve(options: argparse.Namespace) -> None:
    server = _tools()
    if options.transport == "stdio":
        server.run("stdio")
        return
    if options.transport == "sse":
        app = server.sse_app(sse_path=options.path or "/sse")
    else:
        app = server.streamable_http_app(streamable_http_path=options.path or "/mcp")
    listening = socket.create_server(("127.0.0.1", options.port))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(_guarded(app, options), log_level="critical", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", choices=["stdio", "http", "sse"])
    parser.add_argument("--path", help="of the endpoint")
    parser.add_argument("--port", type=int, default=0, help="to listen on")
    parser.add_argument("--query", help="what the query must be")
    parser.add_argument("--login", help="user:password that is asked for")
    parser.add_argument("--legacy", action="store_true", help="know nothing of the newest protocol")
    _serve(parser.parse_args())


# The module --------------------------------------------------------------------------------------


class Server:
    """A running server over HTTP."""

    def __init__(self, process: subprocess.Popen[str], port: int, path: str) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}{path}"

    async def says(self) -> str:
        """The next line that it writes on standard error."""
        assert self.process.stderr is not None
        return (await asyncio.to_thread(self.process.stderr.readline)).strip()

    def kill(self) -> None:
        """End it without notice."""
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(transport: str, *options: str, path: str | None = None) -> Iterator[Server]:
    """A server over ``"http"`` or ``"sse"``, in a process of its own."""
    given = [*options, *(["--path", path] if path else [])]
    with subprocess.Popen(
        [sys.executable, __file__, transport, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                assert process.stderr is not None
                raise RuntimeError(f"the MCP server did not start: {process.stderr.read()}")
            yield Server(process, int(line), path or ("/sse" if transport == "sse" else "/mcp"))
        finally:
            process.kill()


def stdio_address(*before: str) -> str:
    """The address of the server over its standard input and output; ``before`` are words before the command."""
    return "stdio:" + shlex.join([*before, sys.executable, str(Path(__file__)), "stdio"])


if __name__ == "__main__":
    _main()
