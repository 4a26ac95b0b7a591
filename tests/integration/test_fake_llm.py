"""The fake LLM answers as a chat-completions API does, with latency and errors as wanted."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from stbass.errors import ConfigurationError
from stbass.testing.fake_llm import FakeLLM, LLMError, complete, embed


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
