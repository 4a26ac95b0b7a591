"""Four research agents, one SDK each, on a fleet that this program starts: a Redis and a worker.

Run it with ``python -m examples.agents.research``; it needs
``pip install "stbass-celery[agents]"``. With OPENAI_API_KEY or
ANTHROPIC_API_KEY in the environment it asks the real service (for money: the budget says how much it may use), else a
fake one that refuses the first request of each agent.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path

from examples.agents.with_anthropic import ResearchWithAnthropic
from examples.agents.with_langgraph import ResearchWithLangGraph
from examples.agents.with_openai import ResearchWithOpenAI
from examples.agents.with_pydantic_ai import ResearchWithPydanticAI
from stbass import PLACED_PAR, BackendRegistry, Budget, FailurePolicy, Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.testing import FakeLLM, RedisServer, Worker
from stbass.testing.fake_llm import LLMTrouble

ROOT = Path(__file__).parents[2]
AGENTS = (ResearchWithOpenAI, ResearchWithAnthropic, ResearchWithPydanticAI, ResearchWithLangGraph)
THERE = Placement(endpoint="agents")

# pydantic-ai has an error of its own around that of the SDK. Known by name: a producer need not import the SDKs.
POLICY = FailurePolicy.retry(
    4,
    base_delay=0.1,
    on=("RateLimitError", "ModelAPIError", "APIConnectionError"),
    unless=("AuthenticationError", "BadRequestError"),
)


def services(stack: ExitStack) -> dict[str, str]:
    """The environment that the SDKs of a worker look at."""
    refused = [LLMTrouble(429, retry_after=0.2)]
    llm = FakeLLM(troubles={"gpt-4.1-mini": refused * 3, "claude-haiku-4-5": refused})
    made: dict[str, str] = {}
    for name, path in (("OPENAI", "/v1"), ("ANTHROPIC", "")):
        if f"{name}_API_KEY" not in os.environ:
            if not made:
                stack.enter_context(llm)
            made |= {f"{name}_API_KEY": "fake", f"{name}_BASE_URL": llm.url + path}
    return made


async def research(url: str) -> None:
    """Let the four work at once, and print what they found and used."""
    registry = BackendRegistry()
    backend = CeleryBackend(make_app(broker_url=url))
    registry.register("*", backend)
    result = await PLACED_PAR(
        *((agent("occam") if index % 2 else agent("celery"), THERE) for index, agent in enumerate(AGENTS)),
        on_failure=POLICY,
        deadline=120,
        budget=Budget(tokens=100_000),
        registry=registry,
    ).run()
    for agent, one in zip(AGENTS, result.results, strict=True):
        attempt = "" if one.run is None else f", attempt {one.run.attempt}"
        said = one.value if one.is_ok else one.failure.summary
        print(f"{agent.__name__} ({one.usage.tokens_in > 0 and one.usage.tokens_out > 0}{attempt}): {said}")
    print(f"models: {', '.join(sorted(result.usage.models))}")
    await backend.aclose()


def main() -> None:
    """Start the fleet, and run them on it."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        env = {"STBASS_BROKER_URL": redis.url, "STBASS_RESULT_BACKEND": redis.url, **services(stack)}
        include = [agent.__module__ for agent in AGENTS]
        stack.enter_context(Worker("celery_app", "agents", env=env, include=include, cwd=ROOT))
        asyncio.run(research(redis.url))


if __name__ == "__main__":
    main()
