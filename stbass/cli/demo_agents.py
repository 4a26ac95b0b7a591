"""The agents of ``stbass demo``. They ask the LLM server at ``STBASS_LLM_URL``, which the demo has started."""

from __future__ import annotations

import os
from typing import Any

from stbass.process import Process, ProcessContext
from stbass.testing import fake_llm

__all__ = ["judge", "summarise", "think", "vectorise"]


@Process
async def think(ctx: ProcessContext, prompt: str, *, steps: int) -> dict[str, Any]:
    """Think about ``prompt`` in steps, with a checkpoint after each; goes on where it was cut off."""
    thoughts: list[str] = list((ctx.resumed_from or {}).get("thoughts", ()))
    while len(thoughts) < steps:
        ctx.progress(len(thoughts), steps, f"step {len(thoughts) + 1}")
        thoughts.append(await _ask(ctx, f"{prompt} (step {len(thoughts) + 1})"))
        ctx.checkpoint({"step": len(thoughts), "thoughts": thoughts.copy()})
    ctx.progress(steps, steps, "done")
    return {"steps": steps, "conclusion": thoughts[-1]}


@Process
async def judge(ctx: ProcessContext, texts: list[str]) -> dict[str, str]:
    """Say whether each text is good, bad or neither. Fails on a text that is empty."""
    judged: dict[str, str] = {}
    for text in texts:
        ctx.progress(len(judged), len(texts), "classifying")
        if not text:
            raise ValueError(f"text {len(judged) + 1} of {len(texts)} is empty: there is nothing to classify")
        answer = await _ask(ctx, f"{text} Is this good, bad or neither?")
        judged[text] = answer.rstrip(".").lower()
        ctx.checkpoint({"classified": len(judged), "of": len(texts)})
    ctx.progress(len(texts), len(texts), "done")
    return judged


@Process
async def vectorise(ctx: ProcessContext, texts: list[str]) -> list[list[float]]:
    """The vectors of ``texts``."""
    vectors: list[list[float]] = []
    for text in texts:
        ctx.progress(len(vectors), len(texts), "embedding")
        vectors.append(await fake_llm.embed(text, model=_model(ctx), url=os.environ["STBASS_LLM_URL"]))
    ctx.progress(len(texts), len(texts), "done")
    return vectors


@Process
async def summarise(ctx: ProcessContext, texts: list[str]) -> str:
    """A summary of ``texts``."""
    return await _ask(ctx, "Summarize: " + " ".join(texts))


async def _ask(ctx: ProcessContext, prompt: str) -> str:
    return await fake_llm.complete(prompt, model=_model(ctx), url=os.environ["STBASS_LLM_URL"])


def _model(ctx: ProcessContext) -> str:
    return (ctx.placement and ctx.placement.model) or "default"
