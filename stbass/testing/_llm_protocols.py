"""The protocols of language models, as far as their clients need them: what is asked, and how an answer is written.

| protocol | path | what speaks it |
|---|---|---|
| `chat` | `/v1/chat/completions` | OpenAI's chat completions, and all that copy them |
| `responses` | `/v1/responses` | OpenAI's responses |
| `messages` | `/v1/messages` | Anthropic's messages |
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "PATHS",
    "Asked",
    "LLMTrouble",
    "ModelReply",
    "ToolCall",
    "answer",
    "asked_by",
    "refusal",
    "sample",
    "stream",
]

Protocol = Literal["chat", "responses", "messages"]

PATHS: Mapping[str, Protocol] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}

_LONGEST_SAMPLE = 200
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
# Of formats that a client checks.
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "uri": "https://example.org/",
    "email": "someone@example.org",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """That the model calls a tool.

    Args:
        name: of the tool.
        arguments: for it.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


ModelReply = str | ToolCall | Sequence[ToolCall]
"""What a model says: a text, or which tools it calls."""


@dataclass(frozen=True, slots=True)
class LLMTrouble:
    """What goes wrong with a request.

    Args:
        status: the HTTP status that it is refused with; 200: it is not refused.
        retry_after: seconds after which the client may try again: whole ones in the header ``Retry-After``, others in
            ``retry-after-ms``; a text stands in ``Retry-After`` as it is.
        stall_after: pieces of the answer after which no more comes, though the connection stays.
        cut_after: pieces of the answer after which the connection is cut.

    A stream has an event a piece; an answer in one is cut, or stalls, before it (0) or in its middle.
    """

    status: int = 200
    retry_after: float | str | None = None
    stall_after: int | None = None
    cut_after: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        if self.retry_after is None:
            return {}
        if isinstance(self.retry_after, str) or float(self.retry_after).is_integer():
            text = self.retry_after if isinstance(self.retry_after, str) else str(int(self.retry_after))
            return {"Retry-After": text}
        return {"retry-after-ms": str(math.ceil(self.retry_after * 1000))}


@dataclass(frozen=True)
class Asked:
    """A request to a model, whatever the protocol.

    Args:
        protocol: ``chat``, ``responses`` or ``messages``.
        model: name of the model.
        messages: as they were sent.
        text: the last text that is not the model's own: of the user, or what a tool gave back.
        tools: JSON schema of the arguments of each tool that it may call, by name.
        called: names of the tools that it has called in this conversation.
        must_call: whether it has to call a tool; the name of the one if it has no choice.
        schema: JSON schema of what it has to say.
        streams: whether the answer is streamed.
        counts: whether a stream tells the usage (in OpenAI's chat completions the client has to ask).
    """

    protocol: Protocol
    model: str
    messages: Sequence[Any]
    text: str
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    called: frozenset[str] = frozenset()
    must_call: bool | str = False
    schema: Mapping[str, Any] | None = None
    streams: bool = False
    counts: bool = True

    @property
    def tokens(self) -> int:
        """How many tokens it has: a word is one."""
        return _tokens(json.dumps(self.messages))

    def usual_reply(self, say: str) -> ModelReply:
        """What a model says by itself: it calls each tool once, in order; then it says ``say``, in the form wanted."""
        if isinstance(self.must_call, str) and self.must_call in self.tools:
            return ToolCall(self.must_call, sample(self.tools[self.must_call], self.text))
        left = [name for name in self.tools if name not in self.called]
        if self.must_call and not left:
            left = list(self.tools)[-1:]
        if left:
            return ToolCall(left[0], sample(self.tools[left[0]], self.text))
        return say if self.schema is None else json.dumps(sample(self.schema, say))


def _tokens(text: str) -> int:
    return max(1, len(text.split()))


# What is asked -----------------------------------------------------------------------------------


def asked_by(protocol: Protocol, body: Any) -> Asked:
    """What a request's body asks.

    Raises:
        ValueError, KeyError, TypeError, IndexError: it does not fit the protocol.
    """
    made = {"chat": _asked_in_chat, "responses": _asked_in_responses, "messages": _asked_in_messages}[protocol](body)
    if not made.messages:
        raise ValueError("there are no messages")
    return made


def _asked_in_chat(body: Any) -> Asked:
    messages = list(body["messages"])
    tools = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in body.get("tools") or ()}
    choice, form = body.get("tool_choice"), body.get("response_format") or {}
    must_call: bool | str = choice == "required"
    if isinstance(choice, Mapping):
        must_call = str(choice["function"]["name"])
    calls = [call["function"]["name"] for message in messages for call in message.get("tool_calls") or ()]
    return Asked(
        "chat",
        str(body["model"]),
        messages,
        _last_text(messages),
        {} if choice == "none" else tools,
        frozenset(calls),
        must_call,
        form.get("json_schema", {}).get("schema") if form.get("type") == "json_schema" else None,
        bool(body.get("stream")),
        bool((body.get("stream_options") or {}).get("include_usage")),
    )


def _asked_in_responses(body: Any) -> Asked:
    given = body["input"]
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
    tools = {
        tool["name"]: tool.get("parameters") or {} for tool in body.get("tools") or () if tool.get("type") == "function"
    }
    choice, form = body.get("tool_choice"), (body.get("text") or {}).get("format") or {}
    outputs = [item for item in messages if item.get("type") == "function_call_output"]
    last = messages[-1] if messages else {}
    return Asked(
        "responses",
        str(body["model"]),
        messages,
        str(outputs[-1]["output"]) if last.get("type") == "function_call_output" else _last_text(messages),
        {} if choice == "none" else tools,
        frozenset(item["name"] for item in messages if item.get("type") == "function_call"),
        str(choice["name"]) if isinstance(choice, Mapping) and "name" in choice else choice == "required",
        form.get("schema") if form.get("type") == "json_schema" else None,
        bool(body.get("stream")),
    )


def _asked_in_messages(body: Any) -> Asked:
    messages = list(body["messages"])
    tools = {tool["name"]: tool["input_schema"] for tool in body.get("tools") or () if "input_schema" in tool}
    choice = body.get("tool_choice") or {}
    form = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    blocks = [block for message in messages for block in _blocks(message.get("content"))]
    return Asked(
        "messages",
        str(body["model"]),
        messages,
        _last_text(messages),
        {} if choice.get("type") == "none" else tools,
        frozenset(block["name"] for block in blocks if block.get("type") == "tool_use"),
        str(choice["name"]) if choice.get("type") == "tool" else choice.get("type") == "any",
        form.get("schema") if form.get("type") == "json_schema" else None,
        bool(body.get("stream")),
    )


def _blocks(content: Any) -> list[Any]:
    return [block for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []


def _last_text(messages: Sequence[Any]) -> str:
    return next(
        (_text_of(m.get("content")) for m in reversed(messages) if m.get("role") not in ("assistant", None)), ""
    )


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        parts = (_text_of(block.get("text", block.get("content", ""))) for block in _blocks(content))
        return "\n".join(part for part in parts if part)
    return "" if content is None else str(content)


def sample(schema: Mapping[str, Any], text: str) -> Any:
    """A value that fits a JSON schema, with ``text`` wherever it may say what it likes."""
    return _sample(schema, text, schema, 0)


def _sample(schema: Any, text: str, root: Mapping[str, Any], depth: int) -> Any:
    if depth > 20 or not isinstance(schema, Mapping):
        return None
    if "$ref" in schema:
        found: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            found = found[part]
        return _sample(found, text, root, depth + 1)
    for known in ("const", "default"):
        if known in schema:
            return schema[known]
    if "enum" in schema:
        return schema["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return _sample(schema[several][0], text, root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return {
            name: _sample(one, text, root, depth + 1)
            for name, one in (schema.get("properties") or {}).items()
            if depth < 4 or name in schema.get("required", ())
        }
    if kind == "array":
        return [_sample(schema.get("items", {}), text, root, depth + 1)] * max(1, schema.get("minItems", 1))
    if kind in ("integer", "number"):
        least = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        return int(least) if kind == "integer" else float(least)
    if kind in ("boolean", "null"):
        return True if kind == "boolean" else None
    said = _FORMATS.get(schema.get("format", ""), text[:_LONGEST_SAMPLE])
    return said[: schema["maxLength"]] if "maxLength" in schema else said


# What is answered --------------------------------------------------------------------------------


def refusal(protocol: str, status: int, message: str) -> dict[str, Any]:
    """The body of an answer that refuses."""
    kind = _KINDS.get(status, "api_error")
    if protocol == "messages":
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_fake"}
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _calls(reply: ModelReply) -> list[tuple[str, str, str]]:
    """Of each call an id, the name and the arguments as JSON."""
    if isinstance(reply, str):
        return []
    calls = [reply] if isinstance(reply, ToolCall) else list(reply)
    return [
        (f"call_{index}_{call.name}", call.name, json.dumps(dict(call.arguments))) for index, call in enumerate(calls)
    ]


def _spoken(reply: ModelReply) -> int:
    return _tokens(reply) if isinstance(reply, str) else sum(_tokens(text) for _, _, text in _calls(reply))


def answer(asked: Asked, reply: ModelReply, number: int) -> dict[str, Any]:
    """The body of an answer in one piece.

    Args:
        number: of the request, for the ids in it.
    """
    if asked.protocol == "chat":
        return _chat_answer(asked, reply, number)
    if asked.protocol == "responses":
        return _response(asked, reply, number, "completed")
    return _message(asked, reply, number)


def stream(asked: Asked, reply: ModelReply, number: int) -> Iterator[str]:
    """The same answer as server-sent events."""
    if asked.protocol == "chat":
        for chunk in _chat_chunks(asked, reply, number):
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"
        return
    events = _response_events if asked.protocol == "responses" else _message_events
    for index, event in enumerate(events(asked, reply, number)):
        if asked.protocol == "responses":
            event["sequence_number"] = index
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"


def _words(text: str) -> list[str]:
    return [word + " " for word in text.split(" ")[:-1]] + text.split(" ")[-1:]


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


# OpenAI's chat completions.


def _chat_head(asked: Asked, number: int, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{number}", "object": kind, "created": number, "model": asked.model}


def _chat_usage(asked: Asked, reply: ModelReply) -> dict[str, int]:
    given, said = asked.tokens, _spoken(reply)
    return {"prompt_tokens": given, "completion_tokens": said, "total_tokens": given + said}


def _chat_call(call: tuple[str, str, str]) -> dict[str, Any]:
    return {"id": call[0], "type": "function", "function": {"name": call[1], "arguments": call[2]}}


def _chat_answer(asked: Asked, reply: ModelReply, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply if isinstance(reply, str) else None}
    if calls := _calls(reply):
        message["tool_calls"] = [_chat_call(call) for call in calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls" if calls else "stop"}
    return {
        **_chat_head(asked, number, "chat.completion"),
        "choices": [choice],
        "usage": _chat_usage(asked, reply),
    }


def _chat_chunks(asked: Asked, reply: ModelReply, number: int) -> Iterator[dict[str, Any]]:
    head = _chat_head(asked, number, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    calls = _calls(reply)
    yield chunk({"role": "assistant", "content": None if calls else ""})
    for word in _words(reply) if isinstance(reply, str) else ():
        yield chunk({"content": word})
    for index, call in enumerate(calls):
        first, second = _halves(call[2])
        yield chunk({"tool_calls": [{"index": index, **_chat_call((call[0], call[1], first))}]})
        yield chunk({"tool_calls": [{"index": index, "function": {"arguments": second}}]})
    yield chunk({}, "tool_calls" if calls else "stop")
    if asked.counts:
        yield {**head, "choices": [], "usage": _chat_usage(asked, reply)}


# OpenAI's responses.


def _response_items(reply: ModelReply, number: int) -> list[dict[str, Any]]:
    if isinstance(reply, str):
        content = [{"type": "output_text", "text": reply, "annotations": []}]
        return [
            {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": content}
        ]
    return [
        {
            "type": "function_call",
            "id": f"fc_{number}_{index}",
            "call_id": call[0],
            "name": call[1],
            "arguments": call[2],
            "status": "completed",
        }
        for index, call in enumerate(_calls(reply))
    ]


def _response(asked: Asked, reply: ModelReply | None, number: int, status: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": number,
        "status": status,
        "model": asked.model,
        "output": [] if reply is None else _response_items(reply, number),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }
    if reply is not None:
        given, said = asked.tokens, _spoken(reply)
        made["usage"] = {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": said,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": given + said,
        }
    return made


def _response_events(asked: Asked, reply: ModelReply, number: int) -> Iterator[dict[str, Any]]:
    yield {"type": "response.created", "response": _response(asked, None, number, "in_progress")}
    for index, item in enumerate(_response_items(reply, number)):
        place = {"item_id": item["id"], "output_index": index}
        if item["type"] == "message":
            [part] = item["content"]
            inside = {**place, "content_index": 0}
            empty = {**item, "status": "in_progress", "content": []}
            yield {"type": "response.output_item.added", "output_index": index, "item": empty}
            yield {"type": "response.content_part.added", **inside, "part": {**part, "text": ""}}
            for word in _words(part["text"]):
                yield {"type": "response.output_text.delta", **inside, "delta": word, "logprobs": []}
            yield {"type": "response.output_text.done", **inside, "text": part["text"], "logprobs": []}
            yield {"type": "response.content_part.done", **inside, "part": part}
        else:
            empty = {**item, "status": "in_progress", "arguments": ""}
            yield {"type": "response.output_item.added", "output_index": index, "item": empty}
            for piece in _halves(item["arguments"]):
                yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
            whole = {"arguments": item["arguments"], "name": item["name"]}
            yield {"type": "response.function_call_arguments.done", **place, **whole}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": "response.completed", "response": _response(asked, reply, number, "completed")}


# Anthropic's messages.


def _message(asked: Asked, reply: ModelReply, number: int) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": reply}] if isinstance(reply, str) else []
    content += [
        {"type": "tool_use", "id": call[0], "name": call[1], "input": json.loads(call[2])} for call in _calls(reply)
    ]
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": content,
        "stop_reason": "end_turn" if isinstance(reply, str) else "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": asked.tokens, "output_tokens": _spoken(reply)},
    }


def _message_events(asked: Asked, reply: ModelReply, number: int) -> Iterator[dict[str, Any]]:
    whole = _message(asked, reply, number)
    usage = {**whole["usage"], "output_tokens": 1}
    yield {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None, "usage": usage}}
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            empty, kind, name, pieces = {**block, "text": ""}, "text_delta", "text", _words(block["text"])
        else:
            empty, kind, name = {**block, "input": {}}, "input_json_delta", "partial_json"
            pieces = list(_halves(json.dumps(block["input"])))
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for piece in pieces:
            yield {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: piece}}
        yield {"type": "content_block_stop", "index": index}
    end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": end, "usage": {"output_tokens": whole["usage"]["output_tokens"]}}
    yield {"type": "message_stop"}
