"""A research agent with the SDK of OpenAI: it streams, calls a tool, and goes on where a refusal stopped it."""

from __future__ import annotations

import json
import os
from typing import Any

from openai import AsyncOpenAI

from examples.agents.facts import look_up
from stbass.process import Process, ProcessContext

__all__ = ["ResearchWithOpenAI"]

TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": look_up.__doc__,
        "parameters": {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]},
    },
}


class ResearchWithOpenAI(Process):
    """Find out about a topic, and say it in a paragraph."""

    def __init__(self, topic: str) -> None:
        self.topic = topic

    async def run(self, ctx: ProcessContext) -> str:
        """Ask, look up what the model wants to know, and ask again, until it answers."""
        model = os.environ.get("OPENAI_MODEL", "gpt-4.1-mini")
        messages: list[Any] = ctx.resumed_from or [{"role": "user", "content": f"What is {self.topic}? Look it up."}]
        # One attempt each: whether and when to try again is the policy's business.
        async with AsyncOpenAI(max_retries=0) as client:
            while True:
                ctx.log.info("asking %s with %d messages", model, len(messages))
                text = ""
                calls: dict[int, dict[str, str]] = {}
                stream = await client.chat.completions.create(
                    model=model,
                    messages=messages,
                    tools=[TOOL],
                    stream=True,
                    stream_options={"include_usage": True},
                )
                async for part in stream:
                    if part.usage is not None:
                        used = part.usage
                        ctx.usage(tokens_in=used.prompt_tokens, tokens_out=used.completion_tokens, model=model)
                    for choice in part.choices:
                        text += choice.delta.content or ""
                        for call in choice.delta.tool_calls or ():
                            made = calls.setdefault(call.index, {"id": call.id, "name": "", "arguments": ""})
                            made["name"] += call.function.name or ""
                            made["arguments"] += call.function.arguments or ""
                        ctx.progress(len(text), note=text[-40:])
                if not calls:
                    return text
                asked = [
                    {"id": one["id"], "type": "function", "function": {key: one[key] for key in ("name", "arguments")}}
                    for one in calls.values()
                ]
                messages = [*messages, {"role": "assistant", "content": text or None, "tool_calls": asked}]
                for one in calls.values():
                    found = look_up(**json.loads(one["arguments"]))
                    messages.append({"role": "tool", "tool_call_id": one["id"], "content": found})
                ctx.checkpoint(messages)
