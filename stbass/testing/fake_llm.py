"""A fake LLM: a local HTTP server that answers as a chat-completions API does, with latency and errors as wanted.

It needs no key and no network, and what it says is a function of what it is asked, so a test can expect it.
``python -m stbass.testing.fake_llm --port 8080`` serves until Ctrl-C.

==============================  =======================================================================
``POST /v1/chat/completions``   ``{"model", "messages": [{"role", "content"}]}`` → ``choices[0].message``
``POST /v1/embeddings``         ``{"model", "input": str | [str]}`` → ``data[i].embedding``
``GET /health``                 ``{"status": "ok"}``
==============================  =======================================================================
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import urlsplit

from stbass.errors import ConfigurationError, StbassError
from stbass.testing._started import StartedInContext

__all__ = ["FakeLLM", "LLMError", "complete", "embed"]

_BODY_LIMIT = 2**20
_DIMENSIONS = 8
_START_SECONDS = 10.0
_GOOD, _BAD = {"early", "great", "kind", "thanks"}, {"broken", "late", "never", "rude"}


class LLMError(StbassError):
    """The LLM server answered with an error.

    ``status`` is the HTTP status.
    """

    status: int = 0


class FakeLLM(StartedInContext):
    """The server, on a thread and an event loop of its own, as a context manager (``with`` and ``async with``).

    Args:
        host: address to listen on.
        port: TCP port; 0 picks a free one.
        latency: seconds before each answer, for all models or by model (others answer at once).
        errors: the HTTP status that a model answers with, by model, for example ``{"broken": 503}``.
        reply: what it says, from model and last message; the default repeats the message in a set phrase.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency: float | Mapping[str, float] = 0.0,
        errors: Mapping[str, int] | None = None,
        reply: Callable[[str, str], str] | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._latency = latency
        self._errors = dict(errors or {})
        self._reply = reply or _say
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._up = threading.Event()
        self._failed: BaseException | None = None
        self.served: list[str] = []
        """The model of every request that was answered, in order."""
        self.waiting = 0
        """How many requests it is answering now."""
        self.most_waiting = 0
        """How many it was answering at once, at most."""

    @property
    def url(self) -> str:
        """Where it listens, for ``STBASS_LLM_URL``."""
        return f"http://{self._host}:{self._port}"

    def start(self) -> Self:
        """Start it, and return when it listens.

        Raises:
            OSError: it cannot listen there.
        """
        self._up.clear()
        self._failed = None
        self._thread = threading.Thread(target=self._run, name="fake LLM", daemon=True)
        self._thread.start()
        if not self._up.wait(_START_SECONDS):
            raise StbassError(f"the fake LLM on {self._host} did not start within {_START_SECONDS:g} s")
        if self._failed is not None:
            raise self._failed
        return self

    def stop(self) -> None:
        """End it; requests that wait are cut off. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    _leave = stop

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error
            self._up.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, self._host, self._port, limit=_BODY_LIMIT)
        self._port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            status, answer = await self._answer(reader)
            body = json.dumps(answer).encode()
            head = f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            await writer.drain()
        except ConnectionError:
            pass  # the client went away: there is nobody to tell
        except asyncio.CancelledError:
            pass  # asyncio.run cancels what is left at the end; asyncio's streams would log that as an error
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
        try:
            method, path, body = await _read_request(reader)
        except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            return 400, _error(f"not a request: {error}")
        if (method, path) == ("GET", "/health"):
            return 200, {"status": "ok"}
        if (method, path) not in (("POST", "/v1/chat/completions"), ("POST", "/v1/embeddings")):
            return 404, _error(f"no {method} {path} here")
        try:
            request = json.loads(body)
            model = str(request["model"])
            asked = request["messages"][-1]["content"] if path.endswith("completions") else request["input"]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            return 400, _error(f"the body does not fit {path}: {type(error).__name__}: {error}")
        return await self._work(model, asked, embedding=path.endswith("embeddings"))

    async def _work(self, model: str, asked: Any, *, embedding: bool) -> tuple[int, dict[str, Any]]:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            latency = self._latency.get(model, 0.0) if isinstance(self._latency, Mapping) else self._latency
            if latency > 0:
                await asyncio.sleep(latency)
        finally:
            self.waiting -= 1
        self.served.append(model)
        if model in self._errors:
            return self._errors[model], _error(f"model {model!r} is not available")
        if embedding:
            texts = [asked] if isinstance(asked, str) else list(asked)
            data = [{"index": index, "embedding": _vector(str(text))} for index, text in enumerate(texts)]
            return 200, {"object": "list", "model": model, "data": data}
        message = {"role": "assistant", "content": self._reply(model, str(asked))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return 200, {"object": "chat.completion", "model": model, "choices": [choice]}


async def complete(prompt: str, *, model: str, url: str, timeout: float = 60.0) -> str:
    """Ask a chat-completions server one thing, and give back what it says.

    Args:
        prompt: the user's message.
        model: name of the model.
        url: where the server is, ``http://host:port``.
        timeout: seconds.

    Raises:
        ConfigurationError: the URL is not ``http://host:port``.
        LLMError: the server answered with an error.
        OSError: it cannot be reached.
        TimeoutError: it did not answer in time.
    """
    request = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    answer = await _post(url, "/v1/chat/completions", request, timeout)
    return str(answer["choices"][0]["message"]["content"])


async def embed(text: str, *, model: str, url: str, timeout: float = 60.0) -> list[float]:
    """The vector of a text; arguments and errors as for :func:`complete`."""
    answer = await _post(url, "/v1/embeddings", {"model": model, "input": text}, timeout)
    return [float(number) for number in answer["data"][0]["embedding"]]


async def _post(url: str, path: str, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    split = urlsplit(url)
    if split.scheme != "http" or not split.hostname:
        raise ConfigurationError(f"the URL of the LLM server must be http://host:port, got {url!r}")
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(split.hostname, split.port or 80, limit=_BODY_LIMIT)
        try:
            body = json.dumps(request).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: {split.netloc}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            await writer.drain()
            status = int((await reader.readuntil(b"\r\n")).split()[1])
            answer = json.loads(await _read_body(reader))
        finally:
            writer.close()
    if status != 200:
        raise LLMError(f"the LLM server at {url} answered {status}: {_reason(answer)}", status=status)
    if not isinstance(answer, dict):
        raise LLMError(f"the LLM server at {url} answered {type(answer).__name__}, not an object", status=status)
    return answer


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
    line = (await reader.readuntil(b"\r\n")).decode("latin-1")
    method, path, _ = line.split()
    return method, path, await _read_body(reader)


async def _read_body(reader: asyncio.StreamReader) -> bytes:
    length = 0
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        name, _, value = line.decode("latin-1").partition(":")
        if name.strip().lower() == "content-length":
            length = int(value)
    if not 0 <= length <= _BODY_LIMIT:
        raise ValueError(f"a body of {length} bytes; at most {_BODY_LIMIT}")
    return await reader.readexactly(length)


def _say(model: str, asked: str) -> str:
    if "good, bad or neither" in asked:
        words = {word.strip(".,:;!?") for word in asked.lower().split()}
        return "bad" if words & _BAD else "good" if words & _GOOD else "neither"
    return f"{model} on {asked!r}: it depends."


def _vector(text: str) -> list[float]:
    digest = hashlib.sha256(text.encode()).digest()
    return [round(byte / 127.5 - 1, 6) for byte in digest[:_DIMENSIONS]]


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message}}


def _reason(answer: Any) -> str:
    try:
        return str(answer["error"]["message"])
    except (KeyError, TypeError):
        return "no reason given"


def main(argv: list[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m stbass.testing.fake_llm", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds before each answer")
    arguments = parser.parse_args(argv)
    with FakeLLM(host=arguments.host, port=arguments.port, latency=arguments.latency) as llm:
        sys.stdout.write(f"fake LLM on {llm.url}, Ctrl-C ends it\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
