"""What SDKs return and raise travels as what it is, and without their keys."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib import import_module
from typing import Any

import aiohttp
import anthropic
import httpx
import instructor
import openai
import pydantic
import pytest
from instructor.core import InstructorRetryException
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt, GraphRecursionError
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Interrupt, interrupt
from multidict import CIMultiDict, CIMultiDictProxy
from pydantic import BaseModel, field_validator
from pydantic_ai import Agent, ModelRetry, UnexpectedModelBehavior
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from yarl import URL

from stbass._channels.typespec import ChannelType
from stbass._values.retry_after import retry_after
from stbass.result import ProcessResult
from stbass.testing.fake_llm import FakeLLM, LLMTrouble
from stbass.wire import Opaque, RemoteResponse, dump_result, dumps, load_result, loads

RIGHT, WRONG = "sk-right-0123456789abcdef", "sk-wrong-0123456789abcdef"
SAY: Any = [{"role": "user", "content": "why is the sky blue"}]


class Shade(BaseModel):
    """A structured answer."""

    name: str
    shades: list[int]


class Never(BaseModel):
    """What no answer fits."""

    name: str

    @field_validator("name")
    @classmethod
    def _never(cls, value: str) -> str:
        raise ValueError("never good")


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    limited = [LLMTrouble(429, retry_after=3)] * 3
    with FakeLLM(keys={RIGHT}, troubles={"limited": limited}) as made:
        yield made


@pytest.fixture
async def ai(llm: FakeLLM) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(api_key=RIGHT, base_url=f"{llm.url}/v1", max_retries=0, timeout=30) as made:
        yield made


@pytest.fixture
async def claude(llm: FakeLLM) -> AsyncIterator[Any]:
    async with anthropic.AsyncAnthropic(api_key=RIGHT, base_url=llm.url, max_retries=0, timeout=30) as made:
        yield made


def arrives(value: Any) -> Any:
    """What arrives, which is the value itself in all that can be seen, and passes a channel of its type."""
    found = loads(dumps(value))
    assert type(found) is type(value)
    assert found == value
    assert repr(found) == repr(value)
    assert getattr(found, "__dict__", None) == getattr(value, "__dict__", None)
    assert ChannelType(type(value), "answers").fit(found) is found
    return found


def arrives_as_failure(error: BaseException) -> Any:
    """The error, of the same class, beside its checkpoint; nothing of it shows a key."""
    data = dump_result(ProcessResult.fail(error, checkpoint={"step": 3}))
    for key in (RIGHT, WRONG):
        assert key.encode() not in data
    failure = load_result(data).failure
    assert failure.checkpoint == {"step": 3}
    assert type(failure.error) is type(error)
    return failure.error


# Answers -----------------------------------------------------------------------------------------


async def test_answers_of_openai(ai: Any) -> None:
    answer = await ai.chat.completions.create(model="m", messages=SAY)
    assert arrives(answer)._request_id == answer._request_id
    parsed = arrives(await ai.chat.completions.parse(model="m", messages=SAY, response_format=Shade))
    assert type(parsed.choices[0].message.parsed) is Shade
    arrives(await ai.responses.create(model="m", input="why"))
    arrives(await ai.embeddings.create(model="m", input="why", encoding_format="float"))
    async for part in await ai.chat.completions.create(model="m", messages=SAY, stream=True):
        arrives(part)


async def test_answers_of_anthropic(claude: Any) -> None:
    arrives(await claude.messages.create(model="m", max_tokens=10, messages=SAY))
    async with claude.messages.stream(model="m", max_tokens=10, messages=SAY) as stream:
        async for event in stream:
            arrives(event)
        arrives(await stream.get_final_message())


def test_an_answer_of_a_newer_sdk_keeps_what_this_one_does_not_know() -> None:
    message = anthropic.types.Message.construct(id="1", content=[], mood="good", role="assistant")

    found = arrives(message)

    assert found.model_extra == {"mood": "good"}


def test_the_answer_of_litellm(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = import_module("litellm")

    answer = litellm.completion(model="openai/m", api_base=f"{llm.url}/v1", api_key=RIGHT, messages=SAY)

    found = arrives(answer)
    assert type(found) is litellm.ModelResponse
    assert found._hidden_params == answer._hidden_params
    with pytest.raises(litellm.AuthenticationError) as caught:
        litellm.completion(model="openai/m", api_base=f"{llm.url}/v1", api_key=WRONG, messages=SAY, num_retries=0)
    assert arrives_as_failure(caught.value).status_code == 401


async def test_answers_of_instructor_are_of_the_class_that_was_asked_for(ai: Any) -> None:
    client: Any = instructor.from_openai(ai)
    answer = await client.chat.completions.create(model="m", messages=SAY, response_model=Shade)
    assert type(answer) is not Shade  # a class made at run time, under the name of Shade

    found: Any = loads(dumps(answer))

    assert (found.name, found.shades) == (answer.name, answer.shades)
    assert found._raw_response == answer._raw_response
    assert type(found) is Shade
    assert ChannelType(Shade, "shades").fit(found) is found


async def test_results_of_pydantic_ai(ai: Any) -> None:
    agent = Agent(OpenAIChatModel("m", provider=OpenAIProvider(openai_client=ai)), output_type=Shade)

    result = await agent.run("why is the sky blue")

    # Its class leaves out of copies the workspace that the run had: that is of this machine.
    found = loads(dumps(result))
    assert type(found) is type(result)
    assert (found, repr(found)) == (result, repr(result))
    assert found.__dict__ == result.__getstate__()
    assert ChannelType(type(result), "answers").fit(found) is found
    assert found._state.pending_messages._lock.acquire(blocking=False)
    assert type(found.output) is Shade
    assert loads(dumps(result.all_messages())) == result.all_messages()


def test_what_langgraph_works_with() -> None:
    for value in (
        HumanMessage("a"),
        AIMessage("a", tool_calls=[{"name": "x", "args": {}, "id": "1"}]),
        AIMessageChunk("a"),
        ToolMessage("a", tool_call_id="1"),
        Document("a"),
        Interrupt({"ask": 1}),
        Command(resume=1, update={"a": (1,)}),
    ):
        arrives(value)

    def ask(state: MessagesState) -> Any:
        return {"messages": [AIMessage(str(interrupt({"ask": "may I?"})))]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    app = graph.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    arrives(app.invoke({"messages": [HumanMessage("hi")]}, config))
    arrives(app.get_state(config))
    arrives(app.invoke(loads(dumps(Command(resume="yes"))), config))


# Failures ----------------------------------------------------------------------------------------


async def test_refusals_of_openai_and_anthropic(llm: FakeLLM, ai: Any) -> None:
    with pytest.raises(openai.RateLimitError) as limited:
        await ai.chat.completions.create(model="limited", messages=SAY)
    found = arrives_as_failure(limited.value)
    assert (found.status_code, found.body, found.request_id) == (429, limited.value.body, limited.value.request_id)
    assert type(found.response) is RemoteResponse
    assert found.response.headers["Retry-After"] == "3"

    with pytest.raises(openai.AuthenticationError) as refused:
        async with openai.AsyncOpenAI(api_key=WRONG, base_url=f"{llm.url}/v1", max_retries=0) as client:
            await client.chat.completions.create(model="m", messages=SAY)
    assert arrives_as_failure(refused.value).status_code == 401

    with pytest.raises(anthropic.AuthenticationError) as refused_too:
        async with anthropic.AsyncAnthropic(api_key=WRONG, base_url=llm.url, max_retries=0) as claude:
            await claude.messages.create(model="m", max_tokens=10, messages=SAY)
    assert arrives_as_failure(refused_too.value).request_id == refused_too.value.request_id

    with pytest.raises(openai.APIConnectionError) as gone:
        async with openai.AsyncOpenAI(api_key=RIGHT, base_url="http://127.0.0.1:9/v1", max_retries=0) as client:
            await client.chat.completions.create(model="m", messages=SAY)
    found = arrives_as_failure(gone.value)
    assert str(found) == str(gone.value)
    assert type(found.__cause__) is type(gone.value.__cause__)


async def test_refusals_of_http_clients(llm: FakeLLM) -> None:
    url, headers = f"{llm.url}/v1/chat/completions?api_key={WRONG}", {"Authorization": f"Bearer {WRONG}"}
    body = {"model": "m", "messages": SAY}
    async with httpx.AsyncClient(headers=headers) as client:
        answer = await client.post(url, json=body)
        with pytest.raises(httpx.HTTPStatusError) as refused:
            answer.raise_for_status()
    found = arrives_as_failure(refused.value)
    assert (found.response.status_code, found.response.url) == (401, f"{llm.url}/v1/chat/completions?api_key=***")

    async with aiohttp.ClientSession(headers=headers) as session:
        with pytest.raises(aiohttp.ClientResponseError) as refused_too:
            await session.post(url, json=body, raise_for_status=True)
    found = arrives_as_failure(refused_too.value)
    assert (found.status, found.headers["Content-Type"]) == (401, "application/json")
    assert found.request_info.headers["authorization"] == "***"
    assert "api_key=***" in str(found)
    assert "Opaque" not in str(found)


async def test_output_that_does_not_validate(ai: Any) -> None:
    agent = Agent(OpenAIChatModel("m", provider=OpenAIProvider(openai_client=ai)), output_type=Never, retries=1)
    with pytest.raises(UnexpectedModelBehavior) as bad:
        await agent.run("why is the sky blue")
    found = arrives_as_failure(bad.value)
    cause = found.__cause__
    while not isinstance(cause, pydantic.ValidationError):
        cause = cause.__cause__
    assert "never good" in str(cause)

    client: Any = instructor.from_openai(ai)
    with pytest.raises(InstructorRetryException) as given_up:
        await client.chat.completions.create(model="m", messages=SAY, response_model=Never, max_retries=1)
    found = arrives_as_failure(given_up.value)
    assert found.n_attempts == given_up.value.n_attempts
    assert "never good" in str(found)
    assert type(found.last_completion) is type(given_up.value.last_completion)


@pytest.mark.parametrize(
    "error",
    [ModelRetry("again"), GraphRecursionError("too deep"), GraphInterrupt((Interrupt({"ask": 1}),))],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_agents(error: Exception) -> None:
    found = arrives_as_failure(error)

    assert (str(found), found.args) == (str(error), error.args)


def test_where_the_sdk_is_not_imported_its_answer_passes_through() -> None:
    answer = openai.types.chat.ChatCompletion.construct(id="1", choices=[], created=1, model="m")
    answer._request_id = "req_1"
    script = (
        "import sys\nfrom stbass.wire import dumps, loads\nvalue = loads(sys.stdin.buffer.read())\n"
        "assert 'openai' not in sys.modules\nassert value.reason.endswith('is not imported here'), value.reason\n"
        "sys.stdout.buffer.write(dumps(value))"
    )

    done = subprocess.run([sys.executable, "-c", script], input=dumps(answer), stdout=subprocess.PIPE, check=True)

    found = loads(done.stdout)
    assert not isinstance(found, Opaque)
    assert (found, found._request_id) == (answer, "req_1")


HEADERS = {
    "seconds": ("12", 12.0),
    "float": ("1.5", 1.5),
    "date": (format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True), None),
    "past": ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    "negative": ("-4", 0.0),
    "garbage": ("soon", None),
    "endless": ("inf", None),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_when_to_come_back_is_heard_of_each_sdk_here_and_after_the_wire(kind: str) -> None:
    said, seconds = HEADERS[kind]
    response = httpx.Response(429, headers={"retry-after": said}, request=httpx.Request("POST", "https://h/v1"))
    url = URL("https://h/v1")
    nothing = CIMultiDictProxy(CIMultiDict[str]())
    headers = CIMultiDict({"Retry-After": said})
    errors: list[Exception] = [
        httpx.HTTPStatusError("slow down", request=response.request, response=response),
        openai.RateLimitError("slow down", response=response, body=None),
        anthropic.RateLimitError("slow down", response=response, body=None),
        aiohttp.ClientResponseError(aiohttp.RequestInfo(url, "POST", nothing, url), (), status=429, headers=headers),
    ]
    for error in errors:
        for one in (error, loads(dumps(error))):
            found = retry_after(one)
            if kind == "date":
                assert found is not None
                assert 3000 < found <= 3600
            else:
                assert found == seconds
