"""A fake LLM: a local HTTP server that answers as the services do, with latency and whatever goes wrong as wanted.

It needs no key and no network, and what it says is a function of what it is asked, so a test can expect it.
``python -m stbass.testing.fake_llm --port 8080`` serves until Ctrl-C. Set a client's base URL to it: ``<url>/v1`` for
OpenAI's, ``<url>`` for Anthropic's.

Text, tool calls, structured output, usage, all of it in one piece or streamed. By itself it calls each tool that it is
offered once, in order, with arguments that fit the tool's schema, and then says something; what has to fit a schema
does. Texts in those samples are what it was asked last. A word is a token.

==============================  =======================================================================
``POST /v1/chat/completions``   OpenAI's chat completions
``POST /v1/responses``          OpenAI's responses
``POST /v1/messages``           Anthropic's messages
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self
from urllib.parse import urlsplit

from stbass.errors import ConfigurationError, StbassError
from stbass.testing._llm_protocols import (
    PATHS,
    Asked,
    LLMTrouble,
    ModelReply,
    ToolCall,
    answer,
    asked_by,
    refusal,
    stream,
)
from stbass.testing._started import StartedInContext

__all__ = ["Asked", "FakeLLM", "LLMError", "LLMTrouble", "ToolCall", "complete", "embed"]

_BODY_LIMIT = 2**26
_NO_TROUBLE = LLMTrouble()
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
        troubles: what goes wrong with the first requests of a model, by model, in order; None for one with which
            nothing does.
        keys: the API keys that it takes; others are refused with status 401. None: it does not look at them.
        reply: what it says, from model and last message; the default repeats the message in a set phrase.
        script: the same from all that was asked: a text, or the tools that it calls. None for what it says by itself.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency: float | Mapping[str, float] = 0.0,
        errors: Mapping[str, int] | None = None,
        troubles: Mapping[str, Sequence[LLMTrouble | None]] | None = None,
        keys: Iterable[str] | None = None,
        reply: Callable[[str, str], str] | None = None,
        script: Callable[[Asked], ModelReply | None] | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._latency = latency
        self._errors = dict(errors or {})
        self._troubles = {model: list(some) for model, some in (troubles or {}).items()}
        self._keys = None if keys is None else frozenset(keys)
        self._reply = reply or _say
        self._script = script
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._up = threading.Event()
        self._failed: BaseException | None = None
        self.served: list[str] = []
        """The model of every request that was answered, in order."""
        self.asked: list[Asked] = []
        """What was asked of models, in order, also by requests that were then refused."""
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
            await _send(await self._answer(reader), reader, writer)
        except ConnectionError:
            pass  # the client went away: there is nobody to tell
        except asyncio.CancelledError:
            pass  # asyncio.run cancels what is left at the end; asyncio's streams would log that as an error
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> _Answer:
        try:
            method, path, headers, body = await _read_request(reader)
        except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            return _Answer(400, refusal("chat", 400, f"not a request: {error}"))
        if (method, path) == ("GET", "/health"):
            return _Answer(200, {"status": "ok"})
        protocol = PATHS.get(path)
        if method != "POST" or (protocol is None and path != "/v1/embeddings"):
            return _Answer(404, refusal("chat", 404, f"no {method} {path} here"))
        if self._keys is not None and not self._keys & set(_keys_in(headers)):
            return _Answer(401, refusal(protocol or "chat", 401, "the API key is not known here"))
        try:
            request = json.loads(body)
            asked = None if protocol is None else asked_by(protocol, request)
            model = str(request["model"])
            texts = [] if asked is not None else request["input"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            text = f"the body does not fit {path}: {type(error).__name__}: {error}"
            return _Answer(400, refusal(protocol or "chat", 400, text))
        if asked is not None:
            self.asked.append(asked)
        await self._work(model)
        return self._embed(model, texts) if asked is None else self._speak(asked)

    async def _work(self, model: str) -> None:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            latency = self._latency.get(model, 0.0) if isinstance(self._latency, Mapping) else self._latency
            if latency > 0:
                await asyncio.sleep(latency)
        finally:
            self.waiting -= 1
        self.served.append(model)

    def _speak(self, asked: Asked) -> _Answer:
        left = self._troubles.get(asked.model)
        trouble = (left.pop(0) if left else None) or _NO_TROUBLE
        status = self._errors.get(asked.model, trouble.status)
        if status != 200:
            text = f"model {asked.model!r} is not available"
            return _Answer(status, refusal(asked.protocol, status, text), trouble=trouble)
        reply = None if self._script is None else self._script(asked)
        if reply is None:
            reply = asked.usual_reply(self._reply(asked.model, asked.text))
        number = len(self.served)
        if asked.streams:
            return _Answer(200, events=stream(asked, reply, number), trouble=trouble)
        return _Answer(200, answer(asked, reply, number), trouble=trouble)

    def _embed(self, model: str, asked: Any) -> _Answer:
        if model in self._errors:
            status = self._errors[model]
            return _Answer(status, refusal("chat", status, f"model {model!r} is not available"))
        texts = [asked] if isinstance(asked, str) else list(asked)
        data = [
            {"object": "embedding", "index": index, "embedding": _vector(str(text))} for index, text in enumerate(texts)
        ]
        tokens = sum(len(str(text).split()) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _Answer(200, {"object": "list", "model": model, "data": data, "usage": usage})


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer in one piece, or as events."""

    status: int
    body: Mapping[str, Any] = field(default_factory=dict)
    events: Iterable[str] | None = None
    trouble: LLMTrouble = _NO_TROUBLE


async def _send(answer: _Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    trouble = answer.trouble
    headers = {"Content-Type": "application/json", "request-id": "req_fake", **trouble.headers, "Connection": "close"}
    if answer.events is not None:
        # In chunks, by which a client knows that it was cut.
        headers |= {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        pieces = [b"%x\r\n%s\r\n" % (len(event), event) for event in map(str.encode, answer.events)] + [b"0\r\n\r\n"]
    else:
        body = json.dumps(answer.body).encode()
        headers["Content-Length"] = str(len(body))
        pieces = [body[: len(body) // 2], body[len(body) // 2 :]]
    ends_after = min((at for at in (trouble.stall_after, trouble.cut_after) if at is not None), default=None)
    if ends_after != 0:
        lines = [f"HTTP/1.1 {answer.status} {'OK' if answer.status == 200 else 'Error'}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
    for piece in islice(pieces, ends_after):
        writer.write(piece)
        await writer.drain()
    if ends_after is not None and ends_after == trouble.stall_after:
        await reader.read()  # until the client gives up


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
            _, body = await _read_message(reader)
            answer = json.loads(body)
        finally:
            writer.close()
    if status != 200:
        raise LLMError(f"the LLM server at {url} answered {status}: {_reason(answer)}", status=status)
    if not isinstance(answer, dict):
        raise LLMError(f"the LLM server at {url} answered {type(answer).__name__}, not an object", status=status)
    return answer


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    line = (await reader.readuntil(b"\r\n")).decode("latin-1")
    method, target, _ = line.split()
    headers, body = await _read_message(reader)
    return method, urlsplit(target).path, headers, body


async def _read_message(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    headers: dict[str, str] = {}
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    length = int(headers.get("content-length", 0))
    if not 0 <= length <= _BODY_LIMIT:
        raise ValueError(f"a body of {length} bytes; at most {_BODY_LIMIT}")
    return headers, await reader.readexactly(length)


def _keys_in(headers: Mapping[str, str]) -> list[str]:
    return [headers.get("x-api-key", ""), headers.get("authorization", "").removeprefix("Bearer ")]


def _say(model: str, asked: str) -> str:
    if "good, bad or neither" in asked:
        words = {word.strip(".,:;!?") for word in asked.lower().split()}
        return "bad" if words & _BAD else "good" if words & _GOOD else "neither"
    return f"{model} on {asked!r}: it depends."


def _vector(text: str) -> list[float]:
    digest = hashlib.sha256(text.encode()).digest()
    return [round(byte / 127.5 - 1, 6) for byte in digest[:_DIMENSIONS]]


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
