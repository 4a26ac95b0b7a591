"""A research agent with the SDK of Anthropic: it streams, and calls a tool."""

from __future__ import annotations

import os
from typing import Any

from anthropic import AsyncAnthropic

from examples.agents.facts import look_up
from stbass.process import Process, ProcessContext

__all__ = ["ResearchWithAnthropic"]

TOOL = {
    "name": "look_up",
    "description": look_up.__doc__,
    "input_schema": {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]},
}


class ResearchWithAnthropic(Process):
    """Find out about a topic, and say it in a paragraph."""

    def __init__(self, topic: str) -> None:
        self.topic = topic

    async def run(self, ctx: ProcessContext) -> str:
        """Ask, look up what the model wants to know, and ask again, until it answers."""
        model = os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5")
        messages: list[Any] = ctx.resumed_from or [{"role": "user", "content": f"What is {self.topic}? Look it up."}]
        async with AsyncAnthropic(max_retries=0) as client:
            while True:
                ctx.log.info("asking %s with %d messages", model, len(messages))
                said = 0
                asked: Any = {"model": model, "max_tokens": 1000, "messages": messages, "tools": [TOOL]}
                async with client.messages.stream(**asked) as stream:
                    async for text in stream.text_stream:
                        said += len(text)
                        ctx.progress(said, note=text)
                    answer = await stream.get_final_message()
                ctx.usage(tokens_in=answer.usage.input_tokens, tokens_out=answer.usage.output_tokens, model=model)
                results = [
                    {"type": "tool_result", "tool_use_id": block.id, "content": look_up(**block.input)}
                    for block in answer.content
                    if block.type == "tool_use"
                ]
                if not results:
                    return "".join(block.text for block in answer.content if block.type == "text")
                # As plain data, which is what the next request wants, and what any other worker can read.
                blocks = [block.model_dump(exclude_none=True) for block in answer.content]
                messages = [*messages, {"role": "assistant", "content": blocks}, {"role": "user", "content": results}]
                ctx.checkpoint(messages)
