"""The fake LLM answers as a chat-completions API does, with latency and errors as wanted."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from email.message import Message
from http.client import IncompleteRead
from typing import Any

import pytest

from stbass.errors import ConfigurationError
from stbass.testing._llm_protocols import sample
from stbass.testing.fake_llm import FakeLLM, LLMError, LLMTrouble, ToolCall, complete, embed


async def test_it_answers_a_chat_completion() -> None:
    async with FakeLLM(reply=lambda model, asked: f"{model}: {asked.upper()}") as llm:
        assert await complete("hello", model="opus", url=llm.url) == "opus: HELLO"
        assert llm.served == ["opus"]


async def test_the_same_question_has_the_same_answer() -> None:
    async with FakeLLM() as llm:
        first = await complete("why?", model="opus", url=llm.url)
        assert first == await complete("why?", model="opus", url=llm.url)
        assert first != await complete("how?", model="opus", url=llm.url)


async def test_embeddings_are_vectors_that_depend_on_the_text() -> None:
    async with FakeLLM() as llm:
        one, same, other = [await embed(text, model="nomic", url=llm.url) for text in ("a", "a", "b")]
    assert one == same != other
    assert len(one) == 8
    assert all(-1 <= number <= 1 for number in one)


async def test_a_broken_model_answers_with_its_status() -> None:
    async with FakeLLM(errors={"haiku": 503}) as llm:
        with pytest.raises(LLMError, match="answered 503: model 'haiku' is not available") as caught:
            await complete("hello", model="haiku", url=llm.url)
        assert caught.value.status == 503
        assert await complete("hello", model="opus", url=llm.url)


async def test_latency_is_per_model_and_requests_wait_side_by_side() -> None:
    async with FakeLLM(latency={"slow": 0.3}) as llm:
        slow = [asyncio.create_task(complete(str(number), model="slow", url=llm.url)) for number in range(20)]
        await complete("quick", model="quick", url=llm.url)
        await asyncio.gather(*slow)
    assert llm.served[0] == "quick"
    assert llm.most_waiting > 1
    assert llm.waiting == 0


async def test_a_client_that_gives_up_is_told_by_a_time_out() -> None:
    async with FakeLLM(latency=30) as llm:
        with pytest.raises(TimeoutError):
            await complete("hello", model="opus", url=llm.url, timeout=0.05)


async def test_a_wrong_url_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="http://host:port, got 'ftp://example'"):
        await complete("hello", model="opus", url="ftp://example")


async def test_a_stopped_server_cannot_be_reached() -> None:
    async with FakeLLM() as llm:
        url = llm.url
    with pytest.raises(OSError, match="onnect"):
        await complete("hello", model="opus", url=url)


def test_an_address_in_use_is_an_error_at_the_start() -> None:
    with FakeLLM() as llm, pytest.raises(OSError, match="in use"):
        FakeLLM(port=int(llm.url.rpartition(":")[2])).start()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", b"{not json", 400),
        ("/v1/chat/completions", b'{"model": "opus"}', 400),
        ("/v1/chat/completions", b'{"model": "opus", "messages": []}', 400),
        ("/v1/embeddings", b"[]", 400),
        ("/v1/elsewhere", b"{}", 404),
    ],
)
def test_what_is_not_a_request_gets_an_error_and_the_server_lives_on(path: str, body: bytes, status: int) -> None:
    with FakeLLM() as llm:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(llm.url + path, data=body), timeout=5)
        with caught.value:
            assert caught.value.code == status
            assert json.load(caught.value)["error"]["message"]
        with urllib.request.urlopen(f"{llm.url}/health", timeout=5) as answer:
            assert json.load(answer) == {"status": "ok"}


def post(llm: FakeLLM, path: str, body: dict[str, Any], **headers: str) -> tuple[int, Message, str]:
    asked = urllib.request.Request(llm.url + path, data=json.dumps(body).encode(), headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


# What the SDKs make of it is in tests/agents.
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}


def test_it_speaks_the_protocols_of_openai_and_anthropic() -> None:
    with FakeLLM(reply=lambda model, asked: f"you said {asked}") as llm:
        chat = json.loads(post(llm, "/v1/chat/completions", ASK)[2])
        responses = json.loads(post(llm, "/v1/responses", {"model": "m", "input": "hi"})[2])
        messages = json.loads(post(llm, "/v1/messages?beta=true", ASK)[2])
    assert chat["choices"][0]["message"]["content"] == "you said hi"
    assert responses["output"][0]["content"][0]["text"] == "you said hi"
    assert messages["content"][0]["text"] == "you said hi"
    assert [one["usage"]["output_tokens"] for one in (responses, messages)] == [3, 3]
    assert [asked.protocol for asked in llm.asked] == ["chat", "responses", "messages"]


def test_it_streams_events() -> None:
    with FakeLLM(reply=lambda model, asked: "one two three") as llm:
        _, headers, text = post(llm, "/v1/messages", {**ASK, "stream": True})
        chat = post(llm, "/v1/chat/completions", {**ASK, "stream": True})[2]
    assert headers["Content-Type"] == "text/event-stream"
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"] == [
        "one ",
        "two ",
        "three",
    ]
    assert events[-1] == {"type": "message_stop"}
    assert chat.endswith("data: [DONE]\n\n")


def test_a_script_says_what_it_says_and_which_tools_it_calls() -> None:
    tools = [{"name": "search", "input_schema": SCHEMA}, {"name": "read", "input_schema": SCHEMA}]
    with FakeLLM(script=lambda asked: ToolCall("read", {"q": asked.text}) if asked.text == "hi" else None) as llm:
        asked = {**ASK, "tools": tools}
        scripted = json.loads(post(llm, "/v1/messages", asked)[2])
        asked["messages"] = [{"role": "user", "content": "go on"}]
        usual = json.loads(post(llm, "/v1/messages", asked)[2])
    assert [(one["content"][0]["name"], one["content"][0]["input"]) for one in (scripted, usual)] == [
        ("read", {"q": "hi"}),
        ("search", {"q": "go on"}),
    ]


def test_what_goes_wrong_goes_wrong_once() -> None:
    troubles = {
        "m": [LLMTrouble(429, retry_after=2), None, LLMTrouble(529, retry_after="soon"), LLMTrouble(cut_after=1)]
    }
    with FakeLLM(troubles=troubles, keys=["right"]) as llm:
        given = [post(llm, "/v1/messages", ASK, **{"x-api-key": "right"}) for _ in range(3)]
        assert [(status, headers["Retry-After"]) for status, headers, _ in given] == [
            (429, "2"),
            (200, None),
            (529, "soon"),
        ]
        assert json.loads(given[0][2])["error"]["type"] == "rate_limit_error"
        with pytest.raises(IncompleteRead):
            post(llm, "/v1/messages", ASK, Authorization="Bearer right")
        assert post(llm, "/v1/messages", ASK, Authorization="Bearer wrong")[0] == 401
        assert post(llm, "/v1/chat/completions", ASK)[0] == 401


def test_a_stall_ends_with_the_client_or_with_the_server() -> None:
    with FakeLLM(troubles={"m": [LLMTrouble(stall_after=1)] * 2}) as llm:
        asked = urllib.request.Request(f"{llm.url}/v1/messages", data=json.dumps(ASK).encode())
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(asked, timeout=0.3).read()
        # That one still waits when the server ends.
        left = urllib.request.urlopen(asked, timeout=30)
    with left, pytest.raises((IncompleteRead, OSError)):
        left.read()


def test_a_sample_fits_its_schema() -> None:
    schema = {
        "$defs": {"Tone": {"enum": ["kind", "rude"]}},
        "type": "object",
        "properties": {
            "tone": {"$ref": "#/$defs/Tone"},
            "maybe": {"anyOf": [{"type": "integer", "minimum": 4}, {"type": "null"}]},
            "parts": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 2},
            "when": {"type": "string", "format": "date"},
            "sure": {"type": ["boolean", "null"]},
            "share": {"type": "number"},
        },
    }
    assert sample(schema, "hello") == {
        "tone": "kind",
        "maybe": 4,
        "parts": ["hel", "hel"],
        "when": "2026-01-01",
        "sure": True,
        "share": 1.0,
    }


def test_it_can_be_served_from_the_command_line() -> None:
    command = [sys.executable, "-m", "stbass.testing.fake_llm", "--port", "0", "--latency", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().split()[3].rstrip(",")
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                assert json.load(answer) == {"status": "ok"}
        finally:
            process.kill()
