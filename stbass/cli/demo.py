"""``stbass demo``: Redis, two workers, a fake LLM, and a PLACED_PAR of agents of which two fail."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.cli.demo_agents import judge, summarise, think, vectorise
from stbass.cli.demo_view import show_failures, show_results
from stbass.cli.exits import Exit
from stbass.observe import events
from stbass.observe.display import view_for
from stbass.par import PARResult
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.process import Process
from stbass.result import FailurePolicy
from stbass.settings import variables
from stbass.testing.fake_llm import FakeLLM
from stbass.testing.redis_server import RedisServer
from stbass.testing.worker import Worker

__all__ = ["run_demo"]

ENDPOINTS = ("anthropic", "local:8080")
_LATENCY = {"opus": 0.45, "haiku": 0.3, "nomic": 0.2, "llama": 0.8}
_REVIEWS = ["It came a day early, thanks!", "It never came.", "It is blue.", "Great, but it came late."]

_WITH_A_GAP = [*_REVIEWS[:3], "", *_REVIEWS[3:]]

AGENTS: list[tuple[Process[..., Any], Placement]] = [
    (think("Why is the sky blue?", steps=4).with_name("reason about the sky"), Placement("opus", "anthropic")),
    (
        think("What is the meaning of everything?", steps=40).with_name("reason about everything"),
        Placement("opus", "anthropic"),
    ),
    (judge(_REVIEWS).with_name("classify reviews"), Placement("haiku", "anthropic")),
    (judge(_WITH_A_GAP).with_name("classify with a gap"), Placement("haiku", "anthropic")),
    (vectorise(_REVIEWS).with_name("embed reviews"), Placement("nomic", "local:8080")),
    (summarise(_REVIEWS).with_name("summarize reviews"), Placement("llama", "local:8080")),
]
MISSES_THE_DEADLINE, FAILS = "reason about everything", "classify with a gap"


def run_demo(deadline: float) -> int:
    """Run the demo; gives back the exit code: 0 if everything came out as it should.

    Args:
        deadline: seconds that the agents get.
    """
    # Progress goes to standard error, results to standard output.
    progress, out = _console(sys.stderr), _console(sys.stdout)
    # A shell that starts it in the background has it ignore Ctrl-C, and asyncio.run would leave that as it is.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = asyncio.run(_demo(deadline, progress))
    except KeyboardInterrupt:
        progress.print("Interrupted. Everything that the demo started has ended.")
        return Exit.INTERRUPTED
    show_results(out, AGENTS, result)
    show_failures(out, AGENTS, result)
    out.print("\nEverything that the demo started has ended: two workers, Redis, the fake LLM.")
    failed = {failure.process_name for failure in result.failures}
    return Exit.OK if failed == {MISSES_THE_DEADLINE, FAILS} else Exit.FAILED


def _console(file: Any) -> Console:
    # Without a terminal there is no width to fit into.
    return Console(file=file, highlight=False, width=None if file.isatty() else 140)


async def _demo(deadline: float, progress: Console) -> PARResult:
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        llm = await stack.enter_async_context(FakeLLM(latency=_LATENCY))
        redis = await stack.enter_async_context(RedisServer())
        progress.print(f"Redis runs at {redis.url}, a fake LLM at {llm.url}. Starting two workers …")
        environment = _environment(redis.url, llm.url)
        # This very package, whatever lies in the working directory.
        beside = Path(__file__).parents[2]
        include = ["stbass.cli.demo_agents"]
        workers = [Worker("stbass.app", each, env=environment, include=include, cwd=beside) for each in ENDPOINTS]
        for worker in workers:
            stack.push_async_callback(asyncio.to_thread, worker.kill)
        await asyncio.gather(*(asyncio.to_thread(worker.start) for worker in workers))
        progress.print(f"Two workers are ready after {time.monotonic() - began:.1f} s: {', '.join(ENDPOINTS)}.")

        app = make_app("demo", broker_url=redis.url)
        backend = CeleryBackend(app)
        stack.push_async_callback(backend.aclose)
        registry = BackendRegistry()
        registry.register("anthropic", backend)
        registry.register("local:*", backend)
        progress.print(f"PLACED_PAR of {len(AGENTS)} agents, COLLECT, deadline {deadline:g} s:")
        view = view_for(progress)

        def show(event: events.Event) -> None:
            # The agents, not the composition around them; and where lines stay, not a line for every step.
            if event.placement is not None and (progress.is_terminal or event.kind != "progress"):
                view.on_event(event)

        with view, events.subscribe(show):
            return await PLACED_PAR(
                *AGENTS, on_failure=FailurePolicy.COLLECT, deadline=deadline, registry=registry
            ).run()


def _environment(redis_url: str, llm_url: str) -> dict[str, str]:
    """What the workers are set to: nothing of what this terminal happens to be set to."""
    unset = dict.fromkeys(variables(), "")
    return {
        **unset,
        "STBASS_BROKER_URL": redis_url,
        "STBASS_RESULT_BACKEND": redis_url,
        "STBASS_LLM_URL": llm_url,
    }
