"""The openai SDK against the fake LLM."""

from __future__ import annotations

from openai import AsyncOpenAI

from stbass.testing.fake_llm import FakeLLM


async def test_the_sdk_asks_the_fake_llm() -> None:
    # given
    with FakeLLM(reply=lambda model, asked: f"{model} heard {asked}") as llm:
        async with AsyncOpenAI(api_key="none", base_url=f"{llm.url}/v1") as client:
            # when
            answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    # then
    assert answer.choices[0].message.content == "m heard hello"
