"""Processes that fail as agents do, go on where they were, log, and count what they use."""

from __future__ import annotations

from typing import Any

from stbass.process import Process, ProcessContext


class Response:
    """As those of HTTP clients: it cannot travel."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers
        self.socket = object()


class Refused(Exception):
    """An answer with a status, as SDKs raise it."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"status {status}")
        self.status_code = status
        self.response = Response(headers or {})


class RateLimited(Refused):
    """Come back later."""


class Unauthorised(Refused):
    """Never come back."""


@Process
async def unauthorised(ctx: ProcessContext) -> None:
    """Fail with what no retry helps."""
    ctx.checkpoint(ctx.attempt)
    raise Unauthorised(401)


class GoesOn(Process):
    """Save a checkpoint and fail, until the attempt whose number is given; gives back what each found.

    Args:
        succeeds_at: that number.
        headers: of the responses that it fails with.
    """

    def __init__(self, succeeds_at: int, headers: dict[str, str] | None = None) -> None:
        self.succeeds_at = succeeds_at
        self.headers = headers

    async def run(self, ctx: ProcessContext) -> Any:
        """Fail, or say what came before."""
        found = [*(ctx.resumed_from or []), ctx.attempt]
        ctx.checkpoint(found)
        if ctx.attempt < self.succeeds_at:
            raise RateLimited(429, self.headers)
        return found
