"""A web page in front of a fleet: work is started here, and followed by any number of browsers that come and go.

    celery -A stbass.app worker -Q reports -I examples.web.report
    uvicorn examples.web.app:web

The web server keeps nothing: start it anew, or start three of it, and no reader notices.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field

import stbass
from examples.web.report import a_report
from stbass import BackendRegistry, Run
from stbass.app import app as fleet
from stbass.backends.celery import CeleryBackend
from stbass.errors import ChannelClosedError, DeadlineExceeded, RunConflictError
from stbass.runs import RunStatus

PAGE = Path(__file__).parent / "page.html"

backend = CeleryBackend(fleet, queue="reports")
registry = BackendRegistry()
registry.register("*", backend)


@asynccontextmanager
async def closing(_web: FastAPI) -> AsyncIterator[None]:
    """Close the connections at the end."""
    yield
    await backend.aclose()


web = FastAPI(title="Reports", lifespan=closing)


class Order(BaseModel):
    """What is asked for."""

    topic: str = Field(min_length=1, max_length=100)


class Answer(BaseModel):
    """What the reader says."""

    approved: bool


class State(BaseModel):
    """How far a report is."""

    id: str
    status: RunStatus
    value: Any = None
    error: str | None = None


async def known(run_id: str) -> Run[Any]:
    """The run of that id."""
    try:
        return await stbass.find(run_id, registry=registry)
    except (LookupError, ValueError) as error:
        raise HTTPException(404, str(error)) from error


@web.get("/")
async def page() -> FileResponse:
    """The page."""
    return FileResponse(PAGE)


@web.post("/runs", status_code=201)
async def start(
    order: Order, response: Response, idempotency_key: Annotated[str | None, Header(max_length=200)] = None
) -> dict[str, str]:
    """Start a report. The same key again, from a browser that did not hear the answer say, starts nothing."""
    try:
        run = await stbass.start(a_report(order.topic), registry=registry, deadline=3600, id=idempotency_key)
    except RunConflictError as error:
        raise HTTPException(409, str(error)) from error
    if not run.is_new:
        response.status_code = 200
    return {"id": run.id}


@web.get("/runs/{run_id}")
async def look(run_id: str) -> State:
    """How far it is."""
    run = await known(run_id)
    status = await run.status()
    if status.state != "ended":
        return State(id=run.id, status=status)
    result = await run.result()
    if result.is_ok:
        return State(id=run.id, status=status, value=result.value)
    return State(id=run.id, status=status, error=result.failure.summary)


@web.get("/runs/{run_id}/events")
async def follow(run_id: str, last_event_id: Annotated[str | None, Header()] = None) -> StreamingResponse:
    """What happens in it. A browser that connects again says which event it has seen last."""
    run = await known(run_id)
    first = run.events(last_event_id)

    async def text() -> AsyncIterator[str]:
        try:
            async for event in first:
                yield event.as_sse()
        except ValueError as error:
            # An id that never was: the browser begins again.
            yield f"event: refused\ndata: {str(error)!r}\n\n"

    return StreamingResponse(text(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@web.post("/runs/{run_id}/approval", status_code=204)
async def answer(run_id: str, given: Answer) -> None:
    """The reader's yes or no: it meets the process that waits for it."""
    run = await known(run_id)
    try:
        await run.send("approval", given.approved, deadline=10)
    except DeadlineExceeded as error:
        raise HTTPException(409, "the report is not there yet") from error
    except ChannelClosedError as error:
        raise HTTPException(409, str(error)) from error


@web.delete("/runs/{run_id}", status_code=204)
async def cancel(run_id: str) -> None:
    """Stop it."""
    await (await known(run_id)).cancel()
