"""The fake LLM, as the SDKs of OpenAI and Anthropic see it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel

from stbass._values.retry_after import retry_after
from stbass.testing.fake_llm import Asked, FakeLLM, LLMTrouble

SAY = {"role": "user", "content": "why is the sky blue"}
SCHEMA = {"type": "object", "properties": {"query": {"type": "string"}, "most": {"type": "integer", "minimum": 3}}}
CHAT_TOOL = {"type": "function", "function": {"name": "search", "strict": True, "parameters": SCHEMA}}
RESPONSES_TOOL = {"type": "function", "name": "search", "parameters": SCHEMA}
MESSAGES_TOOL = {"name": "search", "input_schema": SCHEMA}
ARGUMENTS = {"query": "why is the sky blue", "most": 3}


class Colour(BaseModel):
    """A structured answer."""

    name: str
    shades: list[int]


def script(asked: Asked) -> str | None:
    return "because of the air" if not asked.tools and asked.schema is None else None


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    troubles = {
        "limited": [LLMTrouble(429, retry_after=0.25), LLMTrouble(429, retry_after=3)],
        "stalls": [LLMTrouble(stall_after=3)],
        "silent": [LLMTrouble(stall_after=0)],
        "cut": [LLMTrouble(cut_after=3), LLMTrouble(cut_after=1)],
        "gone": [LLMTrouble(cut_after=0)],
    }
    with FakeLLM(keys={"right"}, script=script, troubles=troubles) as made:
        yield made


@pytest.fixture
async def ai(llm: FakeLLM) -> AsyncIterator[Any]:
    async with AsyncOpenAI(api_key="right", base_url=f"{llm.url}/v1", max_retries=0, timeout=30) as made:
        yield made


@pytest.fixture
async def claude(llm: FakeLLM) -> AsyncIterator[Any]:
    async with AsyncAnthropic(api_key="right", base_url=llm.url, max_retries=0, timeout=30) as made:
        yield made


# OpenAI, chat completions ------------------------------------------------------------------------


async def test_a_chat_says_something_and_what_it_used(ai: Any) -> None:
    answer = await ai.chat.completions.create(model="m", messages=[SAY])
    assert answer.choices[0].message.content == "because of the air"
    assert answer.usage.completion_tokens == 4
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 4


async def test_a_chat_is_streamed(ai: Any) -> None:
    parts = [
        part
        async for part in await ai.chat.completions.create(
            model="m", messages=[SAY], stream=True, stream_options={"include_usage": True}
        )
    ]
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == "because of the air"
    assert len(parts) > 4
    assert parts[-1].usage.completion_tokens == 4


@pytest.mark.parametrize("streams", [False, True])
async def test_a_chat_calls_a_tool_and_goes_on_with_what_that_gave(ai: Any, streams: bool) -> None:
    messages: list[Any] = [SAY]
    if streams:
        async with ai.chat.completions.stream(model="m", messages=messages, tools=[CHAT_TOOL]) as stream:
            answer = await stream.get_final_completion()
    else:
        answer = await ai.chat.completions.create(model="m", messages=messages, tools=[CHAT_TOOL])
    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("search", ARGUMENTS)
    messages += [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "air"}]
    answer = await ai.chat.completions.create(model="m", messages=messages, tools=[CHAT_TOOL])
    assert "'air'" in answer.choices[0].message.content


async def test_a_chat_gives_what_fits_a_schema(ai: Any) -> None:
    answer = await ai.chat.completions.parse(model="m", messages=[SAY], response_format=Colour)
    assert isinstance(answer.choices[0].message.parsed, Colour)


# OpenAI, responses -------------------------------------------------------------------------------


async def test_a_response_says_something_and_what_it_used(ai: Any) -> None:
    answer = await ai.responses.create(model="m", input="why is the sky blue")
    assert answer.output_text == "because of the air"
    assert answer.usage.output_tokens == 4


async def test_a_response_is_streamed(ai: Any) -> None:
    async with ai.responses.stream(model="m", input=[SAY]) as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(deltas) == final.output_text == "because of the air"


@pytest.mark.parametrize("streams", [False, True])
async def test_a_response_calls_a_tool_and_goes_on_with_what_that_gave(ai: Any, streams: bool) -> None:
    if streams:
        async with ai.responses.stream(model="m", input=[SAY], tools=[RESPONSES_TOOL]) as stream:
            answer = await stream.get_final_response()
    else:
        answer = await ai.responses.create(model="m", input=[SAY], tools=[RESPONSES_TOOL])
    [call] = answer.output
    assert (call.name, json.loads(call.arguments)) == ("search", ARGUMENTS)
    given = {"type": "function_call_output", "call_id": call.call_id, "output": "air"}
    asked = {"type": "function_call", "call_id": call.call_id, "name": "search", "arguments": call.arguments}
    answer = await ai.responses.create(model="m", input=[SAY, asked, given], tools=[RESPONSES_TOOL])
    assert "'air'" in answer.output_text


async def test_a_response_gives_what_fits_a_schema(ai: Any) -> None:
    answer = await ai.responses.parse(model="m", input="why is the sky blue", text_format=Colour)
    assert isinstance(answer.output_parsed, Colour)


# Anthropic ---------------------------------------------------------------------------------------


async def test_a_message_says_something_and_what_it_used(claude: Any) -> None:
    answer = await claude.messages.create(model="m", messages=[SAY], max_tokens=100)
    assert (answer.content[0].text, answer.stop_reason) == ("because of the air", "end_turn")
    assert answer.usage.output_tokens == 4


async def test_a_message_is_streamed(claude: Any) -> None:
    async with claude.messages.stream(model="m", messages=[SAY], max_tokens=100) as stream:
        parts = [part async for part in stream.text_stream]
        final = await stream.get_final_message()
    assert parts == ["because ", "of ", "the ", "air"]
    assert final.usage.output_tokens == 4


@pytest.mark.parametrize("streams", [False, True])
async def test_a_message_calls_a_tool_and_goes_on_with_what_that_gave(claude: Any, streams: bool) -> None:
    asked = {"model": "m", "messages": [SAY], "tools": [MESSAGES_TOOL], "max_tokens": 100}
    if streams:
        async with claude.messages.stream(**asked) as stream:
            answer = await stream.get_final_message()
    else:
        answer = await claude.messages.create(**asked)
    [call] = answer.content
    assert (call.name, call.input, answer.stop_reason) == ("search", ARGUMENTS, "tool_use")
    given = [{"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "air"}]}]
    asked["messages"] = [SAY, {"role": "assistant", "content": answer.content}, {"role": "user", "content": given}]
    answer = await claude.messages.create(**asked)
    assert "'air'" in answer.content[0].text


async def test_a_message_gives_what_fits_a_schema(claude: Any) -> None:
    answer = await claude.messages.parse(model="m", messages=[SAY], max_tokens=100, output_format=Colour)
    assert isinstance(answer.parsed_output, Colour)


async def test_a_tool_that_must_be_called_is(claude: Any) -> None:
    choice = {"type": "tool", "name": "search"}
    for _ in range(2):
        answer = await claude.messages.create(
            model="m", messages=[SAY], tools=[MESSAGES_TOOL], tool_choice=choice, max_tokens=100
        )
        assert answer.stop_reason == "tool_use"


# What goes wrong ---------------------------------------------------------------------------------


async def test_a_service_that_is_asked_too_often_says_when_to_come_back(ai: Any, claude: Any) -> None:
    with pytest.raises(openai.RateLimitError) as first:
        await ai.chat.completions.create(model="limited", messages=[SAY])
    with pytest.raises(anthropic.RateLimitError) as second:
        await claude.messages.create(model="limited", messages=[SAY], max_tokens=9)
    assert [retry_after(one.value) for one in (first, second)] == [0.25, 3.0]
    assert (await ai.chat.completions.create(model="limited", messages=[SAY])).choices


async def test_a_wrong_key_is_refused(llm: FakeLLM) -> None:
    async with AsyncOpenAI(api_key="wrong", base_url=f"{llm.url}/v1", max_retries=0) as ai:
        with pytest.raises(openai.AuthenticationError, match="not known here"):
            await ai.responses.create(model="m", input="hello")
    async with AsyncAnthropic(api_key="wrong", base_url=llm.url, max_retries=0) as claude:
        with pytest.raises(anthropic.AuthenticationError, match="not known here"):
            await claude.messages.create(model="m", messages=[SAY], max_tokens=9)


async def test_a_stream_that_stalls_is_given_up(ai: Any) -> None:
    seen = 0
    with pytest.raises(openai.APITimeoutError):
        await ai.with_options(timeout=0.5).chat.completions.create(model="silent", messages=[SAY])
    stream = await ai.with_options(timeout=0.5).chat.completions.create(model="stalls", messages=[SAY], stream=True)
    with pytest.raises(Exception, match=r"(?i)timed out|^$") as caught:
        async for _ in stream:
            seen += 1
    assert "Timeout" in type(caught.value).__name__
    assert seen == 3


async def test_a_stream_that_is_cut_is_no_end(ai: Any, claude: Any) -> None:
    stream = await ai.chat.completions.create(model="cut", messages=[SAY], stream=True)
    # The client's library for HTTP says so, or newer SDKs do.
    with pytest.raises(Exception, match=r"Connection error|peer closed connection"):
        _ = [part async for part in stream]
    with pytest.raises(Exception, match=r"Connection error|peer closed connection"):
        await claude.messages.create(model="cut", messages=[SAY], max_tokens=9)
    with pytest.raises(openai.APIConnectionError):
        await ai.chat.completions.create(model="gone", messages=[SAY])
