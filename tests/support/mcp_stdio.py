"""An MCP server over standard input and output, written out by hand, so that it starts at once and can behave badly.

As a program it is the server: ``python mcp_stdio.py LOG MANNER``. It appends its process id to the file LOG.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

__all__ = ["PROBE", "pids", "probe_address"]

PROBE = Path(__file__)

_SCHEMA: dict[str, Any] = {"type": "object"}
_ANSWER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
_TOOLS: list[dict[str, Any]] = [
    *({"name": name, "inputSchema": _SCHEMA} for name in ("echo", "die", "hold", "release", "huge", "broken")),
    {"name": "misfit", "inputSchema": _SCHEMA, "outputSchema": _ANSWER},
    {"name": "tasked", "inputSchema": _SCHEMA, "execution": {"taskSupport": "required"}},
    {"name": "tasked at length", "inputSchema": _SCHEMA, "execution": {"taskSupport": "required"}},
]


def probe_address(log: Path, manner: str = "well") -> str:
    """The address of this server: what it starts is noted in ``log``; ``manner`` is how it behaves."""
    return "stdio:" + shlex.join([sys.executable, "-S", str(PROBE), str(log), manner])


def pids(log: Path) -> list[int]:
    """The process ids of the servers that were started."""
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def _write(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def _text(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}


def _task(name: str, status: str) -> dict[str, Any]:
    at = "2026-01-01T00:00:00Z"
    return {"taskId": name, "status": status, "createdAt": at, "lastUpdatedAt": at, "ttl": None}


def _listed(manner: str, cursor: str | None) -> dict[str, Any]:
    if manner == "endless":
        return {"tools": [{"name": f"t{cursor}", "inputSchema": _SCHEMA}], "nextCursor": f"{cursor}x"}
    if manner == "pages":
        first = int(cursor or 0)
        names = [f"t{number}" for number in range(first, first + 10)]
        page: dict[str, Any] = {"tools": [{"name": name, "inputSchema": _SCHEMA} for name in names]}
        return {**page, "nextCursor": str(first + 10)} if first < 490 else page
    return {"tools": _TOOLS}


def _main(log: str, manner: str) -> None:
    with Path(log).open("a") as file:
        file.write(f"{os.getpid()}\n")
    if manner == "die":
        raise SystemExit("no configuration")
    held: list[Any] = []
    tasks: dict[str, dict[str, Any]] = {}
    for line in sys.stdin:
        message = json.loads(line)
        result: dict[str, Any]
        method, number, params = message.get("method"), message.get("id"), message.get("params") or {}
        if number is None or method is None:
            continue
        if manner == "garbage":
            sys.stdout.write("Traceback (most recent call last):\n{\n[]\nnull\n")
        if manner == "binary":
            sys.stdout.flush()
            sys.stdout.buffer.write(b"\xff\xfe\x00\n")
            sys.stdout.buffer.flush()
        if manner == "requests" and method == "tools/call":
            for asked in ("roots/list", "sampling/createMessage", "elicitation/create", "no/such"):
                _write({"id": f"{asked} {number}", "method": asked, "params": {}})
        if method == "initialize":
            version = "2025-11-25"
            result = {
                "protocolVersion": version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "probe", "version": "1"},
            }
        elif method == "tools/list":
            result = _listed(manner, params.get("cursor"))
        elif method == "tools/call":
            name = params["name"]
            if name == "die":
                os._exit(1)
            if name == "hold":
                held.append(number)
                token = params.get("_meta", {}).get("progressToken")
                _write(
                    {
                        "method": "notifications/progress",
                        "params": {"progressToken": token, "progress": 1, "message": "held"},
                    }
                )
                continue
            if name == "release":
                for waiting in held:
                    _write({"id": waiting, "result": _text("released")})
                held.clear()
            if name.startswith("tasked"):
                if "task" not in params:
                    _write({"id": number, "error": {"code": -32601, "message": "task augmentation required"}})
                    continue
                tasks[str(number)] = params
                _write({"id": number, "result": {"task": _task(str(number), "working")}})
                continue
            if name == "huge":
                result = _text("x" * 8_000_000)
            elif name == "misfit":
                result = {"content": [], "structuredContent": {"n": "one"}}
            elif name == "broken":
                result = {"content": 7}
            else:
                result = _text(str(params.get("arguments", {}).get("text")))
        elif method == "tasks/result" and params["taskId"] in tasks:
            call = tasks[params["taskId"]]
            if call["name"] == "tasked at length":
                Path(f"{log}.tasks").write_text("waiting")
                continue
            text = call["arguments"].get("text")
            result = {**_text(f"task: {text}"), "isError": text is None}
        elif method == "tasks/cancel" and params["taskId"] in tasks:
            Path(f"{log}.tasks").write_text("cancelled")
            result = _task(params["taskId"], "cancelled")
        else:
            _write({"id": number, "error": {"code": -32601, "message": "Method not found"}})
            continue
        _write({"id": number, "result": result})
        if manner == "twice":
            _write({"id": number, "result": result})


if __name__ == "__main__":
    _main(*sys.argv[1:])
elif "PROBE_ADDRESS" in os.environ:
    # Included by a worker, which may start this server then.
    from stbass.mcp import allow_command

    allow_command(os.environ["PROBE_ADDRESS"])
