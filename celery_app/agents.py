"""Example agents. They ask the LLM server at ``STBASS_LLM_URL``, which may be a fake one, so that they need no key.

An agent is given what it works on as arguments; where it runs, and with which model, is its placement::

    (reason("Why is the sky blue?", steps=4), Placement(model="opus", endpoint="anthropic"))
"""

from __future__ import annotations

from typing import Any

from stbass.errors import ConfigurationError
from stbass.process import Process, ProcessContext
from stbass.settings import Settings
from stbass.testing import fake_llm as llm

__all__ = ["classify", "embed", "reason", "summarize"]


@Process
async def reason(ctx: ProcessContext, prompt: str, *, steps: int = 4) -> dict[str, Any]:
    """Think in steps about ``prompt``, with a checkpoint after each; goes on where it was cut off."""
    thoughts: list[str] = list((ctx.resumed_from or {}).get("thoughts", ()))
    while len(thoughts) < steps:
        ctx.progress(len(thoughts), steps, f"step {len(thoughts) + 1}")
        thoughts.append(await llm.complete(f"{prompt} (step {len(thoughts) + 1})", model=_model(ctx), url=_url()))
        ctx.checkpoint({"step": len(thoughts), "thoughts": thoughts.copy()})
    ctx.progress(steps, steps, "done")
    return {"steps": steps, "conclusion": thoughts[-1] if thoughts else ""}


@Process
async def classify(ctx: ProcessContext, texts: list[str]) -> dict[str, str]:
    """Give each of ``texts`` a label, with a checkpoint after each. Fails on a text that is empty."""
    labels: dict[str, str] = {}
    for done, text in enumerate(texts):
        ctx.progress(done, len(texts), "classifying")
        if not text.strip():
            raise ValueError(f"text {done + 1} of {len(texts)} is empty: there is nothing to classify")
        answer = await llm.complete(f"{text} Is this good, bad or neither?", model=_model(ctx), url=_url())
        labels[text] = _label(answer)
        ctx.checkpoint({"classified": len(labels), "of": len(texts)})
    ctx.progress(len(texts), len(texts), "done")
    return labels


@Process
async def embed(ctx: ProcessContext, texts: list[str]) -> list[list[float]]:
    """The vectors of ``texts``."""
    vectors: list[list[float]] = []
    for done, text in enumerate(texts):
        ctx.progress(done, len(texts), "embedding")
        vectors.append(await llm.embed(text, model=_model(ctx), url=_url()))
        ctx.checkpoint({"embedded": len(vectors)})
    ctx.progress(len(texts), len(texts), "done")
    return vectors


@Process
async def summarize(ctx: ProcessContext, texts: list[str]) -> str:
    """A summary of ``texts``, in one go."""
    return await llm.complete("Summarize: " + " ".join(texts), model=_model(ctx), url=_url())


def _model(ctx: ProcessContext) -> str:
    return (ctx.placement.model if ctx.placement is not None else None) or "default"


def _url() -> str:
    url = Settings.from_environment().llm_url
    if url is None:
        raise ConfigurationError(
            "STBASS_LLM_URL is not set where this process runs: the example agents ask the server there;"
            " start one with python -m stbass.testing.fake_llm and set STBASS_LLM_URL=http://127.0.0.1:8080"
        )
    return url


def _label(answer: str) -> str:
    """The first label that stands in the answer."""
    words = [word.strip(".,:;!?'\"").lower() for word in answer.split()]
    return next((word for word in words if word in ("good", "bad", "neither")), "neither")
