"""Views: sync and async ones that wait for a process, and those of a run that nobody waits for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, QueryDict, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST

import stbass
from reports.agents import length, title, write
from reports.fleet import WRITERS, registry
from reports.models import Report
from stbass import Run
from stbass.result import ProcessResult


def answered(result: ProcessResult[str]) -> JsonResponse:
    """What a client is told of a result."""
    return JsonResponse(
        {"title": result.value} if result.is_ok else {"error": result.failure.summary},
        status=200 if result.is_ok else 502,
    )


def topic_in(data: QueryDict) -> str:
    """The topic that a client names."""
    topic: str = data.get("topic", "")
    if not 1 <= len(topic) <= 100:
        raise BadRequest("a topic has 1 to 100 characters")
    return topic


@require_GET
def title_now(request: HttpRequest) -> JsonResponse:
    """A sync view. A client that goes away is not noticed: the deadline is what ends its process."""
    return answered(stbass.run_sync(title(topic_in(request.GET)), placement=WRITERS, registry=registry, deadline=10.0))


@require_GET
async def answer_now(request: HttpRequest) -> JsonResponse:
    """An async view. Under ASGI it is cancelled when the client goes away, and its process with it."""
    asked = title(topic_in(request.GET), thinks=60.0 if "hard" in request.GET else 0.05)
    return answered(await stbass.run(asked, placement=WRITERS, registry=registry, deadline=60.0))


@require_POST
async def order(request: HttpRequest) -> JsonResponse:
    """Order a report. The row is there before the process that reads it, and its key is that of the run."""
    report = await Report.objects.acreate(topic=topic_in(request.POST))
    await stbass.start(write(report.pk), placement=WRITERS, registry=registry, deadline=3600.0, id=report.run_id)
    return JsonResponse({"pk": report.pk}, status=201)


@require_GET
def show(request: HttpRequest, pk: int) -> JsonResponse:
    """A report, and how long it is."""
    report = get_object_or_404(Report, pk=pk)
    counted = stbass.run_sync(length(pk), placement=WRITERS, registry=registry, deadline=10.0)
    return JsonResponse({"topic": report.topic, "text": report.text, "length": counted.value})


async def known(pk: int) -> Run[Any]:
    """The run that writes a report."""
    try:
        return await stbass.find(Report(pk=pk).run_id, registry=registry)
    except LookupError as error:
        raise Http404(str(error)) from error


@require_GET
async def follow(request: HttpRequest, pk: int) -> StreamingHttpResponse:
    """What happens in it. A browser that connects again says which event it has seen last."""
    events = (await known(pk)).events(request.headers.get("Last-Event-ID"))

    async def text() -> AsyncIterator[str]:
        try:
            async for event in events:
                yield event.as_sse()
        except ValueError as error:  # an id that never was
            yield f"event: refused\ndata: {str(error)!r}\n\n"

    return StreamingHttpResponse(text(), content_type="text/event-stream", headers={"Cache-Control": "no-store"})


@require_POST
async def stop(request: HttpRequest, pk: int) -> HttpResponse:
    """Stop it."""
    await (await known(pk)).cancel()
    return HttpResponse(status=204)
