"""Reports behind Flask: a short one that a request waits for, and long ones that a page follows.

    stbass worker -e reports --include examples.web.report
    gunicorn --workers 2 --threads 8 examples.flask.app:web

A web worker has nothing to open and nothing to close: each request has an event loop for as long as it needs one, and
the connections to the fleet end with that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

from flask import Flask, Response, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, NotFound

import stbass
from examples.web.report import draft
from stbass import BackendRegistry, Placement, Run
from stbass.app import app as fleet
from stbass.backends.celery import CeleryBackend
from stbass.errors import BackendUnavailableError, RunConflictError
from stbass.runs import RunEvent

WRITERS = Placement(endpoint="reports")
KEEP_ALIVE = 15.0
"""Seconds without an event after which the browser is sent a comment: only writing shows that it has gone."""

registry = BackendRegistry(strict=True)
registry.register("reports", CeleryBackend(fleet))
web = Flask(__name__)
web.config["MAX_CONTENT_LENGTH"] = 64 * 1024


@web.get("/")
def page() -> ResponseReturnValue:
    """The page."""
    return render_template("page.html")


@web.get("/drafts")
def wait() -> ResponseReturnValue:
    """A draft, for which the request waits. A client that goes away is not noticed: the deadline is what ends it."""
    result = stbass.run_sync(draft(request.args["topic"]), placement=WRITERS, registry=registry, deadline=30.0)
    return {"text": result.value} if result.is_ok else ({"error": result.failure.summary}, 502)


@web.post("/runs")
def start() -> ResponseReturnValue:
    """Start a draft that goes on whoever goes away; the same key again starts nothing."""
    starting = stbass.start(
        draft(request.form["topic"]),
        placement=WRITERS,
        registry=registry,
        deadline=3600.0,
        id=request.headers.get("Idempotency-Key"),
    )
    try:
        run = asyncio.run(starting)
    except ValueError as error:  # a key that is none
        raise BadRequest(str(error)) from error
    return {"id": run.id}, 201 if run.is_new else 200


@web.delete("/runs/<run_id>")
def cancel(run_id: str) -> ResponseReturnValue:
    """Stop it."""

    async def stop() -> None:
        await (await known(run_id)).cancel()

    asyncio.run(stop())
    return "", 204


@web.get("/runs/<run_id>/events")
def follow(run_id: str) -> Response:
    """What happens in it. A browser that connects again says which event it has seen last."""
    asyncio.run(known(run_id))  # while the status can still be 404
    lines = events(run_id, request.headers.get("Last-Event-ID"))
    return Response(lines, content_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def known(run_id: str) -> Run[str]:
    """The run of that id."""
    try:
        return await stbass.find(run_id, registry=registry)
    except (LookupError, ValueError) as error:
        raise NotFound(str(error)) from error


def events(run_id: str, after: str | None) -> Iterator[str]:
    """The events as text. The server ends this when it cannot write to the browser any more."""
    with asyncio.Runner() as runner:
        coming = following(run_id, after)
        while True:
            event = runner.get_loop().create_task(coming.__anext__())
            while not runner.run(asyncio.wait({event}, timeout=KEEP_ALIVE))[0]:
                yield ": nothing new\n\n"
            try:
                yield event.result().as_sse()
            except StopAsyncIteration:
                return
            except ValueError as error:  # an id that never was
                yield f"event: refused\ndata: {str(error)!r}\n\n"
                return


async def following(run_id: str, after: str | None) -> AsyncGenerator[RunEvent, None]:
    """The events."""
    async for event in (await known(run_id)).events(after):
        yield event


@web.errorhandler(RunConflictError)
def conflict(error: RunConflictError) -> ResponseReturnValue:
    """The key stands for another draft."""
    return {"error": str(error)}, 409


@web.errorhandler(BackendUnavailableError)
def unavailable(error: BackendUnavailableError) -> ResponseReturnValue:
    """The fleet cannot be reached."""
    web.logger.error("%s", error)
    return {"error": "try again later"}, 503
