"""A research agent with pydantic-ai: its answer is a model of pydantic, which arrives as one."""

from __future__ import annotations

import os
from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from examples.agents.facts import look_up
from stbass.process import Process, ProcessContext

__all__ = ["Finding", "ResearchWithPydanticAI"]


class Finding(BaseModel):
    """What was found out."""

    topic: str
    summary: str


class ResearchWithPydanticAI(Process):
    """Find out about a topic."""

    def __init__(self, topic: str) -> None:
        self.topic = topic

    async def run(self, ctx: ProcessContext) -> Finding:
        """Run the agent step by step, and say what each step has used."""
        name = os.environ.get("OPENAI_MODEL", "gpt-4.1-mini")
        async with AsyncOpenAI(max_retries=0) as client:
            model = OpenAIChatModel(name, provider=OpenAIProvider(openai_client=client))
            agent: Any = Agent(model, output_type=Finding, tools=[look_up])
            ctx.log.info("asking %s", name)
            tokens_in = tokens_out = 0
            async with agent.iter(f"What is {self.topic}? Look it up.") as steps:
                async for step in steps:
                    used = steps.usage() if callable(steps.usage) else steps.usage
                    ctx.progress(used.requests, note=type(step).__name__)
                    ctx.usage(
                        tokens_in=used.input_tokens - tokens_in, tokens_out=used.output_tokens - tokens_out, model=name
                    )
                    tokens_in, tokens_out = used.input_tokens, used.output_tokens
            finding: Finding = steps.result.output
            return finding
