"""Processes of a fleet behind FastAPI: ``uvicorn examples.fastapi_app:web --workers 2``.

Start workers first, with ``make dev``, and set ``STBASS_BROKER_URL`` as that says. Each worker of uvicorn has its own
connections to the fleet, opened when they are needed and closed by its lifespan. When a client goes away, its processes
are cancelled on the fleet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request

from celery_app import app
from celery_app.agents import reason
from stbass import PLACED_PAR, BackendRegistry, FailurePolicy, Placement
from stbass.backends.celery import CeleryBackend

OPUS = Placement(model="opus", endpoint="anthropic")


@asynccontextmanager
async def lifespan(web: FastAPI) -> AsyncIterator[None]:
    """One backend for all requests of this Python process; at the end its connections are closed."""
    backend = CeleryBackend(app)
    web.state.registry = BackendRegistry(strict=True)
    web.state.registry.register("anthropic", backend)
    yield
    await backend.aclose()


web = FastAPI(lifespan=lifespan)


@web.get("/reason")
async def answer(request: Request, prompt: str, steps: int = 2) -> Any:
    """Think about the prompt, for thirty seconds at most."""
    placed = PLACED_PAR(
        (reason(prompt, steps=steps), OPUS),
        on_failure=FailurePolicy.COLLECT,
        deadline=30.0,
        registry=request.app.state.registry,
    )
    running, gone = asyncio.create_task(placed.run()), asyncio.create_task(client_gone(request))
    try:
        await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise HTTPException(499, "the client has gone")
        [result] = running.result().results
        if result.is_fail:
            raise HTTPException(502, result.failure.summary)
        return result.value
    finally:
        # Cancelling it cancels what it has placed.
        for task in (running, gone):
            task.cancel()
        await asyncio.wait({running, gone})


async def client_gone(request: Request) -> None:
    """Return when nobody waits for the answer any more."""
    while (await request.receive())["type"] != "http.disconnect":
        """The rest of the request."""
